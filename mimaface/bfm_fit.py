"""Fits expression, rotation and translation of the official 3D face model to landmarks.

The landmarks are those of the avatar's own picture: the source's face as the driver moves it. So
the identity is the source's and known, and at the source's own landmarks the answer is known too:
the coefficients read off the portrait. `calibrate` keeps by how much the landmarks there miss
those coefficients' own, and `fit` asks for the least departure from the portrait that explains
the rest. Gaze is not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.bfm import (
    CAMERA_Z,
    EXPRESSION,
    FOCAL_PX,
    KEYPOINTS,
    SIZE_PX,
    BfmModel,
    BfmSource,
    Coefficients,
    row_rotation,
)
from mimaface.raster import blend
from mimaface.types import Floats, Reals

Doubles = NDArray[np.float64]

# How well landmarks are known, and how far a face strays from the portrait: standard deviations.
NOISE_PX: Final = 0.5
JAW_NOISE_PX: Final = 2.0  # these landmarks slide along the outline as the head turns
JAW: Final = slice(17)  # of Multi-PIE
EXPRESSION_SPREAD: Final = 1.0  # the official model's unit
ROTATION_SPREAD: Final = 0.5  # rad
TRANSLATION_SPREAD: Final = (0.3, 0.3, 0.5)  # in model space; crops are aligned, so it is small

MOST_STEPS: Final = 12
SMALLEST_STEP: Final = 1e-3  # in spreads; below it nothing changes that can be seen
FIRST_DAMPING, MOST_DAMPING = 1e-2, 1e6  # Levenberg's; against 1, the weight of the spreads
NEAREST_FACE: Final = 2.0  # depth in model space; no face comes nearer to the camera
FARTHEST_PX: Final = 2 * SIZE_PX  # from the crop's middle; landmarks beyond are moved up to there


class FaceMotion(NamedTuple):
    """What moves the face model in one frame: [64], angles [3] and, in model space, [3]."""

    expression: Floats
    rotation: Floats
    translation: Floats


@dataclass(frozen=True, kw_only=True)
class SourceFace:
    """The face model as one person, bound to the landmarks of the person's portrait.

    Attributes:
        source: the person.
        rest: the motion in the portrait.
        gaze: [4], the gaze in the portrait.
        offset_px: [68, 2], from the model's keypoints in the portrait to its landmarks.
        shape: [68, 3], the person's keypoints without expression.
        basis: [68, 3, 64], what each expression adds to them.
    """

    source: BfmSource
    rest: FaceMotion
    gaze: Floats
    offset_px: Doubles
    shape: Doubles
    basis: Doubles


def calibrate(
    model: BfmModel, source: BfmSource, coefficients: Coefficients, landmarks_px: Reals
) -> SourceFace:
    """Bind a person's face model to the portrait.

    The offsets take in all that is constant between landmarks and keypoints: where on the face
    they lie, what the coefficients got wrong, and the half pixel between the two ways to count.

    Args:
        model: the face model.
        source: the face model as that person.
        coefficients: of the portrait, one set without rows.
        landmarks_px: [68, 2], the portrait's landmarks `bfm.MULTI_PIE` in its 256 px crop.
    """
    face = SourceFace(
        source=source,
        rest=FaceMotion(coefficients.expression, coefficients.rotation, coefficients.translation),
        gaze=coefficients.gaze,
        offset_px=np.zeros((KEYPOINTS, 2)),
        shape=source.shape[model.keypoints].astype(np.float64),
        basis=model.expression_basis[model.keypoints].astype(np.float64),
    )
    offset_px = np.asarray(landmarks_px, np.float64) - keypoints(face, face.rest)
    return replace(face, offset_px=offset_px)


def keypoints(face: SourceFace, motion: FaceMotion) -> Doubles:
    """Return where landmarks [68, 2] of a moved face are expected, in pixels of the 256 px crop."""
    return _see(face, np.concatenate(motion).astype(np.float64)).points_px


def fit(face: SourceFace, landmarks_px: Reals, start: FaceMotion | None = None) -> FaceMotion:
    """Fit the face model to the landmarks of one frame.

    The most probable motion under independent normal errors of landmarks and departures from the
    portrait, by Levenberg's method. It is never less probable than the portrait itself or the
    start, whatever the landmarks are.

    Args:
        face: the person, calibrated.
        landmarks_px: [68, 2], of the frame, in its 256 px crop.
        start: the motion of the frame before, to start from; the portrait's without one.
    """
    middle = SIZE_PX / 2
    wanted = np.asarray(landmarks_px, np.float64) - middle
    wanted = middle + np.clip(wanted, -FARTHEST_PX, FARTHEST_PX)
    rest, spreads = np.concatenate(face.rest).astype(np.float64), _spreads()

    best = _judge(face, rest, rest, wanted)
    if start is not None:
        started = _judge(face, np.concatenate(start).astype(np.float64), rest, wanted)
        best = min(best, started, key=lambda state: state.cost)
    damping = FIRST_DAMPING
    for _ in range(MOST_STEPS):
        step = _damped_step(_slopes(face, best.seen), best.errors, best.strayed, damping)
        if (step * step).sum() < SMALLEST_STEP**2:
            break
        tried = _judge(face, best.vector + spreads * step, rest, wanted)
        if tried.cost < best.cost:
            best, damping = tried, damping / 10
        elif damping < MOST_DAMPING:
            damping *= 10
        else:
            break
    vector = best.vector.astype(np.float32)
    return FaceMotion(*np.split(vector, (EXPRESSION, EXPRESSION + 3)))


class _Seen(NamedTuple):
    points_px: Doubles  # [68, 2]
    turned: Doubles  # [68, 3], before the translation
    placed: Doubles  # [68, 3]
    rotating: Doubles  # [3, 3]
    roll: float


class _State(NamedTuple):
    vector: Doubles  # [70]: expression, angles, translation
    strayed: Doubles  # [70], from the portrait, in spreads
    errors: Doubles  # [136], of the landmarks, in their standard deviations
    cost: float
    seen: _Seen


def _see(face: SourceFace, vector: Doubles) -> _Seen:
    expression, angles, translation = np.split(vector, (EXPRESSION, EXPRESSION + 3))
    rotating = row_rotation(angles)
    turned = blend(face.shape, face.basis, expression) @ rotating
    placed = turned + translation
    scale = FOCAL_PX / (CAMERA_Z - placed[:, 2:])
    points = SIZE_PX / 2 + scale * placed[:, :2] * (1, -1) + face.offset_px
    return _Seen(points, turned, placed, rotating, float(angles[2]))


def _judge(face: SourceFace, vector: Doubles, rest: Doubles, wanted: Doubles) -> _State:
    seen = _see(face, vector)
    errors = ((seen.points_px - wanted) / _noise_px()[:, None]).ravel()
    strayed = (vector - rest) / _spreads()
    cost = float((errors * errors).sum() + (strayed * strayed).sum())
    if CAMERA_Z - seen.placed[:, 2].max() < NEAREST_FACE:
        cost = np.inf
    return _State(vector, strayed, errors, cost, seen)


def _slopes(face: SourceFace, seen: _Seen) -> Doubles:
    # [136, 70]: how errors change with what strays, both in their standard deviations.
    x, y, z = seen.placed.T
    scale = FOCAL_PX / (CAMERA_Z - z) / _noise_px()
    slopes = np.zeros((len(x), 2, EXPRESSION + 6))
    picture = slopes[..., -3:]  # [68, 2, 3], of the picture's points by the points in space
    picture[:, 0, 0], picture[:, 1, 1] = scale, -scale
    picture[:, 0, 2] = scale * x / (CAMERA_Z - z)
    picture[:, 1, 2] = -scale * y / (CAMERA_Z - z)
    slopes[..., :EXPRESSION] = (picture @ seen.rotating.T) @ face.basis
    # An angle turns points about an axis: x before the other turns, y before z, z after all.
    about_y = (-np.sin(seen.roll), np.cos(seen.roll), 0.0)
    for column, axis in enumerate((seen.rotating[0], about_y, (0.0, 0.0, 1.0)), EXPRESSION):
        a, b, c = axis
        u, v, w = seen.turned.T
        way = np.stack([b * w - c * v, c * u - a * w, a * v - b * u], axis=1)  # axis x point
        slopes[..., column] = (picture * way[:, None]).sum(axis=-1)
    return (slopes * _spreads()).reshape(2 * len(x), -1)


def _noise_px() -> Doubles:
    noise = np.full(KEYPOINTS, NOISE_PX)
    noise[JAW] = JAW_NOISE_PX
    return noise


def _spreads() -> Doubles:
    turning = [ROTATION_SPREAD] * 3
    return np.concatenate([np.full(EXPRESSION, EXPRESSION_SPREAD), turning, TRANSLATION_SPREAD])


# The libraries' products and solvers would wake their threads for these small matrices.
@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _damped_step(slopes: Doubles, errors: Doubles, strayed: Doubles, damping: float) -> Doubles:
    """Solve (S^T S + I + damping I) step = -(S^T errors + strayed) by Cholesky's method."""
    count, unknowns = slopes.shape
    matrix = np.zeros((unknowns, unknowns))
    step = -strayed
    for row in range(count):
        for i in range(unknowns):
            slope = slopes[row, i]
            step[i] -= slope * errors[row]
            for j in range(i + 1):
                matrix[i, j] += slope * slopes[row, j]
    for i in range(unknowns):
        matrix[i, i] += 1.0 + damping
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = np.sqrt(rest) if i == j else rest / matrix[j, j]
        for k in range(i):
            step[i] -= matrix[i, k] * step[k]
        step[i] /= matrix[i, i]
    for i in range(unknowns - 1, -1, -1):
        step[i] /= matrix[i, i]
        for k in range(i):
            step[k] -= matrix[i, k] * step[i]
    return step
