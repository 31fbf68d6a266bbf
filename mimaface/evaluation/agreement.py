"""Does an avatar do what its driver does? Signal by signal, against what a call needs.

The signals come from the landmarks, the pose and the irises alone: the same ruler for a driver
and for an avatar. It is the tracker that also drives the avatar, so what it misses in both is not
seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from mimaface.evaluation.metrics import REGIONS
from mimaface.face_mesh import rotation_matrix
from mimaface.types import VERTICES, Floats, Motion

# MediaPipe's numbering.
INNER_LIP_MIDDLES: Final = (13, 14)
OUTER_EYE_CORNERS: Final = (33, 263)
LIDS: Final = ((159, 145), (386, 374))
EYE_CORNERS: Final = ((33, 133), (362, 263))
EXPRESSIVE: Final = sorted({vertex for region in REGIONS for vertex in region})


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What a face does, frame by frame, each [F] but the last.

    Attributes:
        mouth_opening: gap between the inner lips, head units.
        eye_closure: minus the gap between the lids over the width of the eye, mean of both eyes.
        yaw: radians, as are all that follow.
        pitch: of the head.
        roll: of the head.
        gaze: sideways, mean of both eyes.
        expression: [F, 3 * len(EXPRESSIVE)], displacement of the vertices of eyes, brows and
            lips from the canonical face, head units.
    """

    mouth_opening: Floats
    eye_closure: Floats
    yaw: Floats
    pitch: Floats
    roll: Floats
    gaze: Floats
    expression: Floats

    @staticmethod
    def concatenate(parts: Sequence[Signals]) -> Signals:
        """Join stretches in order."""
        return Signals(
            **{
                each.name: np.concatenate([getattr(part, each.name) for part in parts])
                for each in fields(Signals)
            }
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a signal should reach.

    Attributes:
        signal: its name in `Signals`.
        correlation: the least correlation with the driver.
        amplitude: least and most of the output's amplitude over the driver's, where it matters.
    """

    signal: str
    correlation: float
    amplitude: tuple[float, float] = (0.0, np.inf)


TARGETS: Final = (
    Target(signal="mouth_opening", correlation=0.9, amplitude=(0.6, 1.4)),
    Target(signal="eye_closure", correlation=0.8, amplitude=(0.6, 1.4)),
    Target(signal="yaw", correlation=0.95, amplitude=(0.6, 1.4)),
    Target(signal="pitch", correlation=0.9),
    Target(signal="roll", correlation=0.9),
    Target(signal="gaze", correlation=0.7, amplitude=(0.6, 1.4)),
)
LEAST_OPENING: Final = 0.5  # of the driver's usual one; lids that are closer hide the iris
FACE_SHARE_TARGET: Final = 0.99


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one signal of the output follows the driver's; None where one does not move."""

    target: Target
    correlation: float | None
    amplitude: float | None
    error: float | None

    @property
    def is_reached(self) -> bool:
        """Whether both figures reach the target."""
        least, most = self.target.amplitude
        return (
            self.correlation is not None
            and self.amplitude is not None
            and self.correlation >= self.target.correlation
            and least <= self.amplitude <= most
        )


def agree(driving: Signals, output: Signals) -> tuple[Agreement, ...]:
    """Compare the signals of an output with its driver's, frame by frame: one per target.

    Where the driver's lids are shut there is no gaze to follow: what the tracker says then is a
    guess, and those frames do not count for it.
    """
    pairs = {
        each.signal: (getattr(driving, each.signal), getattr(output, each.signal))
        for each in TARGETS
    }
    opening = -driving.eye_closure
    is_open = opening > LEAST_OPENING * np.median(opening) if len(opening) else opening > 0
    theirs, ours = pairs["gaze"]
    pairs["gaze"] = theirs[is_open], ours[is_open]
    return tuple(
        Agreement(
            target=target,
            correlation=correlation(*pairs[target.signal]),
            amplitude=amplitude(*pairs[target.signal]),
            error=error(*pairs[target.signal]),
        )
        for target in TARGETS
    )


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
    displaced = motion.expression.reshape(-1, VERTICES, 3)[:, EXPRESSIVE]
    return Signals(
        mouth_opening=gap(*INNER_LIP_MIDDLES) / distance(*OUTER_EYE_CORNERS),
        eye_closure=-np.mean(openings, axis=0),
        pitch=motion.rotation[:, 0],
        yaw=motion.rotation[:, 1],
        roll=motion.rotation[:, 2],
        gaze=motion.gaze[:, (0, 2)].mean(axis=1),
        expression=displaced.reshape(-1, 3 * len(EXPRESSIVE)),
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


def error(driving: Floats, output: Floats) -> float | None:
    """Return the mean absolute error in the driver's standard deviations.

    Args:
        driving: [F] or [F, E]; all E values share one deviation, that of the whole.
        output: the same. Both are taken about their own means: another face rests otherwise.

    Returns:
        None when the driver does not move.
    """
    if len(driving) < 2:
        return None
    theirs, ours = (each - each.mean(axis=0) for each in (driving, output))
    deviation = float(np.sqrt(np.square(theirs).mean()))
    return (
        float(np.abs(ours - theirs).mean()) / deviation if np.ptp(driving, axis=0).any() else None
    )
