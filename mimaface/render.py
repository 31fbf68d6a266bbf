"""Draws a portrait as a textured mesh: the source image, moved by relative motion.

The picture is two layers. The background is still, and filled in where the person stood. The
person is one connected mesh: MediaPipe's face, with its eyes and mouth as windows onto an eyeball
and a mouth interior, and rings around it that carry hair, ears, neck and shoulders along.
`mimaface.appearance` makes the mesh from a photo; this file only moves and draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.face_mesh import (
    EYEBALL_RADIUS_PER_EYE_WIDTH,
    EYES,
    FACE_OVAL,
    Contour,
    gap,
    gaze_angles,
    nearness,
    retarget,
    rotation_matrix,
    width,
)
from mimaface.types import VERTICES, Condition, Floats, Motion, Pixels

SKIN, SURROUND, LEFT_EYE, RIGHT_EYE, MOUTH = range(5)  # kinds of triangles

CAMERA_DISTANCE: Final = 10.0  # head units from the camera to the head's origin, about 0.9 m
MOST_TURN: Final = 0.60  # rad away from the source's own pose; beyond, the texture is all guess
MOST_SHIFT: Final = 0.6  # head units away from the source's own place
SUPERSAMPLING: Final = 2  # per axis: eyelids and lips need smooth edges
JAW: Final = (152, 175, 199)  # vertices on the chin's bone
UPPER_LIP, LOWER_LIP = 13, 14  # middle of the inner lips
IRIS_RADIUS_PER_EYE_WIDTH: Final = 5.9 / 28  # an iris is 11.7 mm wide
# The tracker sees about two thirds of how far an iris moves sideways; up and down lids go along.
GAZE_GAIN: Final = (1.5, 1.0)
MOST_GAZE: Final = (0.7, 0.3)  # rad, yaw and pitch


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A texture fixed to a part of the head: an eyeball or a row of teeth.

    Attributes:
        rgba: uint8 [h, w, 4].
        left, top, per_unit: plate coordinates of the first texel, and texels per unit.
    """

    rgba: Pixels
    left: float
    top: float
    per_unit: float


@dataclass(frozen=True, kw_only=True)
class SourceMesh:
    """A portrait ready to be moved. Positions are pixels of the square avatar picture.

    Attributes:
        size_px: side of the picture.
        texture: uint8 [H', W', 4], the photo and in alpha the person's matte.
        lids: uint8 [H', W', 4], the same with the eyes closed over by skin.
        background: uint8 [size, size, 3], the photo without the person.
        seen: uint8 [size, size], 255 where the background was in the photo.
        shape: [V, 3], the neutral shape in head space.
        angles: [3] pitch, yaw, roll, origin: [2] px, scale: px per head unit: the source's own pose.
        oval: [O, 3], rest position of the face oval in camera space, relative to the origin.
        rings: [R, O, 3], the same for R rings around it.
        turning: [R, O], how far a ring point turns with the face out of the picture's plane.
        resting: [R, O], how far it stays where it was: shoulders, and what the photo's edge cuts.
        stretching: [R], how far a ring follows the expression of the oval.
        uv: [V + R O, 2], texture coordinates in texels, and texels_per_px at rest.
        triangles: [T, 3] and kinds: [T] uint8.
        lashes: [V + R O], 1 on the edge of the upper lids, 0 elsewhere.
        eyeballs: the plates in units of the eye's width around the middle of its corners.
        teeth: upper and lower row, in head units around the middle of the inner lips.
        cavity: [3] RGB of the open mouth's depth.
    """

    size_px: int
    texture: Pixels
    lids: Pixels
    background: Pixels
    seen: Pixels
    shape: Floats
    angles: Floats
    origin: NDArray[np.float64]
    scale: float
    oval: Floats
    rings: Floats
    turning: Floats
    resting: Floats
    stretching: Floats
    uv: Floats
    texels_per_px: float
    triangles: NDArray[np.int32]
    kinds: Pixels
    lashes: Floats
    eyeballs: tuple[Plate, Plate]
    teeth: tuple[Plate, Plate]
    cavity: Floats


def render(mesh: SourceMesh, motion: Motion) -> Condition:
    """Draw the portrait as relative motion [F] moves it."""
    size, samples = mesh.size_px, mesh.size_px * SUPERSAMPLING
    pixels = np.empty((len(motion), size, size, 3), np.uint8)
    coverage = np.empty((len(motion), size, size), np.uint8)
    confidence = np.empty((len(motion), size, size), np.uint8)
    for frame in range(len(motion)):
        placed = _move(mesh, motion, frame)
        scaled = placed.points * np.array([SUPERSAMPLING, SUPERSAMPLING, 1], np.float32)
        index, weights = rasterize(scaled, mesh.triangles, samples, samples)
        _shade(
            index, weights, mesh.triangles, mesh.kinds, mesh.uv, mesh.texture, mesh.lids,
            placed.closing, placed.closing * mesh.lashes,
            placed.eye_frames, placed.irises, mesh.eyeballs[0].rgba, mesh.eyeballs[1].rgba,
            placed.teeth_frames, mesh.teeth[0].rgba, mesh.teeth[1].rgba, mesh.cavity,
            mesh.background, mesh.seen, _trust(mesh, placed.points),
            pixels[frame], coverage[frame], confidence[frame],
        )  # fmt: skip
    return Condition(render=pixels, coverage=coverage, confidence=confidence)


@dataclass(frozen=True)
class _Placed:
    points: Floats  # [V + R O, 3], pixels and depth
    closing: Floats  # [V + R O], how far the eye near a vertex is shut
    eye_frames: Floats  # [2, 2, 3], pixels to texels of the eyeballs
    irises: Floats  # [2, 5]: centre at rest, shift, reach of the rigid part, in texels
    teeth_frames: Floats  # [2, 2, 3], pixels to texels of the rows of teeth


def _move(mesh: SourceMesh, motion: Motion, frame: int) -> _Placed:
    angles = mesh.angles + _limited(motion.rotation[frame], MOST_TURN)
    head_to_camera = rotation_matrix(angles)
    turn = head_to_camera @ rotation_matrix(mesh.angles).T  # in camera space
    origin = mesh.origin + mesh.scale * _limited(motion.translation[frame, :2], MOST_SHIFT)
    shape = retarget(mesh.shape, motion.expression[frame].reshape(VERTICES, 3))
    face = shape @ head_to_camera.T.astype(np.float32)

    moved = project(_move_rings(mesh, turn, face).reshape(-1, 3), origin, mesh.scale)
    still = project(mesh.rings.reshape(-1, 3), mesh.origin, mesh.scale)
    around = moved + mesh.resting.reshape(-1, 1) * (still - moved)
    points = np.concatenate([project(face, origin, mesh.scale), around])

    closing = np.zeros(len(points), np.float32)
    eye_frames, irises = np.empty((2, 2, 3), np.float32), np.empty((2, 5), np.float32)
    for side, eye in enumerate(EYES):
        shut = 1 - gap(shape, eye) / gap(mesh.shape, eye)
        closing[:VERTICES] += nearness(eye, reach=0.12) * np.clip(shut, 0, 1)
        plate = mesh.eyeballs[side]
        eye_frames[side] = _to_texels(eye_frame(points, head_to_camera, mesh.shape, mesh.scale, eye), plate)
        irises[side] = _iris(mesh, side, motion.gaze[frame, 2 * side : 2 * side + 2])

    jaw = (shape - mesh.shape)[list(JAW)].mean(axis=0)
    anchors = np.stack([mesh.shape[UPPER_LIP], mesh.shape[LOWER_LIP] + jaw])
    teeth_frames = np.empty((2, 2, 3), np.float32)
    for row, anchor in enumerate(anchors @ head_to_camera.T):
        x, y, _ = project(anchor[None], origin, mesh.scale)[0]
        axes = head_to_camera[:2, :2] * mesh.scale
        teeth_frames[row] = _to_texels(np.column_stack([axes, (x, y)]), mesh.teeth[row])
    return _Placed(points, closing, eye_frames, irises, teeth_frames)


def _move_rings(mesh: SourceMesh, turn: NDArray[np.float64], face: Floats) -> Floats:
    # Hair and skull look the same from a little to the side: away from the face only the roll
    # in the picture's plane is followed, not the turn out of it.
    roll = np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])
    rolling = cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
    rolled = mesh.rings @ rolling.T.astype(np.float32)
    turned = mesh.rings @ turn.T.astype(np.float32)
    stretched = face[list(FACE_OVAL)] - mesh.oval @ turn.T.astype(np.float32)
    return (
        rolled
        + mesh.turning[..., None] * (turned - rolled)
        + mesh.stretching[:, None, None] * stretched
    )


def project(points: NDArray[np.floating], origin: NDArray[np.float64], scale: float) -> Floats:
    """Project camera space [.., 3] to pixels and depth, in perspective around the head."""
    depth = CAMERA_DISTANCE + points[..., 2:]
    xy = origin + scale * points[..., :2] * (CAMERA_DISTANCE / depth)
    return np.concatenate([xy, depth], axis=-1).astype(np.float32)


def unproject(pixels: NDArray[np.floating], origin: NDArray[np.float64], scale: float) -> Floats:
    """Invert `project` for pixels with camera-space z in head units [.., 3]."""
    xy = (pixels[..., :2] - origin) / scale * ((CAMERA_DISTANCE + pixels[..., 2:]) / CAMERA_DISTANCE)
    return np.concatenate([xy, pixels[..., 2:]], axis=-1).astype(np.float32)


def eye_frame(
    points: Floats, head_to_camera: NDArray[np.float64], shape: Floats, scale: float, eye: Contour
) -> NDArray[np.float64]:
    """Return the map [2, 3] from eye coordinates to pixels.

    Eye coordinates are in eye widths around the middle of the corners, x towards the right one.
    """
    left, right = points[eye[0][0], :2], points[eye[0][-1], :2]
    down = head_to_camera[:2, 1] * scale * width(shape, eye)
    return np.column_stack([right - left, down, (left + right) / 2])


def _to_texels(frame: NDArray[np.float64], plate: Plate) -> NDArray[np.float64]:
    # frame maps units to pixels; invert it and go on from units to texels.
    inverse = np.linalg.inv(frame[:, :2])
    units = np.column_stack([inverse, -inverse @ frame[:, 2] - (plate.left, plate.top)])
    return units * plate.per_unit


def _iris(mesh: SourceMesh, side: int, gaze: Floats) -> NDArray[np.float64]:
    plate = mesh.eyeballs[side]
    own = gaze_angles(mesh.shape)[2 * side : 2 * side + 2]
    turned = own + np.clip(gaze * GAZE_GAIN, -np.array(MOST_GAZE), MOST_GAZE)
    shift = EYEBALL_RADIUS_PER_EYE_WIDTH * (np.sin(turned) - np.sin(own))
    centre = EYEBALL_RADIUS_PER_EYE_WIDTH * np.sin(own) - (plate.left, plate.top)
    return np.concatenate([centre, shift, [IRIS_RADIUS_PER_EYE_WIDTH]]) * plate.per_unit


def _trust(mesh: SourceMesh, points: Floats) -> Floats:
    # A triangle's texture can be trusted as far as it was not enlarged; windows are all guess.
    def area(at: Floats) -> Floats:
        a, b, c = (at[mesh.triangles[:, corner], :2] for corner in range(3))
        return np.asarray(np.cross(b - a, c - a))

    rest, now = area(mesh.uv), area(points) * mesh.texels_per_px**2
    trust = np.clip(rest * np.sign(now) / (np.abs(now) + 1e-3), 0, 1)
    return np.where(mesh.kinds <= SURROUND, trust, 0.5).astype(np.float32)


def _limited(vector: Floats, most: float) -> Floats:
    # Unchanged up to two thirds of the limit, then bent smoothly towards it.
    length, knee = float(np.linalg.norm(vector)), most * 2 / 3
    if length <= knee:
        return vector
    bent = knee + (most - knee) * np.tanh((length - knee) / (most - knee))
    return vector * np.float32(bent / length)


@njit(cache=True, nogil=True)
def _sample(image: Pixels, x: float, y: float) -> tuple[float, float, float, float]:
    """Sample uint8 [h, w, 4] bilinearly at texel coordinates (centre of the first: 0.5, 0.5)."""
    height, width = image.shape[0], image.shape[1]
    x = min(max(x - np.float32(0.5), np.float32(0)), np.float32(width - 1.001))
    y = min(max(y - np.float32(0.5), np.float32(0)), np.float32(height - 1.001))
    left, top = int(x), int(y)
    u, v = x - np.float32(left), y - np.float32(top)
    a, b = image[top, left], image[top, left + 1]
    c, d = image[top + 1, left], image[top + 1, left + 1]
    one = np.float32(1)
    wa, wb, wc, wd = (one - u) * (one - v), u * (one - v), (one - u) * v, u * v
    return (
        a[0] * wa + b[0] * wb + c[0] * wc + d[0] * wd,
        a[1] * wa + b[1] * wb + c[1] * wc + d[1] * wd,
        a[2] * wa + b[2] * wb + c[2] * wc + d[2] * wd,
        a[3] * wa + b[3] * wb + c[3] * wc + d[3] * wd,
    )


@njit(cache=True, nogil=True)
def _shade(
    index, weights, triangles, kinds, uv, texture, lids, closing, lashes,
    eye_frames, irises, left_eye, right_eye, teeth_frames, upper_teeth, lower_teeth, cavity,
    background, seen, trust, pixels, coverage, confidence,
):  # fmt: skip
    """Colour every sample by its triangle's kind, lay it over the background, average."""
    samples = index.shape[0] // pixels.shape[0]
    share = np.float32(1 / samples**2)
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            red = green = blue = covered = trusted = np.float32(0)
            for sample in range(samples * samples):
                y = row * samples + sample // samples
                x = column * samples + sample % samples
                t = index[y, x]
                if t < 0:
                    continue
                px = (np.float32(x) + np.float32(0.5)) / np.float32(samples)
                py = (np.float32(y) + np.float32(0.5)) / np.float32(samples)
                a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                wa, wb, wc = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
                kind = kinds[t]
                alpha = np.float32(1)
                if kind <= SURROUND:
                    u = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0]
                    v = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1]
                    r, g, bl, al = _sample(texture, u, v)
                    alpha = al / np.float32(255)
                    shut = wa * closing[a] + wb * closing[b] + wc * closing[c]
                    if shut > 0.02:
                        lr, lg, lb, _ = _sample(lids, u, v)
                        shut = min(shut * np.float32(1.5), np.float32(1))
                        lash = wa * lashes[a] + wb * lashes[b] + wc * lashes[c]
                        edge = max((lash - np.float32(0.6)) * np.float32(2.5), np.float32(0))
                        dark = np.float32(1) - np.float32(0.8) * edge * edge
                        r = (r + shut * (lr - r)) * dark
                        g = (g + shut * (lg - g)) * dark
                        bl = (bl + shut * (lb - bl)) * dark
                elif kind == MOUTH:
                    r, g, bl = _mouth(px, py, teeth_frames, upper_teeth, lower_teeth, cavity)
                else:
                    side = kind - LEFT_EYE
                    plate = left_eye if side == 0 else right_eye
                    r, g, bl = _eye(px, py, eye_frames[side], irises[side], plate)
                red += r * alpha
                green += g * alpha
                blue += bl * alpha
                covered += alpha
                trusted += alpha * trust[t]
            rest = np.float32(1) - covered * share
            pixels[row, column, 0] = red * share + rest * background[row, column, 0] + 0.5
            pixels[row, column, 1] = green * share + rest * background[row, column, 1] + 0.5
            pixels[row, column, 2] = blue * share + rest * background[row, column, 2] + 0.5
            coverage[row, column] = covered * share * 255
            confidence[row, column] = trusted * share * 255 + rest * seen[row, column]


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
        # Barycentric u and v are linear in x: their value at x = 0.5 and their slope.
        du, dv = (by - cy) / area, (cy - ay) / area
        for y in range(top, bottom):
            py = np.float32(y) + half
            px = np.float32(left) + half
            u = ((bx - px) * (cy - py) - (cx - px) * (by - py)) / area
            v = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) / area
            for x in range(left, right):
                w = one - u - v
                if u >= edge and v >= edge and w >= edge:
                    inverse = u * ia + v * ib + w * ic
                    if inverse > nearest[y, x]:
                        nearest[y, x] = inverse
                        index[y, x] = t
                        weights[y, x, 0] = u * ia / inverse
                        weights[y, x, 1] = v * ib / inverse
                        weights[y, x, 2] = w * ic / inverse
                u += du
                v += dv
    return index, weights
