"""One live session: driving frames in, avatar frames out, neither call ever waits.

`feed` leaves the newest frame in a mailbox. The thread `motion-<name>` turns it into motion, draws
the mesh that is moved by it and asks the backend for clips, the backend's thread puts them into the
playout, `pull` shows them. The pixels of a driving frame are opened in the motion thread, by the
extractor's call, and go nowhere else.

Nothing queues: whoever falls behind leaves frames out, and the ladder then takes work away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, get_args

from mimaface.motion import MotionExtractor, RelativeMotion
from mimaface.types import Appearance, Clip, ClipRequest, MeshRender, Motion
from streaming.backend import LocalBackend
from streaming.ladder import Ladder, Rung
from streaming.mailbox import Mailbox
from streaming.metrics import LiveStats, Recent, Stage, State
from streaming.playout import Playout
from streaming.session import Session
from streaming.types import AvatarFrame, DrivingFrame

logger = logging.getLogger(__name__)

Draw = Callable[[Appearance, Motion, int], MeshRender | None]
"""Draws what a clip of so many denoising steps is made from, None if only the backend can."""

LOST_AFTER_S: Final = 0.3  # without a driving frame, or without a face in it
# Without a face for longer, the avatar has been in its idle pose for a second: nothing is made any
# more, and a face is looked for less often.
REST_AFTER_S: Final = 2.0
SEARCH_FPS: Final = 10.0


class LiveSession:
    """A webcam drives a portrait.

    Attributes:
        on_frame: called when a new avatar frame can be pulled, by the backend's thread or, when the
            frame was there at once, by the motion thread.
        on_timed: called by any of the threads with a stage and the seconds a frame took in it.
        has_failed: whether the motion thread has ended by an error; nothing comes any more.
    """

    def __init__(
        self,
        name: str,
        appearance: Appearance,
        *,
        extractor: Callable[[], MotionExtractor],
        draw: Draw,
        backend: LocalBackend,
        clock: Callable[[], float],
        new_frames: int,
        ladder: Ladder,
    ) -> None:
        """Start the motion thread, which builds its extractor at once.

        Args:
            name: for the thread and the log.
            appearance: the portrait.
            extractor: makes the extractor; called in the motion thread, which also closes it.
            draw: called in the motion thread, while the backend makes the clip before; a ValueError
                is the backend's to tell.
            backend: makes the clips.
            clock: the session's clock; driving frames and `now_s` come from it too.
            new_frames: N, frames a clip adds.
            ladder: chooses the denoising steps and the rate, at which the avatar also keeps moving
                without driving frames; this session's own. A driving frame older than its deadline
                is not looked at any more.
        """
        self.on_frame: Callable[[], None] = lambda: None
        self.on_timed: Callable[[Stage, float], None] = lambda _stage, _seconds: None
        self.has_failed = False
        self._name = name
        self._make_extractor = extractor
        self._draw = draw
        self._backend = backend
        self._clock = clock
        self._ladder = ladder

        self._post = threading.Condition()  # guards the mailbox and rings when something came
        self._mailbox = Mailbox()
        self._is_paused = False
        self._is_closed = False

        # Guards the session, the playout and the ladder, for a few microseconds each time.
        self._lock = threading.Lock()
        self._session = Session(appearance, new_frames=new_frames)
        self._take_rung()
        still = AvatarFrame(time_s=clock(), pixels=appearance.source, cutout=appearance.cutout)
        self._playout = Playout(still, new_frames=new_frames)

        # When there last was a reason to move: a face, a first driving frame, another portrait.
        self._awake_s = float("inf")

        # Written by the motion thread alone.
        self._relative = RelativeMotion()
        self._arrived_s: float | None = None  # time of the newest driving frame
        self._seen_s: float | None = None  # time of the newest one with a face
        self._pushed_s = float("-inf")  # time of the newest motion
        self._ready_s = float("-inf")  # when that was there
        self._late = 0  # driving frames that were too old to be looked at
        self._blind = 0  # driving frames the extractor failed on

        self._wants_neutral = threading.Event()
        self._arrivals, self._shown, self._sent = Recent(), Recent(), Recent()
        self._times: dict[Stage, Recent] = {stage: Recent() for stage in get_args(Stage)}
        self._thread = threading.Thread(target=self._run, name=f"motion-{name}", daemon=True)
        self._thread.start()

    def feed(self, frame: DrivingFrame) -> None:
        """Take a driving frame; the mailbox chooses which are looked at."""
        with self._post:
            if self._is_paused or self._is_closed:
                return
            self._arrivals.add(frame.time_s)
            self._mailbox.put(frame, self._wanted_fps(frame.time_s))
            if self._mailbox:
                self._post.notify()

    def pull(self, now_s: float) -> AvatarFrame:
        """Return the frame to show now."""
        with self._lock:
            shown = self._playout.shown
            frame = self._playout.pull(now_s)
            is_new = self._playout.shown > shown
            if is_new:
                self._ladder.shown(frame.time_s + self._playout.span_s, now_s)
                self._take_rung()
            waited_s = self._playout.waited_s
        self._sent.add(now_s)
        if is_new:
            self._shown.add(now_s)
            self._note("playout", now_s, waited_s)
            self._note("server", now_s, now_s - frame.time_s)
        return frame

    def recalibrate(self) -> None:
        """Take the driver's neutral from the coming second."""
        self._wants_neutral.set()

    def pause(self, is_paused: bool) -> None:
        """Stop looking at driving frames; the avatar eases to its idle pose."""
        with self._post:
            self._is_paused = is_paused
            self._mailbox.clear()

    def change_source(self, appearance: Appearance) -> None:
        """Show another portrait from the next clip on."""
        with self._lock:
            self._session.change_source(appearance)
            now_s = self._clock()
            if self._arrived_s is not None:
                self._awake_s = now_s  # it has to be made once to be shown
            still = AvatarFrame(time_s=now_s, pixels=appearance.source, cutout=appearance.cutout)
            self._playout.change_still(still)

    def state(self, now_s: float) -> State:
        """Return what the driver should know."""
        if self._is_paused:
            return "paused"
        if self._arrived_s is None:
            return "waiting"
        if self._seen_s is None or now_s - self._seen_s > LOST_AFTER_S:
            return "lost"
        return "calibrating" if self.calibration < 1 else "live"

    @property
    def calibration(self) -> float:
        """How far the driver's neutral is calibrated, 0 to 1."""
        return 0.0 if self._wants_neutral.is_set() else self._relative.calibration

    def is_at_rest(self, now_s: float) -> bool:
        """Return whether the avatar stays as it is until a face comes back."""
        return now_s - self._awake_s > REST_AFTER_S

    @property
    def rung(self) -> Rung:
        """The quality the session can afford now."""
        return self._ladder.rung

    @property
    def due_s(self) -> float | None:
        """When the next avatar frame is to be shown, None when none waits."""
        with self._lock:
            return self._playout.due_s

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many frames went which way so far, by stage and outcome."""
        return {
            ("track", "in"): self._mailbox.fed,
            ("track", "dropped"): self._mailbox.dropped + self._late + self._blind,
            ("infer", "dropped"): self._session.dropped + self._session.failed,
            ("playout", "out"): self._playout.shown,
            ("playout", "dropped"): self._playout.dropped,
            ("playout", "repeated"): self._playout.repeated,
        }

    def stats(self, now_s: float) -> LiveStats:
        """Return what the session did."""
        rung = self.rung
        return LiveStats(
            state=self.state(now_s),
            calibration=self.calibration,
            fps=self._shown.rate(now_s),
            sent_fps=self._sent.rate(now_s),
            driving_fps=self._arrivals.rate(now_s),
            rung=self._ladder.index,
            steps=rung.steps,
            most_fps=rung.fps,
            is_half=rung.is_half,
            dropped=self._mailbox.dropped + self._late + self._session.dropped,
            repeated=self._playout.repeated,
            failed=self._blind + self._session.failed,
            **{f"{stage}_ms": times.quantiles_ms(now_s) for stage, times in self._times.items()},
        )

    def close(self) -> None:
        """End the motion thread and wait for it."""
        with self._post:
            self._is_closed = True
            self._mailbox.clear()
            self._post.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            extractor = self._make_extractor()
            try:
                while not self._is_closed:
                    self._step(extractor)
            finally:
                extractor.close()
        except Exception:
            logger.exception("session %s: the motion thread ended", self._name)
            self.has_failed = True

    def _step(self, extractor: MotionExtractor) -> None:
        frame = self._next_frame()
        now_s = self._clock()
        if self._wants_neutral.is_set():
            self._relative.recalibrate()
            self._wants_neutral.clear()
        motion = self._look(extractor, frame, now_s)
        if motion is None:
            return
        relative = self._relative.push(motion)
        moved = self._draw_ahead(relative)
        if frame is not None:
            self._note("motion", now_s, self._clock() - now_s)
        with self._lock:
            self._ready_s = self._clock()
            request = self._session.push(relative, moved)
        if request is not None:
            self._submit(request)

    def _draw_ahead(self, relative: Motion) -> MeshRender | None:
        with self._lock:
            portrait, steps = self._session.portrait, self._session.steps
        try:
            return self._draw(portrait, relative, steps)
        except (ValueError, MemoryError):  # which the clip will fail with, too
            return None

    def _look(
        self, extractor: MotionExtractor, frame: DrivingFrame | None, now_s: float
    ) -> Motion | None:
        # The absolute motion that the avatar is to show next, None when it stays as it is.
        if frame is not None:
            self._arrived_s = frame.time_s
            self._awake_s = min(self._awake_s, frame.time_s)
            self._note("wait", now_s, now_s - frame.time_s)
            if now_s - frame.time_s > self._ladder.deadline_s:
                self._late += 1
                return None
            motion = self._extract(extractor, frame)
        elif self._arrived_s is not None and now_s - self._arrived_s > LOST_AFTER_S:
            motion = Motion.missing(now_s)
        else:
            return None
        time_s = float(motion.time_s[0])
        if time_s <= self._pushed_s:  # a frame that a missing one has overtaken
            return None
        self._pushed_s = time_s
        if motion.valid[0]:
            self._seen_s = self._awake_s = time_s
        elif self.is_at_rest(time_s):
            return None
        return motion

    def _next_frame(self) -> DrivingFrame | None:
        with self._post:
            if not self._mailbox and not self._is_closed:
                self._post.wait(1 / self._wanted_fps(self._clock()))
            return self._mailbox.take()

    def _wanted_fps(self, now_s: float) -> float:
        return SEARCH_FPS if self.is_at_rest(now_s) else self.rung.fps

    def _extract(self, extractor: MotionExtractor, frame: DrivingFrame) -> Motion:
        try:
            return extractor.extract(frame.time_s, frame.rgb())
        except Exception:
            if self._blind == 0:
                logger.exception("session %s: a driving frame gave no motion", self._name)
            self._blind += 1
            return Motion.missing(frame.time_s)

    def _submit(self, request: ClipRequest) -> None:
        now_s = self._clock()
        self._note("queue", now_s, now_s - self._ready_s)
        due_s = float(request.motion.time_s[-1]) + self._ladder.deadline_s
        future = self._backend.submit(request, due_s=due_s)
        future.add_done_callback(partial(self._receive, now_s))

    def _receive(self, asked_s: float, future: Future[Clip]) -> None:
        if self._is_closed or future.cancelled():
            return
        now_s = self._clock()
        error = future.exception()
        with self._lock:
            self._session.drop_before(now_s - self._ladder.deadline_s)
            if error is None:
                clip = future.result()
                self._ladder.made(asked_s, now_s, len(clip.pixels))
                self._take_rung()
                frames, request = self._session.complete(clip)
                self._playout.put(frames, now_s)
            else:
                if isinstance(error, MemoryError):
                    self._ladder.overflowed(now_s)
                    self._take_rung()
                request = self._session.fail()
        if error is None:
            self._note("render", now_s, now_s - asked_s)
            self.on_frame()
        elif self._session.failed == 1:
            logger.error("session %s: a clip failed", self._name, exc_info=error)
        if request is not None:
            self._submit(request)

    def _take_rung(self) -> None:
        rung = self._ladder.rung
        self._session.steps, self._session.is_half = rung.steps, rung.is_half

    def _note(self, stage: Stage, now_s: float, seconds: float) -> None:
        self._times[stage].add(now_s, seconds)
        self.on_timed(stage, seconds)
