"""What a made-up person does in front of the camera: speech, gestures, blinks, looks and turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.interpolate import CubicSpline

from mimaface.types import Floats

# FACS shapes with their most usual weight and how often they change a second.
SPEECH_HZ: Final = 3.0
SPEECH: Final = {
    "mouthFunnel": 0.5,
    "mouthPucker": 0.6,
    "mouthStretch": 0.35,
    "mouthUpperUp": 0.45,
    "mouthLowerDown": 0.6,
    "mouthPress": 0.35,
    "mouthRollLower": 0.4,
    "mouthShrugUpper": 0.3,
}
GESTURES_HZ: Final = 0.8
GESTURES: Final = {
    "mouthSmile": 0.9,
    "mouthFrown": 0.5,
    "mouthDimple": 0.5,
    "cheekSquint": 0.6,
    "cheekPuff": 0.3,
    "browInnerUp": 0.8,
    "browOuterUp": 0.8,
    "browDown": 0.7,
    "eyeSquint": 0.6,
    "eyeWide": 0.6,
    "noseSneer": 0.4,
    "jawLeft": 0.2,
    "jawRight": 0.2,
    "mouthLeft": 0.3,
    "mouthRight": 0.3,
}
BLINK_S: Final = 0.3
MEAN_BETWEEN_BLINKS_S: Final = 1.8
MOST_TURN: Final = (0.22, 0.42, 0.2)  # rad, deviation times two: pitch, yaw and roll
TURN_HZ: Final = 0.7
GAZE: Final = (0.32, 0.2)  # tangents, right and down
SACCADE_S: Final = 0.5
SHIFT_CM: Final = (1.6, 0.8, 1.5)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One moment of a performance.

    Attributes:
        expression: weights of FACS shapes, see `FaceModel.vertices`.
        gaze: tangents of how far the eyes look past the camera, right and down in the picture.
        rotation: rotation vector of the head in rad.
        shift: of the whole person in centimetres.
    """

    expression: Mapping[str, float]
    gaze: tuple[float, float]
    rotation: tuple[float, float, float]
    shift: tuple[float, float, float]


def perform(rng: np.random.Generator, frames: int, *, fps: float) -> list[Pose]:
    """Make up a performance of some frames."""
    time_s = np.arange(frames) / fps
    vivid = rng.uniform(0.5, 1.2)

    def wander(rate_hz: float) -> Floats:
        # Smooth noise of unit deviation.
        knots = int(np.ceil(time_s[-1] * rate_hz)) + 4
        curve = CubicSpline(np.arange(knots), rng.standard_normal(knots))
        return curve(time_s * rate_hz + rng.random()).astype(np.float32)

    def now_and_then(rate_hz: float, rest: float) -> Floats:
        return np.clip(0.6 * (wander(rate_hz) - rest), 0, 1).astype(np.float32)

    speaks = np.clip(0.5 + 0.8 * wander(0.6), 0, 1) if rng.random() < 0.8 else np.zeros(frames)
    shapes = {name: most * speaks * now_and_then(SPEECH_HZ, 0.3) for name, most in SPEECH.items()}
    shapes["jawOpen"] = 0.75 * speaks * now_and_then(SPEECH_HZ, -0.2)
    shapes["jawOpen"] = shapes["jawOpen"] + 0.9 * now_and_then(0.8, 1.6)  # a laugh or a yawn
    for name, most in GESTURES.items():
        weight = vivid * most * now_and_then(GESTURES_HZ, 0.5)
        shapes[f"{name}_L"], shapes[f"{name}_R"] = weight, weight * rng.uniform(0.6, 1.0)
        if name in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            del shapes[f"{name}_L"], shapes[f"{name}_R"]
            shapes[name] = weight

    blink = np.zeros(frames, np.float32)
    at_s = rng.exponential(MEAN_BETWEEN_BLINKS_S / 2)
    while at_s < time_s[-1]:
        phase = (time_s - at_s) / BLINK_S
        blink = np.maximum(blink, np.where(np.abs(phase - 0.5) < 0.5, np.sin(np.pi * phase), 0))
        at_s += BLINK_S + rng.exponential(MEAN_BETWEEN_BLINKS_S)
    blink = np.clip(1.4 * blink, 0, 1)

    saccades = np.floor((time_s + rng.random()) / SACCADE_S).astype(int)
    looks = rng.standard_normal((saccades.max() + 1, 2)) * 0.7 * GAZE
    looks[rng.random(len(looks)) < 0.35] = 0  # into the camera
    gaze = looks[saccades] + 0.01 * np.stack([wander(4), wander(4)], axis=1)
    gaze = np.clip(gaze, [-0.5, -0.3], [0.5, 0.35])
    right, down = gaze.T
    lids = {
        "eyeBlink": blink * (1 - 0.3 * np.clip(down / 0.35, 0, 1)),
        "eyeLookDown": np.clip(down / 0.45, 0, 1),
        "eyeLookUp": np.clip(-down / 0.45, 0, 1),
    }
    for name, weight in lids.items():
        shapes[f"{name}_L"] = shapes[f"{name}_R"] = weight
    shapes["eyeLookOut_L"] = shapes["eyeLookIn_R"] = np.clip(right / 0.6, 0, 1)
    shapes["eyeLookIn_L"] = shapes["eyeLookOut_R"] = np.clip(-right / 0.6, 0, 1)
    shapes["mouthClose"] = 0.3 * shapes["jawOpen"] * now_and_then(1.0, 0.8)

    turn = np.stack([0.5 * most * vivid * wander(TURN_HZ) for most in MOST_TURN], axis=1)
    shift = np.stack([0.4 * most * wander(0.5) for most in SHIFT_CM], axis=1)
    return [
        Pose(
            expression={name: float(w[i]) for name, w in shapes.items() if w[i] > 0.01},
            gaze=(float(gaze[i, 0]), float(gaze[i, 1])),
            rotation=(float(turn[i, 0]), float(turn[i, 1]), float(turn[i, 2])),
            shift=(float(shift[i, 0]), float(shift[i, 1]), float(shift[i, 2])),
        )
        for i in range(frames)
    ]
