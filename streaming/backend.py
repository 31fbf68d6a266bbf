"""Where clips are made: one thread that owns the device and batches the sessions that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from mimaface.types import Clip, ClipRequest

T = TypeVar("T")
Animate = Callable[[Sequence[ClipRequest]], Sequence[Clip]]
Waiting = tuple[ClipRequest, Future[Clip]]
Errand = tuple[Callable[[], Any], Future[Any]]


class BackendBusyError(Exception):
    """More clips wait than the backend takes; the session loses this one."""


class LocalBackend:
    """Runs `animate` on the thread `device-0`, the only one that touches the device."""

    def __init__(self, animate: Animate, *, max_batch: int = 8, max_waiting: int = 64) -> None:
        """Start the thread; `close` ends it."""
        self._animate = animate
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[Waiting] = deque()
        self._errands: deque[Errand] = deque()
        self._wake = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="device-0", daemon=True)
        self._thread.start()

    def submit(self, request: ClipRequest) -> Future[Clip]:
        """Queue a clip; its future also carries the error if it cannot be made."""
        future: Future[Clip] = Future()
        with self._wake:
            if self._is_closed:
                raise RuntimeError("the backend is closed")
            if len(self._waiting) < self._max_waiting:
                self._waiting.append((request, future))
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
            waiting = [future for _, future in (*self._waiting, *self._errands)]
            self._waiting.clear()
            self._errands.clear()
            self._wake.notify()
        for future in waiting:
            future.cancel()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            batch, errand = self._take()
            # A future that its owner cancelled takes no result.
            wanted = [each for each in batch if each[1].set_running_or_notify_cancel()]
            if wanted:
                self._make(wanted)
            if errand is not None:
                _run_errand(*errand)

    def _take(self) -> tuple[list[Waiting], Errand | None]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._errands or self._is_closed)
            size = min(len(self._waiting), self._max_batch)
            batch = [self._waiting.popleft() for _ in range(size)]
            return batch, self._errands.popleft() if self._errands else None

    def _make(self, batch: Sequence[Waiting]) -> None:
        try:
            clips = self._animate([request for request, _ in batch])
            results = list(zip(batch, clips, strict=True))
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            # One bad request must not cost the others their clip.
            for single in batch:
                self._make([single])
            return
        for (_, future), clip in results:
            future.set_result(clip)


def _run_errand(function: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
