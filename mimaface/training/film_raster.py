"""The inner loops of filming, compiled by numba: light on vertices, colours of pixels, strands.

They know arrays only; `mimaface.training.film` says what they mean.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.types import Floats


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def smooth_normals(vertices: Floats, triangles: NDArray[np.int32]) -> Floats:
    """Return unit normals [V, 3] that point out of the surface, the mean of the faces around."""
    normals = np.zeros_like(vertices)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = (
            vertices[b, 0] - vertices[a, 0],
            vertices[b, 1] - vertices[a, 1],
            vertices[b, 2] - vertices[a, 2],
        )
        vx, vy, vz = (
            vertices[c, 0] - vertices[a, 0],
            vertices[c, 1] - vertices[a, 1],
            vertices[c, 2] - vertices[a, 2],
        )
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += x
            normals[corner, 1] += y
            normals[corner, 2] += z
    for v in range(vertices.shape[0]):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2) + 1e-12
        for axis in range(3):
            normals[v, axis] /= length
    return normals


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def light_vertices(
    normals: Floats,
    visible: Floats,
    towards: Floats,
    colours: Floats,
    wrap: Floats,
    first_lamp: int,
) -> tuple[Floats, Floats]:
    """Return diffuse light [V, 3] and highlights [V, 3] of vertices seen from -z.

    Args:
        normals: [V, 3].
        visible: [L, V], how much of each light reaches a vertex.
        towards: [L, 3], unit directions to the lights.
        colours: [L, 3], of the lights.
        wrap: [V, 3], how far each colour creeps round the terminator.
        first_lamp: index of the first light that makes highlights.
    """
    count, lights = normals.shape[0], towards.shape[0]
    diffuse = np.zeros((count, 3), np.float32)
    gloss = np.zeros((count, 3), np.float32)
    for light in range(lights):
        x, y, z = towards[light, 0], towards[light, 1], towards[light, 2]
        hx, hy, hz = x, y, z - np.float32(1.0)  # half way to the camera
        length = np.sqrt(hx * hx + hy * hy + hz * hz) + np.float32(1e-9)
        hx, hy, hz = hx / length, hy / length, hz / length
        for v in range(count):
            seen = visible[light, v]
            if seen < 1e-3:
                continue
            facing = normals[v, 0] * x + normals[v, 1] * y + normals[v, 2] * z
            for c in range(3):
                w = wrap[v, c]
                lit = max(facing + w, np.float32(0.0)) / ((1 + w) * (1 + w))
                diffuse[v, c] += seen * lit * colours[light, c]
            if light >= first_lamp and facing > 0:
                near = normals[v, 0] * hx + normals[v, 1] * hy + normals[v, 2] * hz
                near = max(near, np.float32(0.0))
                near = near * near
                near = near * near
                near = near * near  # 8
                wide = near
                narrow = near * near
                narrow = narrow * narrow * near  # 40
                lobe = np.float32(0.034) * wide + np.float32(0.067) * narrow
                for c in range(3):
                    gloss[v, c] += lobe * seen * facing * colours[light, c]
    return diffuse, gloss


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shade(
    picture: Floats,
    index: NDArray[np.int32],
    weights: Floats,
    triangles: NDArray[np.int32],
    uv: Floats,
    has_texture: NDArray[np.bool_],
    texture: Floats,
    paint: Floats,
    light: Floats,
    gloss: Floats,
) -> None:
    """Colour the pixels that show a surface.

    Args:
        picture: [H, W, 3], linear light, drawn into.
        index: [H, W], triangle under each pixel, -1 where there is none.
        weights: [H, W, 3], of its corners.
        triangles: [T, 3].
        uv: [T, 3, 2], texture coordinates of the corners in texels.
        has_texture: [T], whether the albedo is the texture's or the vertices' paint.
        texture: [S, S, 3], albedo.
        paint: [V, 4], albedo, and how much of it covers the texture.
        light: [V, 3].
        gloss: [V, 3], added.
    """
    side = texture.shape[0]
    for row in range(index.shape[0]):
        for column in range(index.shape[1]):
            t = index[row, column]
            if t < 0:
                continue
            u = v = np.float32(0.0)
            for corner in range(3):
                w = weights[row, column, corner]
                u += w * uv[t, corner, 0]
                v += w * uv[t, corner, 1]
            u = min(max(u - np.float32(0.5), np.float32(0.0)), np.float32(side - 1.001))
            v = min(max(v - np.float32(0.5), np.float32(0.0)), np.float32(side - 1.001))
            left, top = int(u), int(v)
            fu, fv = u - left, v - top
            for c in range(3):
                painted = covering = lit = shine = np.float32(0.0)
                for corner in range(3):
                    w = weights[row, column, corner]
                    vertex = triangles[t, corner]
                    painted += w * paint[vertex, c]
                    covering += w * paint[vertex, 3]
                    lit += w * light[vertex, c]
                    shine += w * gloss[vertex, c]
                albedo = painted
                if has_texture[t]:
                    above = texture[top, left, c] * (1 - fu) + texture[top, left + 1, c] * fu
                    below = (
                        texture[top + 1, left, c] * (1 - fu) + texture[top + 1, left + 1, c] * fu
                    )
                    skin = above * (1 - fv) + below * fv
                    albedo = skin + covering * (painted - skin)
                picture[row, column, c] = albedo * lit + shine


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def draw_lines(
    picture: Floats, depth: Floats, points: Floats, colours: Floats, width: int, clearance: float
) -> None:
    """Draw polylines with a depth buffer.

    Args:
        picture: [H, W, 3], drawn into.
        depth: [H, W], of what is drawn already; updated.
        points: [S, K, 3], pixels and depth.
        colours: [S, K, 3].
        width: of the lines in pixels.
        clearance: how deep in a surface a line is still seen.
    """
    height, across = depth.shape
    for s in range(points.shape[0]):
        for k in range(points.shape[1] - 1):
            x, y, z = points[s, k, 0], points[s, k, 1], points[s, k, 2]
            dx, dy, dz = points[s, k + 1, 0] - x, points[s, k + 1, 1] - y, points[s, k + 1, 2] - z
            steps = int(max(abs(dx), abs(dy))) + 1
            if steps > 400:
                continue
            for i in range(steps):
                share = np.float32(i) / steps
                column, row = int(x + share * dx), int(y + share * dy)
                far = z + share * dz
                for r in range(row, row + width):
                    for c in range(column, column + width):
                        if r < 0 or c < 0 or r >= height or c >= across:
                            continue
                        if far > depth[r, c] + clearance:
                            continue
                        if far < depth[r, c]:
                            depth[r, c] = far
                        for channel in range(3):
                            a, b = colours[s, k, channel], colours[s, k + 1, channel]
                            picture[r, c, channel] = a + share * (b - a)
