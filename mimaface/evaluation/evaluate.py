"""Does the avatar do what the driver does? Signal by signal, against what a call needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mimaface.evaluation.metrics import amplitude, correlation, signals
from mimaface.types import Motion


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
    Target(signal="mouth_opening", correlation=0.85, amplitude=(0.5, 1.5)),
    Target(signal="eye_closure", correlation=0.7, amplitude=(0.4, np.inf)),
    Target(signal="yaw", correlation=0.95, amplitude=(0.6, 1.4)),
    Target(signal="pitch", correlation=0.9),
    Target(signal="roll", correlation=0.9),
    Target(signal="gaze", correlation=0.5),
)
FACE_SHARE_TARGET: Final = 0.99


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one signal of the output follows the driver's; None where one does not move."""

    target: Target
    correlation: float | None
    amplitude: float | None

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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An output measured against its driver.

    Attributes:
        driving_frames: frames of the driver.
        output_frames: frames of the output.
        compared_frames: output frames where both show a face; the figures are over these.
        face_share: share of the output's frames that show a face.
        agreements: one per target, in their order.
    """

    driving_frames: int
    output_frames: int
    compared_frames: int
    face_share: float
    agreements: tuple[Agreement, ...]


def evaluate(driving: Motion, output: Motion) -> Evaluation:
    """Compare two stretches of absolute motion; frames are paired by time."""
    if not len(driving) or not len(output):
        raise ValueError("there are no frames to compare")
    middles = (driving.time_s[1:] + driving.time_s[:-1]) / 2
    partner = np.searchsorted(middles, output.time_s)  # the driving frame nearest in time
    both = np.flatnonzero(output.valid & driving.valid[partner])
    theirs, ours = signals(driving[partner[both]]), signals(output[both])
    return Evaluation(
        driving_frames=len(driving),
        output_frames=len(output),
        compared_frames=len(both),
        face_share=float(output.valid.mean()),
        agreements=tuple(
            Agreement(
                target=target,
                correlation=correlation(
                    getattr(theirs, target.signal), getattr(ours, target.signal)
                ),
                amplitude=amplitude(getattr(theirs, target.signal), getattr(ours, target.signal)),
            )
            for target in TARGETS
        ),
    )
