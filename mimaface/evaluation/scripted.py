"""A performance made of sines: motion for benches and tests, the same each time."""

from __future__ import annotations

from typing import Final

import numpy as np

from mimaface.face_mesh import canonical_face
from mimaface.types import VERTICES, Floats, Motion

# What moves, how far and how often a second; rates without a common beat keep signals apart.
PITCH: Final = (0.14, 0.29)  # rad, Hz
YAW: Final = (0.30, 0.41)
ROLL: Final = (0.12, 0.23)
GAZE: Final = (0.25, 0.53)
SIDEWAYS: Final = (0.08, 0.19)  # head units, Hz
SYLLABLES: Final = (0.35, 2.7)  # of a fully open jaw, Hz
PHRASES_HZ: Final = 0.31  # speech comes and goes
SMILE: Final = (0.4, 0.13)  # of a full smile, Hz
BLINK_EVERY_S: Final = 1.9
BLINK_S: Final = 0.3


def scripted_motion(frames: int, *, fps: float = 30.0) -> Motion:
    """Return relative motion: the head sways, the mouth speaks, the eyes blink and wander."""
    time_s = np.arange(frames) / fps

    def sway(amount: float, rate: float) -> Floats:
        wave: Floats = (amount * np.sin(2 * np.pi * rate * time_s)).astype(np.float32)
        return wave

    speech = sway(*SYLLABLES) ** 2 / SYLLABLES[0] * (0.6 + sway(0.4, PHRASES_HZ))
    smile = np.abs(sway(*SMILE))
    # The first blink comes after half a period, when a driver's calibration has begun well.
    phase_s = (time_s + BLINK_EVERY_S / 2) % BLINK_EVERY_S
    blink = np.where(phase_s < BLINK_S, np.sin(np.pi * phase_s / BLINK_S), 0.0).astype(np.float32)
    expression = _expression(
        {
            "jawOpen": speech,
            "mouthSmile_L": smile,
            "mouthSmile_R": smile,
            "eyeBlink_L": blink,
            "eyeBlink_R": blink,
        }
    )
    gaze = sway(*GAZE)
    still = np.zeros_like(gaze)
    return Motion(
        time_s=time_s,
        valid=np.ones(frames, np.bool_),
        landmarks=np.zeros((frames, VERTICES, 3), np.float32),
        aspect=np.ones(frames, np.float32),
        rotation=np.stack([sway(*PITCH), sway(*YAW), sway(*ROLL)], axis=1),
        translation=np.stack([sway(*SIDEWAYS), still, still], axis=1),
        expression=expression,
        gaze=np.stack([gaze, still, gaze, still], axis=1),
        is_relative=True,
    )


def _expression(weights: dict[str, Floats]) -> Floats:
    shapes = canonical_face().expressions
    moved = sum(np.multiply.outer(weight, shapes[name]) for name, weight in weights.items())
    return np.asarray(moved, np.float32).reshape(-1, 3 * VERTICES)
