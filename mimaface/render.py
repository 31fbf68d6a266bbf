"""Draws a portrait as a textured mesh: the source image, moved by relative motion.

The picture is two layers. The background is still, and filled in where the person stood. The
person is one connected mesh: MediaPipe's face, with its eyes and mouth as windows onto an eyeball
and a mouth interior, and rings around it that carry hair, ears, neck and shoulders along.
`mimaface.appearance` makes the mesh from a photo; this file only moves and draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.face_mesh import (
    EYEBALL_RADIUS_PER_EYE_WIDTH,
    EYES,
    FACE_OVAL,
    INNER_LIPS,
    LOWER_LIDS,
    UPPER_LIDS,
    Contour,
    gap,
    gaze_angles,
    nearness,
    retarget,
    rims,
    rotation_matrix,
    width,
)
from mimaface.raster import LASH_POWER, compose, look_up, rasterize, soften
from mimaface.types import VERTICES, ClipRequest, Floats, MeshRender, Motion, Pixels, Reals

# Head units from the camera to the head's origin. Landmarks are orthographic: so far away that the
# difference cannot be seen, the head moves as they do.
CAMERA_DISTANCE: Final = 100.0
MOST_TURN: Final = 0.60  # rad away from the source's own pose; beyond, the texture is all guess
MOST_SHIFT: Final = 0.6  # head units away from the source's own place
MOST_ZOOM: Final = 0.25  # natural logarithm of the head's size over the source's own
MOST_PX: Final = 1e6  # away from the picture's corner, of any point of a mesh
# A photo saw the sides of a face at a grazing angle. A turn widens what it shows of them, but to
# this many times at most, and from the first of them on painted skin takes over.
WIDENED: Final = (1.2, 2.0)
RIM: Final = 0.012  # head units across, or down, of what has no width in the photo
LEANING: Final = 0.35  # share of the head's shift that the shoulders go along with
JAW: Final = (152, 175, 199)  # vertices on the chin's bone
UPPER_LIP, LOWER_LIP = 13, 14  # middle of the inner lips
MOST_LOWER_TEETH: Final = 0.04  # head units that a lip bares: chins follow their bone but in part
MOUTH_SHADE: Final = 0.55  # share of the light that does not reach teeth behind lips that just part
MOUTH_LIT: Final = 0.1  # head units of opening over which all but a third of it comes back
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
        texture: uint8 [H', W', 4], the person's own colours (`paint_person`) and in alpha how much
            of each texel they are.
        skin: uint8 [H', W', 4], the same with skin over the eyes and along the rim of the face.
        background: uint8 [S, S, 3], the photo without the person, S = `samples_px(size_px)`.
        shape: [V, 3], the neutral shape in head space, and its proportions [V, 3].
        angles: [3] pitch, yaw and roll of the source's own pose, with origin: [2] px and scale:
            px per head unit.
        oval: [O, 3], rest position of the face oval in camera space, relative to the origin.
        rings: [R, O, 3], the same for R rings around it.
        turning: [R, O], how far a ring point turns with the face out of the picture's plane.
        resting: [R, O], how far it does not follow the head: shoulders.
        held: [R, O], how far it does not move at all: where the photo's edge cuts the person.
        stretching: [R], how far a ring follows the expression of the oval.
        uv: [V + R O, 2], texture coordinates in texels.
        triangles: [T, 3] and kinds: [T] uint8.
        eyeballs: the plates in units of the eye's width around the middle of its corners.
        mouth: upper teeth and the lower mouth, in head units around the middle of each lip.
        cavity: [3] RGB of the open mouth's depth.
        mouth_light: what share of the light reaches what these show (`mouth_light`).
    """

    size_px: int
    texture: Pixels
    skin: Pixels
    background: Pixels
    shape: Floats
    proportions: Floats
    angles: Floats
    origin: NDArray[np.float64]
    scale: float
    oval: Floats
    rings: Floats
    turning: Floats
    resting: Floats
    held: Floats
    stretching: Floats
    uv: Floats
    triangles: NDArray[np.int32]
    kinds: Pixels
    eyeballs: tuple[Plate, Plate]
    mouth: tuple[Plate, Plate]
    cavity: Floats
    mouth_light: float

    # What moves only from portrait to portrait, so that no frame has to find it again.

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        """The source's own pose, [3, 3]."""
        return rotation_matrix(self.angles)

    @cached_property
    def still_rings(self) -> Floats:
        """The rings where the photo has them: [R O, 3], pixels and depth."""
        return project(self.rings.reshape(-1, 3), self.origin, self.scale)

    @cached_property
    def openings(self) -> tuple[float, float]:
        """How far the eyes stand open."""
        left, right = (gap(self.shape, eye) for eye in EYES)
        return left, right

    @cached_property
    def gaze(self) -> Floats:
        """Where the source looks (`gaze_angles`)."""
        return gaze_angles(self.shape)


def render(mesh: SourceMesh, motion: Motion) -> MeshRender:
    """Draw the portrait as relative motion [F] moves it."""
    size, samples = mesh.size_px, samples_px(mesh.size_px)
    pixels = np.empty((len(motion), size, size, 3), np.uint8)
    coverage = np.empty((len(motion), size, size), np.uint8)
    landmarks = np.empty((len(motion), VERTICES, 2), np.float32)
    for frame in range(len(motion)):
        placed = _move(mesh, motion, frame)
        landmarks[frame] = placed.points[:VERTICES, :2]
        scaled = placed.points * np.array([samples / size, samples / size, 1], np.float32)
        index, weights = rasterize(scaled, mesh.triangles, samples, samples)
        where = look_up(index, weights, mesh.triangles, mesh.uv)
        person = cv2.remap(mesh.texture, where, None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
        picture, covered = compose(
            index, weights, mesh.triangles, mesh.kinds, np.float32(size / samples),
            person, where, mesh.skin, placed.bare, placed.lashes,
            placed.eye_frames, placed.irises, mesh.eyeballs[0].rgba, mesh.eyeballs[1].rgba,
            placed.mouth_frames, mesh.mouth[0].rgba, mesh.mouth[1].rgba, mesh.cavity,
            placed.mouth_light, mesh.background,
        )  # fmt: skip
        if samples == size:  # else the samples around each pixel are mixed below
            head = VERTICES + len(FACE_OVAL) * np.count_nonzero(mesh.stretching)
            box = _around(scaled[:head, :2], samples)
            soften(picture, covered, index, mesh.kinds, where, box)
        cv2.resize(picture, (size, size), dst=pixels[frame], interpolation=cv2.INTER_LINEAR)
        cv2.resize(covered, (size, size), dst=coverage[frame], interpolation=cv2.INTER_LINEAR)
    return MeshRender(mesh=mesh, pixels=pixels, coverage=coverage, landmarks=landmarks)


def drawn(request: ClipRequest) -> MeshRender:
    """Return the mesh as a request moves it: what was drawn ahead, or drawn now."""
    return request.moved or render(request.appearance.mesh, request.motion)


def place_landmarks(mesh: SourceMesh, motion: Motion) -> Floats:
    """Return the portrait's landmarks [F, V, 2], in pixels, as relative motion moves it."""
    return np.stack(
        [_move(mesh, motion, frame).points[:VERTICES, :2] for frame in range(len(motion))]
    )


def samples_px(size_px: int) -> int:
    """Return the side of the grid a picture is sampled on: edges of lids and lips need 384."""
    return max(size_px, 384)


@dataclass(frozen=True)
class _Placed:
    points: Floats  # [V + R O, 3], pixels and depth
    bare: Floats  # [V + R O], how far painted skin shows: shut lids, a rim turned into view
    lashes: Floats  # [V + R O], root of how dark they make it, which thins their row
    eye_frames: Floats  # [2, 2, 3], pixels to texels of the eyeballs
    irises: Floats  # [2, 5]: centre at rest, shift, reach of the rigid part, in texels
    mouth_frames: Floats  # [2, 2, 3], pixels to texels of the mouth's plates
    mouth_light: np.float32  # over that of what they show


def _move(mesh: SourceMesh, motion: Motion, frame: int) -> _Placed:
    angles = mesh.angles + _limited(motion.rotation[frame], MOST_TURN)
    head_to_camera = rotation_matrix(angles)
    turn = head_to_camera @ mesh.rotation.T  # in camera space
    origin = mesh.origin + mesh.scale * _limited(motion.translation[frame, :2], MOST_SHIFT)
    scale = mesh.scale * float(np.exp(_limited(motion.translation[frame, 2:], MOST_ZOOM)[0]))
    shape = retarget(mesh.shape, mesh.proportions, motion.expression[frame].reshape(VERTICES, 3))
    face = shape @ head_to_camera.T.astype(np.float32)
    rolling = _roll(turn)
    rest = mesh.shape @ (rolling @ mesh.rotation).T.astype(np.float32)
    widened = _hold_rim(face, rest)

    moved = project(_move_rings(mesh, turn, rolling, face).reshape(-1, 3), origin, scale)
    leaning = (1 - mesh.held.reshape(-1, 1)) * LEANING * (origin - mesh.origin)
    still = mesh.still_rings.copy()
    still[:, :2] += leaning.astype(np.float32)
    around = moved + mesh.resting.reshape(-1, 1) * (still - moved)
    points = np.concatenate([project(face, origin, scale), around])
    if not (np.abs(points) < MOST_PX).all() or not np.isfinite(motion.gaze[frame]).all():
        raise ValueError("the motion, or the portrait's mesh, leads too far away, or to no numbers")

    bare = np.zeros(len(points), np.float32)
    bare[rims()[:2]] = np.clip((widened - WIDENED[0]) / (WIDENED[1] - WIDENED[0]), 0, 1)
    eye_frames, irises = np.empty((2, 2, 3), np.float32), np.empty((2, 5), np.float32)
    for side, eye in enumerate(EYES):
        shut = 1 - gap(shape, eye) / mesh.openings[side]
        bare[:VERTICES] += nearness(eye, reach=0.12) * min(max(shut, 0.0), 1.0)
        plate = mesh.eyeballs[side]
        eye_frames[side] = _to_texels(
            eye_frame(points, head_to_camera, mesh.shape, scale, eye), plate
        )
        irises[side] = _iris(mesh, side, motion.gaze[frame, 2 * side : 2 * side + 2])

    # Lashes line an upper lid as soon as it comes down, a lower one when they meet.
    lashes = np.zeros(len(points), np.float32)
    lashes[UPPER_LIDS] = np.clip(1.5 * bare[UPPER_LIDS], 0, 1) ** (1 / LASH_POWER)
    lashes[LOWER_LIDS] = np.clip(4 * bare[LOWER_LIDS] - 3, 0, 1) ** (1 / LASH_POWER)

    mouth_frames = np.empty((2, 2, 3), np.float32)
    for row, anchor in enumerate(mouth_anchors(mesh.shape, shape)):
        placed = mouth_frame(anchor, head_to_camera, origin, scale)
        mouth_frames[row] = _to_texels(placed, mesh.mouth[row])
    light = min(mouth_light(shape) / mesh.mouth_light, 1.0)  # what no light reached has no more
    return _Placed(points, bare, lashes, eye_frames, irises, mouth_frames, np.float32(light))


def _hold_rim(face: Floats, rest: Floats) -> Floats:
    """Keep the rim of a face [V, 3], in place, near what lies inside it, as WIDENED says.

    Args:
        face: in camera space.
        rest: [V, 3], the same as the photo has it, but for the roll.

    Returns:
        By what factor [2, O] the skin at the two outer `rims` would have been widened.
    """
    factors = np.empty(rims()[:2].shape, np.float32)
    for loop in (1, 0):
        outer, inner = rims()[loop : loop + 2]
        out, seen = ((each[outer] - each[inner])[:, :2] for each in (face, rest))
        factors[loop] = _length(out) / np.maximum(_length(seen), RIM)
        most = WIDENED[1] * np.maximum(np.abs(seen), RIM)
        face[outer, :2] = face[inner, :2] + np.clip(out, -most, most)
    return factors


def _length(vectors: Floats) -> Floats:
    length: Floats = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    return length


def _roll(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    # The part of a rotation that lies in the picture's plane.
    roll = np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])
    return cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]


def _move_rings(
    mesh: SourceMesh, turn: NDArray[np.float64], rolling: NDArray[np.float64], face: Floats
) -> Floats:
    # Away from the head the turn out of the picture's plane fades, the roll in it does not.
    rolled = mesh.rings @ rolling.T.astype(np.float32)
    turned = mesh.rings @ turn.T.astype(np.float32)
    stretched = face[list(FACE_OVAL)] - mesh.oval @ turn.T.astype(np.float32)
    return (
        rolled
        + mesh.turning[..., None] * (turned - rolled)
        + mesh.stretching[:, None, None] * stretched
    )


def project(points: Reals, origin: NDArray[np.float64], scale: float) -> Floats:
    """Project camera space [.., 3] to pixels and depth, in perspective around the head."""
    projected = np.empty(points.shape, np.float32)
    depth = CAMERA_DISTANCE + points[..., 2:]
    projected[..., :2] = origin + scale * points[..., :2] * (CAMERA_DISTANCE / depth)
    projected[..., 2:] = depth
    return projected


def unproject(pixels: Reals, origin: NDArray[np.float64], scale: float) -> Floats:
    """Invert `project` for pixels with camera-space z in head units [.., 3]."""
    xy = (
        (pixels[..., :2] - origin) / scale * ((CAMERA_DISTANCE + pixels[..., 2:]) / CAMERA_DISTANCE)
    )
    return np.concatenate([xy, pixels[..., 2:]], axis=-1).astype(np.float32)


def eye_frame(
    points: Floats, head_to_camera: NDArray[np.float64], shape: Floats, scale: float, eye: Contour
) -> NDArray[np.float64]:
    """Return the map [2, 3] from eye coordinates to pixels.

    Eye coordinates are in eye widths around the middle of the corners, x towards the right one.
    """
    left, right = points[eye[0][0], :2], points[eye[0][-1], :2]
    down = head_to_camera[:2, 1] * scale * width(shape, eye)
    return np.array([right - left, down, (left + right) / 2]).T


def mouth_anchors(neutral: Floats, shape: Floats) -> tuple[Floats, Floats]:
    """Return where the upper teeth and the lower mouth hang in head space, [3] each.

    Args:
        neutral: [V, 3], the face's shape with its lips shut.
        shape: [V, 3], its shape now.
    """
    jaw = neutral[LOWER_LIP] + (shape - neutral)[list(JAW)].mean(axis=0)
    jaw[1] = max(jaw[1], shape[LOWER_LIP, 1] - MOST_LOWER_TEETH)
    return neutral[UPPER_LIP], jaw


def mouth_light(shape: Floats) -> float:
    """Return the share of the light that reaches teeth between the lips of a shape [V, 3]."""
    return 1 - MOUTH_SHADE * float(np.exp(-gap(shape, INNER_LIPS) / MOUTH_LIT))


def mouth_frame(
    anchor: Reals, head_to_camera: NDArray[np.float64], origin: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    """Return the map [2, 3] from mouth coordinates, head units around a lip's middle, to pixels."""
    frame = np.empty((2, 3))
    frame[:, :2] = head_to_camera[:2, :2] * scale
    frame[:, 2] = project(head_to_camera @ anchor, origin, scale)[:2]
    return frame


def _to_texels(frame: NDArray[np.float64], plate: Plate) -> NDArray[np.float64]:
    # frame maps units to pixels; invert it and go on from units to texels. Two by two by hand:
    # LAPACK would wake its threads for it.
    (a, b, x), (c, d, y) = frame.tolist()
    per_unit, area = plate.per_unit, a * d - b * c
    if area == 0:
        raise ValueError("the motion, or the portrait's mesh, leaves an eye or the mouth no width")
    inverse = [[d / area, -b / area], [-c / area, a / area]]
    shifts = [-row[0] * x - row[1] * y for row in inverse]
    return per_unit * np.array(
        [[*inverse[0], shifts[0] - plate.left], [*inverse[1], shifts[1] - plate.top]]
    )


def _iris(mesh: SourceMesh, side: int, gaze: Floats) -> NDArray[np.float64]:
    plate, radius = mesh.eyeballs[side], EYEBALL_RADIUS_PER_EYE_WIDTH
    at_rest, shift = [], []
    for axis in range(2):
        own, most = float(mesh.gaze[2 * side + axis]), MOST_GAZE[axis]
        turned = own + min(max(GAZE_GAIN[axis] * float(gaze[axis]), -most), most)
        at_rest.append(radius * math.sin(own))
        shift.append(radius * (math.sin(turned) - math.sin(own)))
    centre = at_rest[0] - plate.left, at_rest[1] - plate.top
    return plate.per_unit * np.array([*centre, *shift, IRIS_RADIUS_PER_EYE_WIDTH])


def _around(points: Floats, samples: int) -> tuple[int, int, int, int]:
    # Left, top, right and bottom of points [.., 2], inside the picture by a sample.
    low = np.clip(np.floor(points.min(axis=0)) - 1, 1, samples - 1).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, 1, samples - 1).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _limited(vector: Floats, most: float) -> Floats:
    # Unchanged up to two thirds of the limit, then bent smoothly towards it.
    length, knee = float(np.linalg.norm(vector)), most * 2 / 3
    if length <= knee:
        return vector
    bent = knee + (most - knee) * np.tanh((length - knee) / (most - knee))
    return vector * np.float32(bent / length)
