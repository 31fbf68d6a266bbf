"""One live session: driving frames in, avatar frames out, neither call ever waits.

`feed` leaves the newest frame in a mailbox of one. The thread `motion-<name>` turns it into
motion and asks the backend for clips, the backend's thread puts them into the playout, `pull`
shows them. The pixels of a driving frame are opened in the motion thread, by the extractor's
call, and go nowhere else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from mimaface.motion import MotionExtractor, RelativeMotion
from mimaface.types import Appearance, Clip, ClipRequest, Motion
from streaming.backend import LocalBackend
from streaming.metrics import Quantiles, Recent
from streaming.playout import Playout
from streaming.session import Session
from streaming.types import AvatarFrame, DrivingFrame

logger = logging.getLogger(__name__)

LOST_AFTER_S: Final = 0.3  # without a driving frame, or without a face in it

State = Literal["waiting", "calibrating", "live", "lost", "paused"]


@dataclass(frozen=True, kw_only=True)
class LiveStats:
    """What a live session did; rates and times over the last `metrics.SPAN_S` seconds.

    Attributes:
        state: waiting for the camera, calibrating, live, lost (no camera or no face) or paused.
        calibration: progress of the driver's neutral, 0 to 1.
        fps: new avatar frames shown per second.
        sent_fps: avatar frames shown per second, repeats included.
        driving_fps: driving frames that arrived per second.
        dropped: driving frames so far that a newer one replaced before they were animated.
        repeated: avatar frames so far that were shown again for want of a newer one.
        failed: frames without motion and clips that were lost to errors so far.
        motion_ms: time in the extractor.
        render_ms: time from asking the backend to having the clip.
        server_ms: age of a driving frame when its avatar frame is shown.
    """

    state: State
    calibration: float
    fps: float
    sent_fps: float
    driving_fps: float
    dropped: int
    repeated: int
    failed: int
    motion_ms: Quantiles
    render_ms: Quantiles
    server_ms: Quantiles


class LiveSession:
    """A webcam drives a portrait.

    Attributes:
        on_frame: called by the backend's thread when a new avatar frame can be pulled.
    """

    def __init__(
        self,
        name: str,
        appearance: Appearance,
        *,
        extractor: Callable[[], MotionExtractor],
        backend: LocalBackend,
        clock: Callable[[], float],
        new_frames: int,
        fps: float,
        steps: int = 0,
    ) -> None:
        """Start the motion thread, which builds its extractor at once.

        Args:
            name: for the thread and the log.
            appearance: the portrait.
            extractor: makes the extractor; called in the motion thread, which also closes it.
            backend: makes the clips.
            clock: the session's clock; driving frames and `now_s` come from it too.
            new_frames: N, frames a clip adds.
            fps: rate at which the avatar keeps moving without driving frames.
            steps: denoising steps.
        """
        self.on_frame: Callable[[], None] = lambda: None
        self._name = name
        self._make_extractor = extractor
        self._backend = backend
        self._clock = clock
        self._interval_s = 1 / fps

        self._mailbox = threading.Condition()
        self._driving: DrivingFrame | None = None
        self._is_paused = False
        self._is_closed = False
        self._unseen = 0

        # Guards the session and the playout, for a few microseconds each time.
        self._lock = threading.Lock()
        self._session = Session(appearance, new_frames=new_frames, steps=steps)
        still = AvatarFrame(time_s=clock(), pixels=appearance.source)
        self._playout = Playout(still, new_frames=new_frames)

        # Written by the motion thread alone.
        self._relative = RelativeMotion()
        self._arrived_s: float | None = None  # time of the newest driving frame
        self._seen_s: float | None = None  # time of the newest one with a face
        self._pushed_s = float("-inf")  # time of the newest motion
        self._blind = 0  # driving frames the extractor failed on

        self._wants_neutral = threading.Event()
        self._arrivals, self._shown, self._sent = Recent(), Recent(), Recent()
        self._motion_times, self._render_times = Recent(), Recent()
        self._thread = threading.Thread(target=self._run, name=f"motion-{name}", daemon=True)
        self._thread.start()

    def feed(self, frame: DrivingFrame) -> None:
        """Take a driving frame; one that nobody has looked at yet is replaced."""
        with self._mailbox:
            if self._is_paused or self._is_closed:
                return
            self._unseen += self._driving is not None
            self._driving = frame
            self._mailbox.notify()
        self._arrivals.add(frame.time_s)

    def pull(self, now_s: float) -> AvatarFrame:
        """Return the frame to show now."""
        with self._lock:
            repeated = self._playout.repeated
            frame = self._playout.pull(now_s)
            is_new = self._playout.repeated == repeated
        self._sent.add(now_s)
        if is_new:
            self._shown.add(now_s, now_s - frame.time_s)
        return frame

    def recalibrate(self) -> None:
        """Take the driver's neutral from the coming second."""
        self._wants_neutral.set()

    def pause(self, is_paused: bool) -> None:
        """Stop looking at driving frames; the avatar eases to its idle pose."""
        with self._mailbox:
            self._is_paused = is_paused
            self._driving = None

    def change_source(self, appearance: Appearance) -> None:
        """Show another portrait from the next clip on."""
        with self._lock:
            self._session.change_source(appearance)
            still = AvatarFrame(time_s=self._clock(), pixels=appearance.source)
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

    def stats(self, now_s: float) -> LiveStats:
        """Return what the session did."""
        return LiveStats(
            state=self.state(now_s),
            calibration=self.calibration,
            fps=self._shown.rate(now_s),
            sent_fps=self._sent.rate(now_s),
            driving_fps=self._arrivals.rate(now_s),
            dropped=self._unseen + self._session.dropped,
            repeated=self._playout.repeated,
            failed=self._blind + self._session.failed,
            motion_ms=self._motion_times.quantiles_ms(now_s),
            render_ms=self._render_times.quantiles_ms(now_s),
            server_ms=self._shown.quantiles_ms(now_s),
        )

    def close(self) -> None:
        """End the motion thread and wait for it."""
        with self._mailbox:
            self._is_closed = True
            self._driving = None
            self._mailbox.notify()
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

    def _step(self, extractor: MotionExtractor) -> None:
        frame = self._next_frame()
        now_s = self._clock()
        if self._wants_neutral.is_set():
            self._relative.recalibrate()
            self._wants_neutral.clear()
        if frame is not None:
            self._arrived_s = frame.time_s
            motion = self._extract(extractor, frame)
            took_s = self._clock() - now_s
            self._motion_times.add(now_s, took_s)
        elif self._arrived_s is not None and now_s - self._arrived_s > LOST_AFTER_S:
            motion = Motion.missing(now_s)
        else:
            return
        time_s = float(motion.time_s[0])
        if time_s <= self._pushed_s:  # a frame that a missing one has overtaken
            return
        self._pushed_s = time_s
        if motion.valid[0]:
            self._seen_s = time_s
        relative = self._relative.push(motion)
        with self._lock:
            request = self._session.push(relative)
        if request is not None:
            self._submit(request)

    def _next_frame(self) -> DrivingFrame | None:
        with self._mailbox:
            if self._driving is None and not self._is_closed:
                self._mailbox.wait(self._interval_s)
            frame, self._driving = self._driving, None
            return frame

    def _extract(self, extractor: MotionExtractor, frame: DrivingFrame) -> Motion:
        try:
            return extractor.extract(frame.time_s, frame.rgb())
        except Exception:
            if self._blind == 0:
                logger.exception("session %s: a driving frame gave no motion", self._name)
            self._blind += 1
            return Motion.missing(frame.time_s)

    def _submit(self, request: ClipRequest) -> None:
        future = self._backend.submit(request)
        future.add_done_callback(partial(self._receive, self._clock()))

    def _receive(self, submitted_s: float, future: Future[Clip]) -> None:
        if self._is_closed or future.cancelled():
            return
        now_s = self._clock()
        error = future.exception()
        with self._lock:
            if error is None:
                frames, request = self._session.complete(future.result())
                self._playout.put(frames, now_s)
            else:
                request = self._session.fail()
        if error is None:
            self._render_times.add(now_s, now_s - submitted_s)
            self.on_frame()
        elif self._session.failed == 1:
            logger.error("session %s: a clip failed", self._name, exc_info=error)
        if request is not None:
            self._submit(request)
