"""Doubles for the model and the camera: quick, exact, and readable from the outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion, Pixels
from streaming.ladder import Ladder, Rung
from streaming.types import DrivingFrame


class Clock:
    """A clock that stands until it is told to move."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def portrait(shade: int, size_px: int = 64) -> Appearance:
    """A portrait of one shade, as much of it as `paint` needs."""
    source = np.full((size_px, size_px, 3), shade, np.uint8)
    nothing: Any = None
    return Appearance(source=source, crop=nothing, motion=Motion.missing(0.0), mesh=nothing)


def absolute_motion(time_s: float, *, is_valid: bool = True, mouth: float = 0.0) -> Motion:
    motion = Motion.missing(time_s)
    motion.valid[:] = is_valid
    motion.translation[:, 2] = 3.0
    motion.expression[:] = mouth
    return motion


def relative_motion(time_s: float) -> Motion:
    motion = Motion.missing(time_s)
    return Motion(**(vars(motion) | {"is_relative": True}))


def counting_state(count: float) -> ICAState:
    """A state that holds a number."""
    return ICAState(
        latents=np.array([count], np.float16),
        signals=np.zeros((1, 0), np.float32),
        render_latents=None,
        next_frame=0,
    )


def nothing_ahead(_appearance: Appearance, _motion: Motion, _steps: int) -> None:
    """Draw nothing ahead: `paint` needs none of it."""


def paint(requests: Sequence[ClipRequest]) -> list[Clip]:
    """Animate by shade: a portrait's shade plus one; the state counts the session's clips."""
    clips = []
    for request in requests:
        source = request.appearance.source
        count = 0.0 if request.ica is None else float(request.ica.latents[0])
        clips.append(
            Clip(
                pixels=np.stack([source + np.uint8(1)] * len(request.motion)),
                ica=counting_state(count + 1),
            )
        )
    return clips


class Extractor:
    """Sees a face in every frame that is not black; `look` may do anything before."""

    def __init__(self, look: Callable[[float, Pixels], None] = lambda _time_s, _rgb: None) -> None:
        self.times: list[float] = []
        self.is_closed = False
        self._look = look

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        self.times.append(time_s)
        self._look(time_s, rgb)
        return absolute_motion(time_s, is_valid=bool(rgb.any()))

    def close(self) -> None:
        self.is_closed = True


def one_rung(*, steps: int = 0, fps: float = 30) -> Ladder:
    """A ladder that stays where it is, and on which nothing is ever late."""
    return Ladder([Rung(steps=steps, fps=fps)], deadline_s=60.0)


def driving_frame(time_s: float, shade: int = 200) -> DrivingFrame:
    return DrivingFrame(time_s=time_s, rgb=lambda: np.full((48, 64, 3), shade, np.uint8))


class Bell:
    """Lets a test wait for what another thread does, without sleeping."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def ring(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Return once the predicate holds; it is asked again at every ring, and now and then."""
        with self._condition:
            for _ in range(round(timeout_s / 0.05)):
                if self._condition.wait_for(predicate, 0.05):
                    return
        raise AssertionError("what the test waits for did not happen")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock only moves as far as it sleeps, or is set forward as if it was held up."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]
