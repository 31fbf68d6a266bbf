"""Motion out of driving frames, and relative to the driver's own neutral.

`FaceMeshExtractor` is the only code that looks at a live driving frame; what it returns holds no
pixels. `RelativeMotion` smooths, calibrates and bridges lost faces. Neither reads a clock: time
is that of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.eyes import blink_together, look_together
from mimaface.face_mesh import (
    EYES,
    canonical_face,
    fit_pose,
    gap,
    gaze_angles,
    proportions,
    rotation_angles,
    shut_lips,
)
from mimaface.one_face import OneFace
from mimaface.registration import Registration
from mimaface.types import VERTICES, Floats, Motion, Pixels, Reals

# MediaPipe looks where the face was in the picture before. After its first look, where its detector
# says, landmarks are off by 6 thousandths of the face's height; after six at the same picture by 1.
LOOKS: Final = 6
CALIBRATION_S: Final = 1.0
HOLD_S: Final = 0.25  # a lost face is held this long,
EASE_S: Final = 0.6  # then eases to the idle pose in this time,
RETURN_S: Final = 0.35  # and comes back from there in this time.
FORGET_AFTER_S: Final = 5.0  # after a longer loss somebody else may sit there: calibrate anew

Payload = TypeVar("Payload")


class MotionExtractor(Protocol):
    """Turns driving frames of one session, in order, into absolute motion."""

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        """Return the motion of one frame, uint8 [H, W, 3]; `valid` is False without a face."""

    def close(self) -> None:
        """Free the tracker."""


class FaceMeshExtractor:
    """MediaPipe's face mesh with irises in video mode. One per session, used by one thread.

    It keeps to one face while there are others (`OneFace`), and mends by the driver's own skin what
    MediaPipe is off by (`Registration`).
    """

    def __init__(self, *, frozen_after_s: float = math.inf) -> None:
        """Build MediaPipe's graph.

        Args:
            frozen_after_s: a picture that has not changed for so long counts as no face: a live
                camera that stands still is off or frozen.
        """
        # Importing mediapipe takes seconds and is not needed by who only renders.
        from mediapipe.python.solutions.face_mesh import FaceMesh

        self._graph: Any = FaceMesh(max_num_faces=1, refine_landmarks=True)
        self._one_face = OneFace()
        self._registration = Registration()
        self._seen_s = 0.0
        self._is_followed = False
        self._previous: Pixels | None = None
        self._changed_s = 0.0
        self._frozen_after_s = frozen_after_s

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        """Return the motion of one frame, uint8 [H, W, 3]; `valid` is False without a face."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 [H, W, 3], found {rgb.dtype} {rgb.shape}")
        if self._is_frozen(time_s, rgb):
            return Motion.missing(time_s)
        picture = np.ascontiguousarray(self._one_face.view(time_s, rgb))
        found: Any = None
        for _ in range(1 if self._is_followed else LOOKS):
            found = self._graph.process(picture).multi_face_landmarks
            self._is_followed = bool(found)
            if not found:
                return Motion.missing(time_s)
        landmarks = _coordinates(found[0])
        if not self._one_face.owns(time_s, landmarks):
            return Motion.missing(time_s)
        if time_s - self._seen_s > FORGET_AFTER_S:
            self._registration.forget()
        self._seen_s = time_s
        aligned = self._registration.align(time_s, rgb, landmarks)
        return measure(time_s, aligned, aspect=rgb.shape[1] / rgb.shape[0])

    def close(self) -> None:
        """Free MediaPipe's graph."""
        self._graph.close()

    def _is_frozen(self, time_s: float, rgb: Pixels) -> bool:
        sample = rgb[::8, ::8].copy()
        previous, self._previous = self._previous, sample
        is_comparable = previous is not None and previous.shape == sample.shape
        # Any sensor's noise is more than this.
        if not is_comparable or cv2.norm(previous, sample, cv2.NORM_L1) > 0.02 * sample.size:
            self._changed_s = time_s
        return time_s - self._changed_s >= self._frozen_after_s


# A landmark as protobuf writes it: its length, then x, y and z, each after a byte that names it.
_LANDMARK: Final = np.dtype(
    {"names": ["x", "y", "z"], "formats": ["<f4"] * 3, "offsets": [3, 8, 13], "itemsize": 17}
)


def _coordinates(landmarks: Any) -> Floats:
    # [V, 3] of MediaPipe's NormalizedLandmarkList. Asking each for its attributes takes longer than
    # to fit a head to them.
    written = np.frombuffer(landmarks.SerializeToString(), _LANDMARK)
    return np.stack([written["x"], written["y"], written["z"]], axis=1)


def measure(time_s: float, landmarks: Floats, *, aspect: float) -> Motion:
    """Return the absolute motion of MediaPipe's landmarks [V, 3] of one frame."""
    # One unit is the frame's width on all three axes, the origin its centre.
    points = (landmarks - (0.5, 0.5, 0.0)) * (1.0, 1 / aspect, 1.0)
    pose = fit_pose(points)
    shape = ((points - pose.origin) @ pose.rotation / pose.scale).astype(np.float32)
    translation = np.append(pose.origin[:2], 1.0) / pose.scale
    return Motion(
        time_s=np.array([time_s]),
        valid=np.array([True]),
        landmarks=landmarks[None],
        aspect=np.array([aspect], np.float32),
        rotation=rotation_angles(pose.rotation)[None].astype(np.float32),
        translation=translation[None].astype(np.float32),
        expression=(shape - canonical_face().vertices).reshape(1, -1),
        gaze=gaze_angles(shape)[None],
    )


class OneEuroFilter:
    """Low-pass filter whose cut-off rises with speed: still things rest, quick ones pass.

    G. Casiez, N. Roussel, D. Vogel, "1 EUR filter", CHI 2012.
    """

    def __init__(self, *, min_cutoff: float, beta: float, speed_cutoff: float = 8.0) -> None:
        """Cut off at `min_cutoff` Hz at rest, at `beta` Hz more per unit and second of speed.

        `speed_cutoff` (Hz) smooths the speed itself; it is high enough for the onset of a blink.
        """
        self._min_cutoff, self._beta, self._speed_cutoff = min_cutoff, beta, speed_cutoff
        self._time_s = 0.0
        self._value: NDArray[np.float64] | None = None
        self._speed = np.zeros(0)

    def __call__(self, time_s: float, value: Reals) -> NDArray[np.float64]:
        """Return the filtered value at a later time."""
        elapsed_s = time_s - self._time_s
        if self._value is None:
            self._value, self._speed = value.astype(np.float64), np.zeros(value.shape)
        elif elapsed_s > 0:
            speed = (value - self._value) / elapsed_s
            self._speed = self._speed + _gain(self._speed_cutoff, elapsed_s) * (speed - self._speed)
            cutoff = self._min_cutoff + self._beta * np.abs(self._speed)
            self._value = self._value + _gain(cutoff, elapsed_s) * (value - self._value)
        self._time_s = time_s
        return self._value

    def reset(self) -> None:
        """Forget the past."""
        self._value = None


def _gain(cutoff: Any, elapsed_s: float) -> Any:
    # Share of a new value that a first-order low-pass of this cut-off lets in after elapsed_s.
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed_s))


class RelativeMotion:
    """Absolute motion in, relative motion out: smoothed, calibrated, without gaps or jumps.

    The driver's neutral is the mean of the first valid second, unless one is given, and taken anew
    after a long loss. A lost face is held, then eases to the idle pose; it comes back in a short
    blend. One per session.
    """

    def __init__(self, neutral: Neutral | None = None) -> None:
        self._neutral = neutral or Neutral()
        self._filters = {
            "rotation": OneEuroFilter(min_cutoff=2.0, beta=32.0),
            "translation": OneEuroFilter(min_cutoff=1.5, beta=120.0),
            "expression": OneEuroFilter(min_cutoff=4.0, beta=60.0),
            "gaze": OneEuroFilter(min_cutoff=3.0, beta=6.0),
        }
        self._shown = _Row.zero()
        self._blend_from = self._shown
        self._blend_start_s: float | None = None
        self._seen_s: float | None = None  # when a face was last seen

    @property
    def calibration(self) -> float:
        """How far the neutral is calibrated, 0 to 1."""
        return self._neutral.progress

    def recalibrate(self) -> None:
        """Take the neutral anew from the coming second."""
        self._neutral = Neutral()

    def push(self, motion: Motion) -> Motion:
        """Return one frame of absolute motion as relative motion; frames come in order."""
        if len(motion) != 1 or motion.is_relative:
            raise ValueError("push takes one frame of absolute motion")
        time_s = float(motion.time_s[0])
        if motion.valid[0]:
            self._shown = self._follow(time_s, motion)
        elif self._seen_s is not None:
            self._shown = self._release(time_s, self._seen_s)
        return replace(
            motion,
            rotation=self._shown.rotation[None],
            translation=self._shown.translation[None],
            expression=self._shown.expression[None],
            gaze=self._shown.gaze[None],
            is_relative=True,
        )

    def _follow(self, time_s: float, motion: Motion) -> _Row:
        absent_s = 0.0 if self._seen_s is None else time_s - self._seen_s
        if absent_s > FORGET_AFTER_S:
            self._neutral = Neutral()
        if absent_s > HOLD_S:
            for each in self._filters.values():
                each.reset()
        if absent_s > HOLD_S or (self._seen_s is not None and self._neutral.progress == 0):
            self._blend_from, self._blend_start_s = self._shown, time_s
        self._seen_s = time_s
        self._neutral.observe(motion)
        smooth = _Row(
            **{
                name: each(time_s, getattr(motion, name)[0]).astype(np.float32)
                for name, each in self._filters.items()
            }
        )
        live = self._neutral.deviation(smooth)
        if self._blend_start_s is None:
            return live
        share = (time_s - self._blend_start_s) / RETURN_S
        if share >= 1:
            self._blend_start_s = None
        return self._blend_from.towards(live, share)

    def _release(self, time_s: float, seen_s: float) -> _Row:
        absent_s = time_s - seen_s
        if absent_s <= HOLD_S:
            self._blend_from = self._shown
            return self._shown
        self._blend_start_s = None
        return self._blend_from.towards(_Row.zero(), (absent_s - HOLD_S) / EASE_S)


class Neutral:
    """The driver's neutral: a running mean until a second of valid motion was observed."""

    def __init__(self) -> None:
        self._start_s: float | None = None
        self._weight = 0.0
        self._mean = _Row.zero()
        self.progress = 0.0

    @staticmethod
    def of(motion: Motion) -> Neutral:
        """Return one frame of absolute motion with a face as the neutral."""
        if len(motion) != 1 or motion.is_relative or not motion.valid[0]:
            raise ValueError("a neutral is one frame of absolute motion that shows a face")
        neutral = Neutral()
        neutral.observe(motion)
        neutral.settle()
        return neutral

    def settle(self) -> None:
        """Observe no more; what was observed is the neutral, if that was anything."""
        self.progress = 1.0 if self.progress else 0.0

    def observe(self, motion: Motion) -> None:
        """Take one frame of absolute motion into the mean, unless the second is over."""
        if self.progress >= 1 or not motion.valid[0]:
            return
        time_s = float(motion.time_s[0])
        self._start_s = time_s if self._start_s is None else self._start_s
        seen = _Row(*(getattr(motion, f.name)[0] for f in fields(_Row)))
        shape = canonical_face().vertices + seen.expression.reshape(-1, 3)
        weight = sum(gap(shape, eye) for eye in EYES) ** 2 + 1e-6  # blinks count little
        self._weight += weight
        self._mean = self._mean.mixed(seen, weight / self._weight)
        self._shape = shut_lips(canonical_face().vertices + self._mean.expression.reshape(-1, 3))
        self._proportions = proportions(self._shape)
        # The first frame alone is some progress already: a neutral exists.
        self.progress = min((time_s - self._start_s) / CALIBRATION_S + 1e-3, 1.0)

    def deviation(self, seen: _Row) -> _Row:
        """Return how absolute motion deviates from this neutral, in canonical proportions."""
        shape = canonical_face().vertices + seen.expression.reshape(-1, 3)
        nearer = self._mean.translation[2] / seen.translation[2]
        shift = nearer * seen.translation[:2] - self._mean.translation[:2]
        return _Row(
            rotation=seen.rotation - self._mean.rotation,
            translation=np.append(shift, np.log(nearer)).astype(np.float32),
            expression=blink_together((shape - self._shape) / self._proportions).ravel(),
            gaze=look_together(seen.gaze - self._mean.gaze, shape),
        )


def relative_ahead(frames: Iterator[tuple[Motion, Payload]]) -> Iterator[tuple[Motion, Payload]]:
    """Make recorded absolute motion relative, frame by frame, whatever else goes with a frame.

    A recording can be looked into: the neutral is known before the first frame is driven, so that
    the first second does not drift. Frames are kept until then, at most those of three seconds; on
    a face that comes later it is calibrated as in a call.
    """
    neutral, ahead = Neutral(), []
    for frame in frames:
        ahead.append(frame)
        neutral.observe(frame[0])
        if neutral.progress >= 1 or frame[0].time_s[0] - ahead[0][0].time_s[0] > 3 * CALIBRATION_S:
            break
    else:
        neutral.settle()  # there is no more to come
    relative = RelativeMotion(neutral)
    for motion, payload in chain(ahead, frames):
        yield relative.push(motion), payload


@dataclass(frozen=True)
class _Row:
    """The moving part of one frame of motion."""

    rotation: Floats
    translation: Floats
    expression: Floats
    gaze: Floats

    @staticmethod
    def zero() -> _Row:
        return _Row(*(np.zeros(n, np.float32) for n in (3, 3, 3 * VERTICES, 4)))

    def mixed(self, other: _Row, share: float) -> _Row:
        keep, take = np.float32(1 - share), np.float32(share)
        return _Row(
            *(keep * getattr(self, f.name) + take * getattr(other, f.name) for f in fields(self))
        )

    def towards(self, other: _Row, share: float) -> _Row:
        share = min(max(share, 0.0), 1.0)
        return self.mixed(other, share * share * (3 - 2 * share))
