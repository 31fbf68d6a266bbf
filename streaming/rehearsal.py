"""Live sessions in front of made-up webcams, in real time, and notes of what they showed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from mimaface.animate import animate, draw_ahead
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import Model
from mimaface.motion import FaceMeshExtractor
from mimaface.types import Appearance, Clip, ClipRequest, MeshRender, Motion, Pixels
from streaming.admission import Admission
from streaming.backend import LocalBackend, Made
from streaming.figures import Shown
from streaming.ladder import Ladder, Rung
from streaming.live import LiveSession
from streaming.metrics import Stage
from streaming.trace import Trace
from streaming.types import AvatarFrame, DrivingFrame

FPS: Final = 30
DEADLINE_S: Final = 0.15  # age of a shown frame; a network and a browser add to it
WARM_UP_S: Final = 3  # does not count: caches fill, the ladder finds its place
WEBCAM_PX: Final = (480, 640)
PERFORMANCE: Final = 90  # frames, then it starts again


@dataclass(kw_only=True)
class Notes:
    """What is written down during a run; its lists only grow, in the order of their times.

    Attributes:
        sessions: how many there are.
        clock: returns seconds, such as `time.monotonic`.
        trace: takes the spans of all threads, if they are wanted.
        shown: the new pictures of each session.
        made: what the backend made.
        motion_s: time to find the motion of every driving frame, and to draw what is drawn ahead.
        dropped: driving frames of each session that were never animated.
        rss_mib: memory of the process at the end of each second.
        capacity: how many sessions fit at `lowest_steps`.
        start_s, end_s: of what counts.
        hog_s: when the hog came and went.
    """

    sessions: int
    clock: Callable[[], float]
    trace: Trace | None
    shown: list[list[Shown]] = field(init=False)
    made: list[Made] = field(default_factory=list)
    motion_s: list[float] = field(default_factory=list)
    dropped: list[int] = field(init=False)
    rss_mib: list[int | None] = field(default_factory=list)
    capacity: int | None = None
    start_s: float = 0.0
    end_s: float = 0.0
    hog_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shown = [[] for _ in range(self.sessions)]
        self.dropped = [0] * self.sessions

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Trace the block, if there is a trace."""
        if self.trace is None:
            yield
            return
        with self.trace.span(name):
            yield

    def time(self, stage: Stage, seconds: float) -> None:
        """Take a frame's time in a stage; a session's `on_timed`."""
        if stage == "motion":
            self.motion_s.append(seconds)


class Screen:
    """Shows the avatar of a session; two threads may refresh it."""

    def __init__(self, live: LiveSession, shown: list[Shown], notes: Notes) -> None:
        """Note new pictures in `shown`."""
        self._live = live
        self._shown = shown
        self._notes = notes
        self._lock = threading.Lock()
        self._frame: AvatarFrame | None = None

    def refresh(self) -> None:
        """Show what is due now."""
        with self._lock, self._notes.span("playout"):
            now_s = self._notes.clock()
            frame, before = self._live.pull(now_s), self._frame
            self._frame = frame
            if before is not None and frame.time_s > before.time_s:
                self._shown.append(Shown(now_s, now_s - frame.time_s))


class WatchedExtractor(FaceMeshExtractor):
    """Traces its work."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        """Return the motion of one frame, uint8 [H, W, 3]."""
        with self._notes.span("motion"):
            return super().extract(time_s, rgb)


def rehearse(
    model: Model,
    appearance: Appearance,
    pictures: Sequence[Pixels],
    notes: Notes,
    *,
    rungs: Sequence[Rung],
    seconds: int,
    hog_s: int,
    on_second: Callable[[float], None],
) -> None:
    """Drive sessions in real time and fill the notes.

    Args:
        model: what animates.
        appearance: the portrait of all sessions.
        pictures: what every webcam sees, uint8 [480, 640, 3] each, over and over.
        notes: of this run.
        rungs: the qualities a session may have.
        seconds: how long.
        hog_s: how long another process takes a core meanwhile, in the middle of what counts.
        on_second: is called with the time after every second.
    """
    admission = Admission(
        lowest_steps=rungs[-1].steps,
        new_frames=model.config.new_frames,
        cores=os.cpu_count() or 1,
        has_gpu=model.is_on_gpu,
    )

    def make(requests: Sequence[ClipRequest]) -> list[Clip]:
        with notes.span("animate"):
            return animate(model, requests, stage=notes.span)

    def draw(appearance: Appearance, motion: Motion, steps: int) -> MeshRender | None:
        with notes.span("draw"):
            return draw_ahead(appearance, motion, steps)

    def note(made: Made) -> None:
        admission.add(made)
        notes.made.append(made)
        if notes.trace is not None:
            for asked_s in made.asked_s:
                notes.trace.add_wait("backend wait", asked_s, made.started_s)

    with ExitStack() as stack:
        backend = LocalBackend(
            make,
            clock=notes.clock,
            gather_s=model.config.new_frames / FPS / 4,
            # A processor makes a batch no sooner than its clips one by one.
            max_batch=8 if model.is_on_gpu else 1,
            on_made=note,
        )
        stack.enter_context(closing(backend))
        lives, screens = [], []
        for number, shown in enumerate(notes.shown):
            live = LiveSession(
                str(number),
                appearance,
                extractor=partial(WatchedExtractor, notes),
                draw=draw,
                backend=backend,
                clock=notes.clock,
                new_frames=model.config.new_frames,
                ladder=Ladder(rungs, deadline_s=DEADLINE_S),
            )
            live.on_timed = notes.time
            lives.append(stack.enter_context(closing(live)))
            screens.append(Screen(live, shown, notes))
            live.on_frame = screens[-1].refresh
        hog_at = WARM_UP_S + (seconds - WARM_UP_S - hog_s) / 2
        hog_ticks = (round(hog_at * FPS), round((hog_at + hog_s) * FPS)) if hog_s else ()
        hog: subprocess.Popen[bytes] | None = None
        began_s = notes.clock()
        notes.start_s, notes.end_s = began_s + WARM_UP_S, began_s + seconds
        for tick in range(seconds * FPS):
            time.sleep(max(0.0, began_s + tick / FPS - notes.clock()))
            now_s = notes.clock()
            for live, screen in zip(lives, screens, strict=True):
                live.feed(DrivingFrame(time_s=now_s, rgb=pictures[tick % len(pictures)].copy))
                screen.refresh()
            if tick in hog_ticks:
                hog = _toggle_hog(hog, stack)
                notes.hog_s.append(notes.clock())
            if tick % FPS == FPS - 1:
                for took_s in notes.motion_s[-FPS:]:
                    admission.add_frame(took_s)
                notes.rss_mib.append(resident_mib())
                notes.dropped = [live.stats(now_s).dropped for live in lives]
                on_second(now_s)
        notes.capacity = admission.capacity


def _toggle_hog(
    hog: subprocess.Popen[bytes] | None, stack: ExitStack
) -> subprocess.Popen[bytes] | None:
    if hog is not None:
        hog.kill()
        hog.wait()
        return None
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    stack.callback(hog.wait)
    stack.callback(hog.kill)
    return hog


def warm_up(model: Model, appearance: Appearance, *, rungs: Sequence[Rung]) -> None:
    """Make what is slow the first time happen: imports, compiled code, kernels of a shape."""
    motion = scripted_motion(model.config.new_frames, fps=FPS)
    for steps in {rung.steps for rung in rungs}:
        ica = None
        for _ in ("a first clip", "a later one"):
            request = ClipRequest(appearance=appearance, motion=motion, ica=ica, steps=steps)
            ica = animate(model, [request])[0].ica


def perform(model: Model, appearance: Appearance) -> list[Pixels]:
    """Return what a webcam sees of the portrait's avatar acting, uint8 [480, 640, 3] each."""
    script = scripted_motion(PERFORMANCE, fps=FPS)
    pictures = []
    for start in range(0, PERFORMANCE, model.config.new_frames):
        motion = script[start : start + model.config.new_frames]
        [clip] = animate(model, [ClipRequest(appearance=appearance, motion=motion)])
        pictures += [_in_front_of_a_wall(face) for face in clip.pixels]
    return pictures


def _in_front_of_a_wall(face: Pixels) -> Pixels:
    height, width = WEBCAM_PX
    zoom = -(-height // face.shape[0])
    large = face.repeat(zoom, axis=0).repeat(zoom, axis=1)[:height]
    picture = np.full((height, width, 3), 110, np.uint8)
    left = (width - large.shape[1]) // 2
    picture[:, left : left + large.shape[1]] = large
    return picture


def resident_mib() -> int | None:
    """Return the memory this process holds, None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    [line] = [each for each in status.read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) // 1024
