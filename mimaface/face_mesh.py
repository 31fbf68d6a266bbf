"""The canonical face: its geometry, the pose of a face against it, and retargeting.

Head space has its origin midway between the tragi (where a head turns), x right in the picture,
y down and z away from the camera, in head units. It knows landmarks and shapes, not pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.types import VERTICES, Floats, Reals

Contour = tuple[tuple[int, ...], tuple[int, ...]]  # upper and lower edge

# Contours in MediaPipe's numbering; "left" and "right" are the picture's, not the person's.
FACE_OVAL: Final = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# From the left corner to the right one, both corners included, upper and lower pair by pair.
LEFT_EYE: Final = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
    (33, 7, 163, 144, 145, 153, 154, 155, 133),
)
RIGHT_EYE: Final = (
    (362, 398, 384, 385, 386, 387, 388, 466, 263),
    (362, 382, 381, 380, 374, 373, 390, 249, 263),
)
INNER_LIPS: Final = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
OUTER_LIPS: Final = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
)
EYES: Final = (LEFT_EYE, RIGHT_EYE)
UPPER_LIDS, LOWER_LIDS = (
    np.array([*LEFT_EYE[edge][1:-1], *RIGHT_EYE[edge][1:-1]]) for edge in range(2)
)
UPPER_INNER_LIP, LOWER_INNER_LIP = (np.array(edge) for edge in INNER_LIPS)
UPPER_OUTER_LIP, LOWER_OUTER_LIP = (np.array(edge) for edge in OUTER_LIPS)
FEATURES: Final = np.unique(np.concatenate([np.ravel(each) for each in (*EYES, OUTER_LIPS)]))
IRISES: Final = (468, 473)  # centres; the four points that follow lie on the rim
RIGHT_TRAGUS, FOREHEAD, NOSE_TIP, NOSE_BASE, CHIN = 454, 10, 1, 2, 152

# An eyeball's radius is about 12 mm, the opening between the corners about 28 mm wide.
EYEBALL_RADIUS_PER_EYE_WIDTH: Final = 12 / 28


@dataclass(frozen=True)
class CanonicalFace:
    """The mean neutral face in MediaPipe's layout, made by `mimaface.training.synthetic`.

    Attributes:
        vertices: [V, 3] in head space, head units.
        triangles: [852, 3]; the eyes and the mouth are holes.
        rigidity: [V], weight of each vertex in the pose fit: 1 on bone, 0 where muscles move.
        expressions: displacement [V, 3] of each FACS shape at full strength, by its name.
    """

    vertices: Floats
    triangles: NDArray[np.int32]
    rigidity: Floats
    expressions: Mapping[str, Floats]


@cache
def canonical_face() -> CanonicalFace:
    """Load the canonical face."""
    with (files("mimaface") / "assets" / "canonical_face.npz").open("rb") as file:
        stored = np.load(file)
        vertices, triangles = stored["vertices"], stored["triangles"]
        names, shapes = stored["expression_names"], stored["expression_basis"]
    most = np.linalg.norm(shapes, axis=2).max(axis=0)
    rigidity = np.clip(1 - most / 0.12, 0.0, 1.0) ** 2
    rigidity[468:] = 0.0
    expressions = {str(name): shape for name, shape in zip(names, shapes, strict=True)}
    return CanonicalFace(vertices, triangles, rigidity.astype(np.float32), expressions)


@dataclass(frozen=True)
class Pose:
    """Where a head is: camera point = scale * (rotation @ head point) + origin."""

    rotation: NDArray[np.float64]
    origin: NDArray[np.float64]
    scale: float


def fit_pose(points: Reals) -> Pose:
    """Fit the canonical face rigidly to landmarks [V, 3] of equal units on all axes.

    Weighted least squares with scale over the vertices that expression does not move
    (S. Umeyama, Least-squares estimation of transformation parameters, TPAMI 1991).
    """
    weights, mean_from, weighted, spread = _rigid_face()
    mean_to = weights @ points
    u, singular, vt = np.linalg.svd(points.T @ weighted)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = float((singular * signs).sum() / spread)
    return Pose(rotation, mean_to - scale * rotation @ mean_from, scale)


@cache
def _rigid_face() -> tuple[Floats, Floats, Floats, float]:
    # Weights of the vertices [V], the vertices' mean [3], these around it times their weights
    # [V, 3], which sum up to nothing, and their mean square.
    face = canonical_face()
    weights = face.rigidity / face.rigidity.sum()
    mean = weights @ face.vertices
    centred = face.vertices - mean
    return weights, mean, centred * weights[:, None], float(weights @ (centred**2).sum(1))


def rotation_matrix(angles: Reals) -> NDArray[np.float64]:
    """Return the rotation [3, 3] of pitch, yaw and roll [3] in radians.

    They are the angles of a neck: the head turns (yaw), then nods (pitch), then tilts (roll), so
    R = Ry Rx Rz, and differences of angles mean the same on every head.
    """
    pitch, yaw, roll = (float(angle) for angle in angles)
    around_y = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0]
    around_x = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))[0]
    around_z = cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
    return np.asarray(around_y @ around_x @ around_z)


def rotation_angles(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert `rotation_matrix`."""
    pitch = -np.arcsin(np.clip(rotation[1, 2], -1, 1))
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    return np.array([pitch, yaw, np.arctan2(rotation[1, 0], rotation[1, 1])])


def gap(shape: Reals, contour: Contour) -> float:
    """Return how far the middle of a contour stands open, in the units of `shape` [V, 3]."""
    upper, lower = contour
    middle = slice(len(upper) // 2 - 1, len(upper) // 2 + 2)
    below, above = shape[list(lower[middle])].tolist(), shape[list(upper[middle])].tolist()
    return sum(map(math.dist, below, above)) / len(below)


def width(shape: Reals, contour: Contour) -> float:
    """Return the distance between the corners of a contour, in the units of `shape` [V, 3]."""
    return _length(shape, contour[0][0], contour[0][-1])


def gaze_angles(shape: Floats) -> Floats:
    """Return yaw and pitch of both eyes [4], from the place of the irises in head space."""
    angles = []
    for contour, iris in zip(EYES, IRISES, strict=True):
        left, right = shape[contour[0][0]], shape[contour[0][-1]]
        radius = EYEBALL_RADIUS_PER_EYE_WIDTH * width(shape, contour)
        offset = (shape[iris] - (left + right) / 2)[:2] / radius
        angles += list(np.arcsin(np.clip(offset, -0.9, 0.9)))
    return np.array(angles, np.float32)


def proportions(shape: Floats) -> Floats:
    """Return this face's size over the canonical one's [V, 3], feature by feature.

    A displacement in canonical proportions times this is the same expression on this face: a
    mouth scales with its own width, a lid with its own opening, so that shut stays shut.
    """
    face = canonical_face()
    factors = np.ones((VERTICES, 3), np.float32)
    mouth = width(shape, OUTER_LIPS) / width(face.vertices, OUTER_LIPS)
    jaw = _length(shape, NOSE_BASE, CHIN) / _length(face.vertices, NOSE_BASE, CHIN)
    _blend(factors, nearness(OUTER_LIPS, reach=0.35), np.array([mouth, jaw, mouth]))
    for eye in EYES:
        wide = width(shape, eye) / width(face.vertices, eye)
        tall = float(np.clip(gap(shape, eye) / gap(face.vertices, eye), 0.4, 2.5))
        _blend(factors, nearness(eye, reach=0.12), np.array([wide, tall, wide]))
    return factors


def retarget(shape: Floats, proportions: Floats, deviation: Floats) -> Floats:
    """Put a relative expression on a face.

    Args:
        shape: [V, 3], the face's neutral shape in head space, lips shut (`shut_lips`).
        proportions: [V, 3], its `proportions`.
        deviation: [V, 3], displacement in canonical proportions.

    Returns:
        [V, 3], the expressive shape. Lids follow the *share* by which the driver's lids close and
        lips never cross, so a shut eye or mouth is shut on any face.
    """
    canonical = canonical_face().vertices
    driven = canonical + deviation
    moved = shape + deviation * proportions
    upper, lower = UPPER_LIDS, LOWER_LIDS
    open_share = (driven[lower, 1] - driven[upper, 1]) / (canonical[lower, 1] - canonical[upper, 1])
    # The tracker reports about a fifth of the opening for a shut eye: that much is taken as shut.
    open_share = np.where(open_share < 1, (open_share - 0.2) / 0.8, open_share)
    opening = np.clip(open_share, 0, 1.4)[:, None] * (shape[upper] - shape[lower])
    moved[upper] = moved[lower] + opening
    for upper, lower in ((UPPER_INNER_LIP, LOWER_INNER_LIP), (UPPER_OUTER_LIP, LOWER_OUTER_LIP)):
        crossing = np.maximum(moved[upper, 1] - moved[lower, 1], 0) / 2
        moved[upper, 1] -= crossing
        moved[lower, 1] += crossing
    return moved


@cache
def rims() -> NDArray[np.intp]:
    """Return the face's oval and two loops further in, side by side: vertices [3, O]."""
    vertices = canonical_face().vertices
    loops = [np.array(FACE_OVAL)]
    for _ in range(2):
        inside = np.setdiff1d(np.arange(VERTICES), loops)
        inwards = vertices[NOSE_TIP] - vertices[loops[-1], None]
        away = vertices[inside] - vertices[loops[-1], None]
        straight = (away * inwards).sum(2) / np.linalg.norm(inwards, axis=2)
        far = (away**2).sum(2) / np.maximum(straight, 1e-6)  # the less straight, the further
        loops.append(inside[far.argmin(axis=1)])
    return np.stack(loops)


def shut_lips(shape: Floats) -> Floats:
    """Return the shape [V, 3] with its jaw closed until the lips meet."""
    jaw_open = canonical_face().expressions["jawOpen"]
    return shape - jaw_open * (gap(shape, INNER_LIPS) / gap(jaw_open, INNER_LIPS))


def _length(shape: Floats, start: int, end: int) -> float:
    return math.dist(shape[start].tolist(), shape[end].tolist())


def _blend(factors: Floats, weight: Floats, target: Reals) -> None:
    factors += weight[:, None] * (target - factors)


@cache
def nearness(contour: Contour, *, reach: float) -> Floats:
    """Return weights [V]: 1 on a contour of the canonical face, 0 from `reach` head units on."""
    vertices = canonical_face().vertices[:, :2]
    rim = vertices[list(contour[0] + contour[1])]
    distance = np.linalg.norm(vertices[:, None] - rim, axis=2).min(axis=1)
    share = np.clip(1 - distance / reach, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)
