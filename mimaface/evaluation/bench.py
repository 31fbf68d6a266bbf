"""How long each stage of the library takes for a frame, on this machine."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from mimaface.animate import Model, animate, encode_source
from mimaface.evaluation.scripted import scripted_motion
from mimaface.motion import FaceMeshExtractor, RelativeMotion
from mimaface.types import ClipRequest, Motion

WARM_UP: Final = 10  # chunks that do not count: caches fill, code is compiled


class Stopwatch:
    """Notes how long each run of each stage took.

    Attributes:
        times_s: the times of each stage, in order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Read the time in seconds from `clock`, such as `time.perf_counter`."""
        self.times_s: dict[str, list[float]] = defaultdict(list)
        self._clock = clock

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        start_s = self._clock()
        yield
        self.times_s[name].append(self._clock() - start_s)


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Milliseconds a stage takes: "extract" and "relative" per frame, "animate" per chunk."""

    stage: str
    p50_ms: float
    p95_ms: float


def bench(model: Model, photo: Path, *, frames: int, clock: Callable[[], float]) -> list[StageTime]:
    """Drive a portrait with itself: its avatar performs the scripted motion and is the driver.

    Args:
        model: what is measured.
        photo: the portrait.
        frames: how many frames count, rounded up to whole chunks.
        clock: returns seconds, such as `time.perf_counter`.
    """
    appearance = encode_source(model, photo)
    chunk = model.config.new_frames
    script = scripted_motion(chunk * (WARM_UP + -(-frames // chunk)))
    neutral = RelativeMotion()
    with closing(FaceMeshExtractor()) as extractor:
        for start in range(0, len(script), chunk):
            if start <= WARM_UP * chunk:
                stopwatch = Stopwatch(clock)
            performed = script[start : start + chunk]
            [driver] = animate(model, [ClipRequest(appearance=appearance, motion=performed)])
            followed = []
            for time_s, rgb in zip(performed.time_s, driver.pixels, strict=True):
                with stopwatch.stage("extract"):
                    seen = extractor.extract(float(time_s), rgb)
                with stopwatch.stage("relative"):
                    followed.append(neutral.push(seen))
            request = ClipRequest(appearance=appearance, motion=Motion.concatenate(followed))
            with stopwatch.stage("animate"):
                animate(model, [request])
    return [
        StageTime(stage=stage, p50_ms=round(float(p50_ms), 3), p95_ms=round(float(p95_ms), 3))
        for stage, times_s in stopwatch.times_s.items()
        for p50_ms, p95_ms in [1000 * np.percentile(times_s, (50, 95))]
    ]


def machine() -> str:
    """Return the name of the processor and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(": ")[2] if models else name
    return f"{name}, {os.cpu_count()} cores"
