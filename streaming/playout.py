"""When each avatar frame is shown. Time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from streaming.types import AvatarFrame

_HURRY: Final = 0.9  # of their spacing between frames that are catching up


class _Queued(NamedTuple):
    due_s: float
    put_s: float
    span_s: float
    frame: AvatarFrame


class Playout:
    """Holds at most two chunks and always has a frame to show.

    A chunk starts when it arrives, or when the one before it has ended; its frames keep the
    spacing of their media times. A chunk of one frame is therefore shown at once. One that would
    wait for longer than a frame is played a little faster, so that a delay does not stay. Without
    a due frame the last one is repeated; until the first one comes, the still portrait is shown.

    Attributes:
        shown: pulls that found a new frame.
        repeated: pulls that found none.
        dropped: frames that were never shown because a newer one was due.
        waited_s: how long the frame shown last was here before.
        span_s: how much older the first frame of its chunk is than the newest.
    """

    def __init__(self, still: AvatarFrame, *, new_frames: int) -> None:
        """Show `still` until the first chunk of `new_frames` frames."""
        self._shown = still
        self._capacity = 2 * new_frames
        self._queue: deque[_Queued] = deque()
        self._end_s = float("-inf")  # when what is queued has been shown
        self.shown = 0
        self.repeated = 0
        self.dropped = 0
        self.waited_s = 0.0
        self.span_s = 0.0

    @property
    def due_s(self) -> float | None:
        """When the next frame is to be shown, None when none waits."""
        return self._queue[0].due_s if self._queue else None

    def change_still(self, still: AvatarFrame) -> None:
        """Show another portrait as long as no frame has been generated."""
        if not self.shown:
            self._shown = still

    def put(self, frames: Sequence[AvatarFrame], now_s: float) -> None:
        """Queue a chunk; the oldest frames give way when more than two chunks wait."""
        start_s = max(now_s, self._end_s)
        span_s = frames[-1].time_s - frames[0].time_s
        spacing_s = span_s / max(len(frames) - 1, 1)
        if start_s - now_s > spacing_s:
            spacing_s *= _HURRY
        self._queue.extend(
            _Queued(start_s + i * spacing_s, now_s, span_s, frame) for i, frame in enumerate(frames)
        )
        self._end_s = start_s + len(frames) * spacing_s
        while len(self._queue) > self._capacity:
            self._queue.popleft()
            self.dropped += 1

    def pull(self, now_s: float) -> AvatarFrame:
        """Return the newest frame that is due, else the one shown last."""
        due = 0
        while self._queue and self._queue[0].due_s <= now_s:
            queued = self._queue.popleft()
            self._shown, self.span_s = queued.frame, queued.span_s
            self.waited_s = now_s - queued.put_s
            due += 1
        self.shown += due > 0
        self.repeated += due == 0
        self.dropped += max(due - 1, 0)
        return self._shown
