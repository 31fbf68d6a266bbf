"""When each avatar frame is shown. Time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from streaming.types import AvatarFrame


class Playout:
    """Holds at most two chunks and always has a frame to show.

    A chunk starts when it arrives, or when the one before it has ended; its frames keep the
    spacing of their media times. A chunk of one frame is therefore shown at once. Without a due
    frame the last one is repeated; until the first one comes, the still portrait is shown.

    Attributes:
        repeated: pulls that found no new frame.
        dropped: frames that were never shown because a newer one was due.
    """

    def __init__(self, still: AvatarFrame, *, new_frames: int) -> None:
        """Show `still` until the first chunk of `new_frames` frames."""
        self._shown = still
        self._has_started = False
        self._capacity = 2 * new_frames
        self._queue: deque[tuple[float, AvatarFrame]] = deque()  # (due_s, frame)
        self._end_s = float("-inf")  # when what is queued has been shown
        self.repeated = 0
        self.dropped = 0

    def change_still(self, still: AvatarFrame) -> None:
        """Show another portrait as long as no frame has been generated."""
        if not self._has_started:
            self._shown = still

    def put(self, frames: Sequence[AvatarFrame], now_s: float) -> None:
        """Queue a chunk; the oldest frames give way when more than two chunks wait."""
        start_s = max(now_s, self._end_s)
        spacing_s = 0.0
        if len(frames) > 1:
            spacing_s = (frames[-1].time_s - frames[0].time_s) / (len(frames) - 1)
        self._queue.extend((start_s + i * spacing_s, frame) for i, frame in enumerate(frames))
        self._end_s = start_s + len(frames) * spacing_s
        while len(self._queue) > self._capacity:
            self._queue.popleft()
            self.dropped += 1

    def pull(self, now_s: float) -> AvatarFrame:
        """Return the newest frame that is due, else the one shown last."""
        due = 0
        while self._queue and self._queue[0][0] <= now_s:
            _, self._shown = self._queue.popleft()
            due += 1
        self._has_started |= due > 0
        self.repeated += due == 0
        self.dropped += max(due - 1, 0)
        return self._shown
