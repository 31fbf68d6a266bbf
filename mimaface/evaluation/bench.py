"""How long each stage of the library takes, on this machine."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimaface.animate import animate, encode_source
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import Model
from mimaface.motion import FaceMeshExtractor, RelativeMotion
from mimaface.types import ClipRequest, Motion

# Chunks that do not count: caches fill; code is compiled for the first clip and for later ones.
LEAST_WARM_UP, MOST_WARM_UP = 2, 10


class Stopwatch:
    """Notes how long each run of each stage took.

    Attributes:
        times_s: the times of each stage, in order.
    """

    def __init__(
        self, clock: Callable[[], float], *, finish: Callable[[], None] = lambda: None
    ) -> None:
        """Read the time in seconds from `clock`; `finish` waits for work that goes on elsewhere."""
        self.times_s: dict[str, list[float]] = defaultdict(list)
        self._clock = clock
        self._finish = finish

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        start_s = self._clock()
        yield
        self._finish()
        self.times_s[name].append(self._clock() - start_s)


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Milliseconds a stage takes: "extract" and "relative" per frame, the others per chunk."""

    stage: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """What clips of one length cost at one number of denoising steps.

    Attributes:
        steps: denoising steps.
        frames: F, frames of a clip, carried ones included.
        new_frames: N, frames it adds.
        stages: the median and the slow tail of each stage.
        fps: frames that one session gets per second, tracking not counted.
        memory_mib: the most of the GPU's memory in this run, or, without a GPU, the most of the
            process since it began.
    """

    steps: int
    frames: int
    new_frames: int
    stages: tuple[StageTime, ...]
    fps: float
    memory_mib: int


def bench(
    model: Model,
    photo: Path,
    *,
    steps: int,
    frames: int,
    repeats: int,
    clock: Callable[[], float],
) -> Run:
    """Drive a portrait with itself: its mesh performs the scripted motion and is the driver.

    Args:
        model: what is measured.
        photo: the portrait.
        steps: denoising steps.
        frames: F, frames of a clip.
        repeats: how many chunks count.
        clock: returns seconds, such as `time.perf_counter`.

    Raises:
        ValueError: a clip of so many frames adds none, or is too long for the model.
        UnsupportedStepsError: the model cannot do the steps.
    """
    model.check_steps(steps)
    again = model.config.overlap_frames if steps else 0
    chunk, most = frames - again, model.config.denoiser.most_frames
    if not again < frames <= most:
        raise ValueError(f"frames must be {again + 1} to {most}, found {frames}")
    appearance = encode_source(model, photo)
    warm_up = min(MOST_WARM_UP, repeats + LEAST_WARM_UP)
    _start_anew(model)
    script = scripted_motion(chunk * (warm_up + repeats))
    neutral, ica = RelativeMotion(), None
    with closing(FaceMeshExtractor()) as extractor:
        for start in range(0, len(script), chunk):
            if start <= warm_up * chunk:
                stopwatch = Stopwatch(clock, finish=_finisher(model))
            performed = script[start : start + chunk]
            [driver] = animate(model, [ClipRequest(appearance=appearance, motion=performed)])
            followed = []
            for time_s, rgb in zip(performed.time_s, driver.pixels, strict=True):
                with stopwatch.stage("extract"):
                    seen = extractor.extract(float(time_s), rgb)
                with stopwatch.stage("relative"):
                    followed.append(neutral.push(seen))
            request = ClipRequest(
                appearance=appearance, motion=Motion.concatenate(followed), ica=ica, steps=steps
            )
            with stopwatch.stage("animate"):
                [clip] = animate(model, [request], stage=stopwatch.stage)
            ica = clip.ica
    stages = tuple(
        StageTime(stage=stage, p50_ms=round(float(p50_ms), 3), p95_ms=round(float(p95_ms), 3))
        for stage, times_s in stopwatch.times_s.items()
        for p50_ms, p95_ms in [1000 * np.percentile(times_s, (50, 95))]
    )
    [whole] = [each for each in stages if each.stage == "animate"]
    return Run(
        steps=steps,
        frames=frames,
        new_frames=chunk,
        stages=stages,
        fps=round(1000 * chunk / whole.p50_ms, 2),
        memory_mib=_memory_mib(model),
    )


def machine() -> str:
    """Return the name of the processor and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(": ")[2] if models else name
    return f"{name}, {os.cpu_count()} cores"


def device_name(model: Model) -> str:
    """Return where a model's generator runs: the GPU's name, else that of the machine."""
    if not model.is_on_gpu:
        return machine()
    import torch

    return torch.cuda.get_device_name()


def _start_anew(model: Model) -> None:
    # Memory and compiled code of earlier runs must not count or fill up what this one has.
    if model.needs_torch:
        import torch

        torch.compiler.reset()
        if model.is_on_gpu:
            torch.cuda.reset_peak_memory_stats()


def _finisher(model: Model) -> Callable[[], None]:
    if not model.is_on_gpu:
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _memory_mib(model: Model) -> int:
    if not model.is_on_gpu:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most // (1024**2 if sys.platform == "darwin" else 1024)  # bytes there, else KiB
    import torch

    return torch.cuda.max_memory_allocated() // 1024**2
