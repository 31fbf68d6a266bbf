"""Where clips are made: one thread that owns the device and batches the sessions that wait."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from mimaface.types import Clip, ClipRequest, is_finite
from streaming.gather import Gatherer, Shape, Waiting

logger = logging.getLogger(__name__)

T = TypeVar("T")
Animate = Callable[[Sequence[ClipRequest]], Sequence[Clip]]
Errand = tuple[Callable[[], Any], Future[Any]]


class BackendBusyError(Exception):
    """More clips wait than the backend takes; the session loses this one."""


class NotFiniteError(Exception):
    """A clip's motion or state, or what the clip came to, holds values that are no numbers."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one call of `animate` made, and when, on the backend's clock.

    Attributes:
        steps: denoising steps of its clips.
        size_px: side of their pictures.
        asked_s: when each clip was asked for.
        due_s: by when each was wanted.
        started_s: when the device began.
        ended_s: when it had all of them.
    """

    steps: int
    size_px: int
    asked_s: tuple[float, ...]
    due_s: tuple[float, ...]
    started_s: float
    ended_s: float

    @property
    def busy_s(self) -> float:
        """How long the device was busy."""
        return self.ended_s - self.started_s


class LocalBackend:
    """Runs `animate` on the thread `device-0`, the only one that touches the device.

    Attributes:
        overdue: clips so far that were asked for after they were due. They are made like all
            others (see `Gatherer`), but a session should have dropped what they show.
    """

    def __init__(
        self,
        animate: Animate,
        *,
        clock: Callable[[], float],
        gather_s: float = 0.0,
        max_batch: int = 8,
        max_waiting: int = 64,
        on_made: Callable[[Made], None] = lambda _made: None,
    ) -> None:
        """Start the thread; `close` ends it.

        Args:
            animate: makes the clips of requests, in their order.
            clock: returns seconds; those of `due_s` and `Made` are on it.
            gather_s: how long a clip may wait for those of other sessions, a quarter of a chunk's
                duration; with 0 a batch is only what waits anyway.
            max_batch: clips in a batch.
            max_waiting: clips that may wait.
            on_made: is told about every batch, in the backend's thread, before its clips are.
        """
        self.overdue = 0
        self._animate = animate
        self._clock = clock
        self._max_waiting = max_waiting
        self._on_made = on_made
        self._gatherer = Gatherer(gather_s=gather_s, max_batch=max_batch)
        self._errands: deque[Errand] = deque()
        self._wake = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="device-0", daemon=True)
        self._thread.start()

    def submit(self, request: ClipRequest, *, due_s: float) -> Future[Clip]:
        """Queue a clip; its future also carries the error if it cannot be made.

        The future's error is a BackendBusyError when too many wait, a NotFiniteError when motion,
        state or result hold no numbers, else what `animate` raised for this request.

        Args:
            request: what to make. A session asks for one clip at a time.
            due_s: by when it is wanted.

        Raises:
            ValueError: `due_s` is not a number.
            RuntimeError: the backend is closed.
        """
        if math.isnan(due_s):
            raise ValueError("due_s must be a time, found nan")
        future: Future[Clip] = Future()
        # The networks may turn what is no number into one: int8 knows no others.
        if not (is_finite(request.motion) and (request.ica is None or is_finite(request.ica))):
            future.set_exception(NotFiniteError("the clip's motion or state is not finite"))
            return future
        with self._wake:
            if self._is_closed:
                raise RuntimeError("the backend is closed")
            if len(self._gatherer) < self._max_waiting:
                now_s = self._clock()
                self._note_overdue(now_s - due_s)
                self._gatherer.add(
                    Waiting(request=request, future=future, asked_s=now_s, due_s=due_s)
                )
                self._wake.notify()
                return future
        future.set_exception(BackendBusyError(f"{self._max_waiting} clips wait already"))
        return future

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something else that needs the device, between two batches of clips.

        Callers wait for the result, so no more of it queues than there are callers.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._is_closed:
                raise RuntimeError("the backend is closed")
            self._errands.append((function, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Cancel what waits, finish what runs and join the thread."""
        with self._wake:
            self._is_closed = True
            waiting: list[Future[Any]] = [clip.future for clip in self._gatherer.clear()]
            waiting += [future for _, future in self._errands]
            self._errands.clear()
            self._wake.notify()
        for future in waiting:
            future.cancel()
        self._thread.join()

    def _note_overdue(self, late_s: float) -> None:
        if late_s <= 0:
            return
        if self.overdue == 0:
            logger.warning("a clip was asked for %.0f ms after it was due", 1000 * late_s)
        self.overdue += 1

    def _run(self) -> None:
        while not self._is_closed:
            batch, errand = self._take()
            # A future that its owner cancelled takes no result.
            wanted = [clip for clip in batch if clip.future.set_running_or_notify_cancel()]
            self._land([clip for clip in batch if clip not in wanted])
            if wanted:
                self._make(wanted)
            if errand is not None:
                _run_errand(*errand)

    def _take(self) -> tuple[list[Waiting], Errand | None]:
        with self._wake:
            while not self._is_closed:
                now_s = self._clock()
                batch = self._gatherer.take(now_s)
                errand = self._errands.popleft() if self._errands else None
                if batch or errand is not None:
                    return batch, errand
                wake_s = self._gatherer.wake_s(now_s)
                self._wake.wait(None if wake_s is None else wake_s - now_s)
        return [], None

    def _make(self, batch: Sequence[Waiting]) -> None:
        started_s = self._clock()
        try:
            clips = self._animate([clip.request for clip in batch])
            results = list(zip(batch, clips, strict=True))
        except Exception as error:
            if len(batch) == 1:
                self._land(batch)
                batch[0].future.set_exception(error)
                return
            # One bad request must not cost the others their clip.
            for single in batch:
                self._make([single])
            return
        self._land(batch)
        shape = Shape.of(batch[0].request)
        self._on_made(
            Made(
                steps=shape.steps,
                size_px=shape.size_px,
                asked_s=tuple(clip.asked_s for clip in batch),
                due_s=tuple(clip.due_s for clip in batch),
                started_s=started_s,
                ended_s=self._clock(),
            )
        )
        for waiting, clip in results:
            if clip.is_finite and (clip.ica is None or is_finite(clip.ica)):
                waiting.future.set_result(clip)
            else:
                waiting.future.set_exception(NotFiniteError("what the clip came to is not finite"))

    def _land(self, batch: Sequence[Waiting]) -> None:
        # Before the futures are done, since their sessions may ask for the next clip then.
        with self._wake:
            for clip in batch:
                self._gatherer.land(clip)


def _run_errand(function: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
