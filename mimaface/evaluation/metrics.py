"""Readable signals of a face out of its motion, and how well two of them agree.

The signals come from the landmarks, the pose and the irises alone: the same ruler for a driver
and for an avatar, and not the one the avatar was made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mimaface.face_mesh import rotation_matrix
from mimaface.types import Floats, Motion

# MediaPipe's numbering.
INNER_LIPS: Final = (13, 14)
OUTER_EYE_CORNERS: Final = (33, 263)
LIDS: Final = ((159, 145), (386, 374))
EYE_CORNERS: Final = ((33, 133), (362, 263))


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What a face does, frame by frame, each [F].

    Attributes:
        mouth_opening: gap between the inner lips, head units.
        eye_closure: minus the gap between the lids over the width of the eye, mean of both eyes.
        yaw: radians, as are all that follow.
        pitch: of the head.
        roll: of the head.
        gaze: sideways, mean of both eyes.
    """

    mouth_opening: Floats
    eye_closure: Floats
    yaw: Floats
    pitch: Floats
    roll: Floats
    gaze: Floats


def signals(motion: Motion) -> Signals:
    """Return the signals of absolute motion whose frames all show a face."""
    if motion.is_relative or not motion.valid.all():
        raise ValueError("signals need absolute motion with a face in every frame")
    rotation = np.array([rotation_matrix(angles) for angles in motion.rotation]).reshape(-1, 3, 3)
    metric = motion.landmarks.copy()  # one unit is the frame's width on every axis
    metric[..., 1] /= motion.aspect[:, None]
    head = np.einsum("fvi,fij->fvj", metric, rotation)  # turned back: rows times R are R^T p

    def gap(upper: int, lower: int) -> Floats:
        opening: Floats = head[:, lower, 1] - head[:, upper, 1]
        return opening

    def distance(start: int, end: int) -> Floats:
        length: Floats = np.linalg.norm(head[:, end] - head[:, start], axis=1)
        return length

    openings = [
        gap(*lids) / distance(*corners) for lids, corners in zip(LIDS, EYE_CORNERS, strict=True)
    ]
    return Signals(
        mouth_opening=gap(*INNER_LIPS) / distance(*OUTER_EYE_CORNERS),
        eye_closure=-np.mean(openings, axis=0),
        pitch=motion.rotation[:, 0],
        yaw=motion.rotation[:, 1],
        roll=motion.rotation[:, 2],
        gaze=motion.gaze[:, (0, 2)].mean(axis=1),
    )


def correlation(driving: Floats, output: Floats) -> float | None:
    """Return Pearson's r of two signals [F]; None when either does not move."""
    if len(driving) < 2 or not (np.ptp(driving) and np.ptp(output)):
        return None
    return float(np.corrcoef(driving, output)[0, 1])


def amplitude(driving: Floats, output: Floats) -> float | None:
    """Return the output's standard deviation over the driver's; None when that does not move."""
    if len(driving) < 2 or not np.ptp(driving):
        return None
    return float(output.std() / driving.std())
