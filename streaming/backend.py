"""Where clips are made: one thread that owns the device and batches the sessions that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mimaface.types import Clip, ClipRequest

Animate = Callable[[Sequence[ClipRequest]], Sequence[Clip]]


class BackendBusyError(Exception):
    """More clips wait than the backend takes; the session loses this one."""


class LocalBackend:
    """Runs `animate` on the thread `device-0`, the only one that touches the device."""

    def __init__(self, animate: Animate, *, max_batch: int = 8, max_waiting: int = 64) -> None:
        """Start the thread; `close` ends it."""
        self._animate = animate
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[ClipRequest, Future[Clip]]] = deque()
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

    def close(self) -> None:
        """Cancel what waits, finish what runs and join the thread."""
        with self._wake:
            self._is_closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._wake.notify()
        for _, future in waiting:
            future.cancel()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            # A future that its owner cancelled takes no result.
            wanted = [each for each in batch if each[1].set_running_or_notify_cancel()]
            if wanted:
                self._make(wanted)

    def _take(self) -> list[tuple[ClipRequest, Future[Clip]]]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._is_closed)
            size = min(len(self._waiting), self._max_batch)
            return [self._waiting.popleft() for _ in range(size)]

    def _make(self, batch: Sequence[tuple[ClipRequest, Future[Clip]]]) -> None:
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
