"""The inner loops of drawing, compiled by numba: which triangle is where, and what colour.

They know arrays only; `mimaface.render` says what they mean. They release the GIL, so a frame is
drawn while other threads go on.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.types import Floats

APART = 8  # texels between samples side by side, of which there are at most two a sample at rest
LASH_POWER = 6  # that the way from the skin around to a lid's edge is raised to: a thin row
SKIN, SURROUND, LEFT_EYE, RIGHT_EYE, MOUTH = range(5)  # kinds of triangles


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def rasterize(
    points: Floats, triangles: NDArray[np.int32], height: int, width: int
) -> tuple[NDArray[np.int32], Floats]:
    """Find the nearest triangle under every pixel.

    Args:
        points: float32 [V, 3], x and y in pixels (the centre of the first pixel is 0.5, 0.5) and
            the depth, which is positive and grows away from the camera.
        triangles: int32 [T, 3], either winding.
        height: of the picture in pixels.
        width: of the picture in pixels.

    Returns:
        The triangle under each pixel [H, W], -1 where there is none, and the perspective-correct
        barycentric weights of its corners [H, W, 3].
    """
    index = np.full((height, width), np.int32(-1))
    weights = np.zeros((height, width, 3), np.float32)
    nearest = np.zeros((height, width), np.float32)  # 1 / depth
    one = np.float32(1.0)
    half = np.float32(0.5)
    edge = np.float32(-1e-4)  # a pixel on a shared edge belongs to both: no cracks
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
        cx, cy = points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0.0:
            continue
        top = max(int(np.floor(min(ay, by, cy))), 0)
        bottom = min(int(np.ceil(max(ay, by, cy))), height)
        left = max(int(np.floor(min(ax, bx, cx))), 0)
        right = min(int(np.ceil(max(ax, bx, cx))), width)
        ia, ib, ic = one / points[a, 2], one / points[b, 2], one / points[c, 2]
        # The barycentric u, v and w are linear along a row.
        du, dv = (by - cy) / area, (cy - ay) / area
        dw = -du - dv
        px = np.float32(left) + half
        for y in range(top, bottom):
            py = np.float32(y) + half
            u = ((bx - px) * (cy - py) - (cx - px) * (by - py)) / area
            v = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) / area
            first, last = np.float32(0), np.float32(right - left - 1)
            for start, slope in ((u, du), (v, dv), (one - u - v, dw)):
                if slope > 0:
                    first = max(first, (edge - start) / slope)
                elif slope < 0:
                    last = min(last, (edge - start) / slope)
                elif start < edge:
                    last = -one
            if not first <= last:
                continue
            # Of a triangle without width the bounds may be no numbers.
            after = min(int(np.floor(last)), right - left - 1) + 1
            for column in range(max(int(np.ceil(first)), 0), after):
                x, along = left + column, np.float32(column)
                uu, vv = u + du * along, v + dv * along
                ww = one - uu - vv
                inverse = uu * ia + vv * ib + ww * ic
                if inverse > nearest[y, x]:
                    nearest[y, x] = inverse
                    index[y, x] = t
                    depth = one / inverse
                    weights[y, x, 0] = uu * ia * depth
                    weights[y, x, 1] = vv * ib * depth
                    weights[y, x, 2] = ww * ic * depth
    return index, weights


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def look_up(index, weights, triangles, uv):
    """Return the texture coordinates of every sample, as `cv2.remap` counts them."""
    where = np.zeros((*index.shape, 2), np.float32)
    half = np.float32(0.5)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            t = index[y, x]
            if t >= 0:
                a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                wa, wb, wc = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
                where[y, x, 0] = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0] - half
                where[y, x, 1] = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1] - half
    return where


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def compose(
    index, weights, triangles, kinds, px_per_sample, person, where, skin, bare, lashes,
    eye_frames, irises, left_eye, right_eye, mouth_frames, upper_mouth, lower_mouth, cavity,
    mouth_light, background,
):  # fmt: skip
    """Lay the person, with skin, eyes and mouth as they are now, over the background.

    Returns:
        The picture uint8 [H, W, 3] and how much of it is the person [H, W].
    """
    one, half, full = np.float32(1), np.float32(0.5), np.float32(255)
    pixels = np.empty((*index.shape, 3), np.uint8)
    coverage = np.empty(index.shape, np.uint8)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            t = index[y, x]
            if t < 0:
                for channel in range(3):
                    pixels[y, x, channel] = background[y, x, channel]
                coverage[y, x] = 0
                continue
            kind, alpha = kinds[t], one
            if kind <= SURROUND:
                r, g, b = (
                    np.float32(person[y, x, 0]),
                    np.float32(person[y, x, 1]),
                    np.float32(person[y, x, 2]),
                )
                alpha = np.float32(person[y, x, 3]) / full
            else:
                px = (np.float32(x) + half) * px_per_sample
                py = (np.float32(y) + half) * px_per_sample
                if kind == MOUTH:
                    r, g, b = _mouth(px, py, mouth_frames, upper_mouth, lower_mouth, cavity)
                    r, g, b = r * mouth_light, g * mouth_light, b * mouth_light
                elif kind == LEFT_EYE:
                    r, g, b = _eye(px, py, eye_frames[0], irises[0], left_eye)
                else:
                    r, g, b = _eye(px, py, eye_frames[1], irises[1], right_eye)
            if kind != MOUTH:
                i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                if bare[i] + bare[j] + bare[k] > np.float32(0.02):
                    wi, wj, wk = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
                    shut = wi * bare[i] + wj * bare[j] + wk * bare[k]
                    # Skin takes over early; the slit between the lids, where lashes meet, late.
                    if kind <= SURROUND:
                        share = min(shut * np.float32(1.5), one)
                    else:
                        share = min(max(np.float32(4) * shut - np.float32(3), np.float32(0)), one)
                    lash = wi * lashes[i] + wj * lashes[j] + wk * lashes[k]
                    dark = one - np.float32(0.8) * lash**LASH_POWER
                    u, v = where[y, x, 0] + half, where[y, x, 1] + half
                    skin_r, skin_g, skin_b, skin_alpha = _sample(skin, u, v)
                    r += share * (skin_r * dark - r)
                    g += share * (skin_g * dark - g)
                    b += share * (skin_b * dark - b)
                    alpha += share * (skin_alpha / full - alpha)
            rest = one - alpha
            pixels[y, x, 0] = r * alpha + rest * np.float32(background[y, x, 0]) + half
            pixels[y, x, 1] = g * alpha + rest * np.float32(background[y, x, 1]) + half
            pixels[y, x, 2] = b * alpha + rest * np.float32(background[y, x, 2]) + half
            coverage[y, x] = alpha * full
    return pixels, coverage


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def soften(pixels, coverage, index, kinds, where, box):
    """Mix what lies along edges, where a sample is either side's alone.

    They are those of eyes and mouth, and where the face hides what is behind it.

    Args:
        pixels: uint8 [H, W, 3], changed in place.
        coverage: uint8 [H, W], how much of each is the person; changed in place.
        index: [H, W], the triangle under each.
        kinds: [T], of the triangles.
        where: [H, W, 2], in the texture.
        box: left, top, right and bottom of where to look, at least a sample inside the picture.
    """
    left, top, right, bottom = box
    around = slice(top - 1, bottom + 1), slice(left - 1, right + 1)
    hard, covered = pixels[around].copy(), coverage[around].copy()
    is_edge = _edges(index[around], kinds, where[around])
    for y in range(top, bottom):
        for x in range(left, right):
            if not is_edge[y - top + 1, x - left + 1]:
                continue
            r = g = b = a = np.int32(8)
            for row in range(3):
                for column in range(3):
                    weight = (2 - abs(row - 1)) * (2 - abs(column - 1))
                    i, j = y - top + row, x - left + column
                    r += weight * np.int32(hard[i, j, 0])
                    g += weight * np.int32(hard[i, j, 1])
                    b += weight * np.int32(hard[i, j, 2])
                    a += weight * np.int32(covered[i, j])
            pixels[y, x, 0], pixels[y, x, 1], pixels[y, x, 2] = r // 16, g // 16, b // 16
            coverage[y, x] = a // 16


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _edges(index, kinds, where):
    """Return where a sample and one beside it show what does not lie together, [H, W]."""
    height, width = index.shape
    edges = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            for row, column in ((y, x + 1), (y + 1, x)):
                if row == height or column == width or index[y, x] == index[row, column]:
                    continue
                if _is_apart(index, kinds, where, y, x, row, column):
                    edges[y, x] = edges[row, column] = True
    return edges


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _is_apart(index, kinds, where, y, x, row, column):
    """Return whether two samples in different triangles show what does not lie together."""
    one, other = index[y, x], index[row, column]
    if (one >= 0 and kinds[one] > SURROUND) != (other >= 0 and kinds[other] > SURROUND):
        return True
    across = abs(where[row, column, 0] - where[y, x, 0])
    return across + abs(where[row, column, 1] - where[y, x, 1]) > APART


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _eye(px, py, frame, iris, plate):
    """Look up the eyeball: the iris moves as a whole, the white around it stretches."""
    x = frame[0, 0] * px + frame[0, 1] * py + frame[0, 2]
    y = frame[1, 0] * px + frame[1, 1] * py + frame[1, 2]
    dx, dy = x - iris[0] - iris[2], y - iris[1] - iris[3]
    reach = np.sqrt(dx * dx + dy * dy) / iris[4]
    # All of the shift up to the iris' rim, none from 2.6 radii on: never steep enough to fold.
    share = min(max((np.float32(2.6) - reach) / np.float32(1.5), np.float32(0)), np.float32(1))
    r, g, b, _ = _sample(plate, x - share * iris[2], y - share * iris[3])
    return r, g, b


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _mouth(px, py, frames, upper, lower, cavity):
    """Look up the inside of the mouth: lower teeth before the cavity, upper before both."""
    r, g, b = cavity[0], cavity[1], cavity[2]
    for row in (1, 0):
        frame = frames[row]
        x = frame[0, 0] * px + frame[0, 1] * py + frame[0, 2]
        y = frame[1, 0] * px + frame[1, 1] * py + frame[1, 2]
        tr, tg, tb, ta = _sample(upper if row == 0 else lower, x, y)
        ta /= np.float32(255)
        r, g, b = r + ta * (tr - r), g + ta * (tg - g), b + ta * (tb - b)
    return r, g, b


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _sample(image, x, y):
    """Sample uint8 [h, w, 4] bilinearly at texel coordinates (centre of the first: 0.5, 0.5)."""
    height, width = image.shape[0], image.shape[1]
    x = min(max(x - np.float32(0.5), np.float32(0)), np.float32(width - 1.001))
    y = min(max(y - np.float32(0.5), np.float32(0)), np.float32(height - 1.001))
    left, top = int(x), int(y)
    u, v = x - np.float32(left), y - np.float32(top)
    one = np.float32(1)
    wa, wb, wc, wd = (one - u) * (one - v), u * (one - v), (one - u) * v, u * v
    right, below = left + 1, top + 1
    r = g = b = a = np.float32(0)
    for row, column, weight in (
        (top, left, wa),
        (top, right, wb),
        (below, left, wc),
        (below, right, wd),
    ):
        r += weight * np.float32(image[row, column, 0])
        g += weight * np.float32(image[row, column, 1])
        b += weight * np.float32(image[row, column, 2])
        a += weight * np.float32(image[row, column, 3])
    return r, g, b, a


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def paint(index, weights, triangles, colours):
    """Fill triangles with the colours [V, 3] of their corners, float32 [H, W, 3], 0 elsewhere."""
    picture = np.zeros((*index.shape, 3), np.float32)
    for y in range(index.shape[0]):
        for x in range(index.shape[1]):
            t = index[y, x]
            if t >= 0:
                for corner in range(3):
                    vertex, weight = triangles[t, corner], weights[y, x, corner]
                    for channel in range(3):
                        picture[y, x, channel] += weight * colours[vertex, channel]
    return picture


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def blend(shape, basis, strengths):
    """Add to a shape [V, 3] its displacements [V, 3, E] at their strengths [E].

    A product of matrices, in a thread of its caller: BLAS would wake its own for it.
    """
    blended = np.empty_like(shape)
    for v in range(shape.shape[0]):
        for axis in range(3):
            moved = shape[v, axis]
            for e in range(strengths.shape[0]):
                moved += basis[v, axis, e] * strengths[e]
            blended[v, axis] = moved
    return blended


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def turn(rows, rotation, shift):
    """Return rows [V, 3] times a rotation [3, 3], shifted [3]."""
    turned = np.empty_like(rows)
    for v in range(rows.shape[0]):
        x, y, z = rows[v, 0], rows[v, 1], rows[v, 2]
        for axis in range(3):
            along = x * rotation[0, axis] + y * rotation[1, axis] + z * rotation[2, axis]
            turned[v, axis] = along + shift[axis]
    return turned


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def vertex_normals(points, triangles, neighbours):
    """Return unit normals [V, 3], each the mean of its triangles' weighted by their areas.

    Args:
        points: float32 [V, 3].
        triangles: int32 [T, 3].
        neighbours: int32 [V, 8], the triangles around each vertex; T where there are fewer.
    """
    count = triangles.shape[0]
    faces = np.zeros((count + 1, 3), np.float32)
    for t in range(count):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, vx = points[a, 0] - points[b, 0], points[b, 0] - points[c, 0]
        uy, vy = points[a, 1] - points[b, 1], points[b, 1] - points[c, 1]
        uz, vz = points[a, 2] - points[b, 2], points[b, 2] - points[c, 2]
        faces[t, 0] = uy * vz - uz * vy
        faces[t, 1] = uz * vx - ux * vz
        faces[t, 2] = ux * vy - uy * vx
    normals = np.empty_like(points)
    for v in range(points.shape[0]):
        x = y = z = np.float32(0)
        for n in range(neighbours.shape[1]):
            t = neighbours[v, n]
            x += faces[t, 0]
            y += faces[t, 1]
            z += faces[t, 2]
        length = max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
        normals[v, 0], normals[v, 1], normals[v, 2] = x / length, y / length, z / length
    return normals


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def illuminate(colours, normals, bands):
    """Return colours [V, 3] in the light of nine bands [9, 3] of spherical harmonics.

    The bands are the factors of 1, y, z, x, xy, yz, 3 z^2 - 1, xz and x^2 - y^2 of the normal.
    """
    lit = np.empty_like(colours)
    one, three = np.float32(1), np.float32(3)
    for v in range(colours.shape[0]):
        x, y, z = normals[v, 0], normals[v, 1], normals[v, 2]
        for channel in range(3):
            light = bands[0, channel]
            light += bands[1, channel] * y + bands[2, channel] * z + bands[3, channel] * x
            light += bands[4, channel] * x * y + bands[5, channel] * y * z
            light += bands[6, channel] * (three * z * z - one) + bands[7, channel] * x * z
            light += bands[8, channel] * (x * x - y * y)
            lit[v, channel] = colours[v, channel] * light
    return lit
