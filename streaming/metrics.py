"""Figures over the last few seconds. Time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

SPAN_S: Final = 3.0
_SHORTEST_S: Final = 0.5  # a rate over less would jump
_CAPACITY: Final = 1024  # more than 3 s of any stage at 240 frames a second

State = Literal["waiting", "calibrating", "live", "lost", "paused"]
# What a driving frame goes through until its avatar frame is shown, and the whole way.
Stage = Literal["wait", "motion", "queue", "render", "playout", "server"]


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Median and 95th percentile in milliseconds, None when nothing was measured."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, kw_only=True)
class LiveStats:
    """What a live session did; rates and times over the last `SPAN_S` seconds.

    Attributes:
        state: waiting for the camera, calibrating, live, lost (no camera or no face) or paused.
        calibration: progress of the driver's neutral, 0 to 1.
        fps: new avatar frames shown per second.
        sent_fps: avatar frames shown per second, repeats included.
        driving_fps: driving frames that arrived per second.
        rung: place on the quality ladder, 0 for the best.
        steps: denoising steps of that rung.
        most_fps: driving frames per second that it lets through.
        is_half: whether its picture has half the side.
        dropped: driving frames so far that were never animated: a newer one replaced them, they
            were too old, or the rung had no place for them.
        repeated: avatar frames so far that were shown again for want of a newer one.
        failed: frames without motion and clips that were lost to errors so far.
        wait_ms: time from a driving frame's decoding to the extractor's call.
        motion_ms: time in the extractor, and to draw what is drawn ahead.
        queue_ms: time its motion waited for the clip before, the newest of a chunk's.
        render_ms: time from asking the backend to having the clip.
        playout_ms: time from having the avatar frame to showing it.
        server_ms: age of a driving frame when its avatar frame is shown.
    """

    state: State
    calibration: float
    fps: float
    sent_fps: float
    driving_fps: float
    rung: int
    steps: int
    most_fps: float
    is_half: bool
    dropped: int
    repeated: int
    failed: int
    wait_ms: Quantiles
    motion_ms: Quantiles
    queue_ms: Quantiles
    render_ms: Quantiles
    playout_ms: Quantiles
    server_ms: Quantiles


class Recent:
    """Samples of the last `SPAN_S` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_CAPACITY)  # (now_s, seconds)
        self._first_s: float | None = None

    def add(self, now_s: float, seconds: float = 0.0) -> None:
        """Note that something happened, and how long it took."""
        if self._first_s is None:
            self._first_s = now_s
        self._samples.append((now_s, seconds))

    def rate(self, now_s: float) -> float:
        """Return how often it happened per second."""
        if self._first_s is None:
            return 0.0
        span_s = min(max(now_s - self._first_s, _SHORTEST_S), SPAN_S)
        return round(len(self._within(now_s)) / span_s, 1)

    def quantiles_ms(self, now_s: float) -> Quantiles:
        """Return how long it took."""
        taken = self._within(now_s)
        if not taken:
            return Quantiles(p50=None, p95=None)
        p50, p95 = (round(1000 * float(q), 1) for q in np.quantile(taken, (0.5, 0.95)))
        return Quantiles(p50=p50, p95=p95)

    def _within(self, now_s: float) -> list[float]:
        # The copy is atomic; a deque must not be iterated while another thread appends.
        return [seconds for at_s, seconds in self._samples.copy() if now_s - at_s <= SPAN_S]
