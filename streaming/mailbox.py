"""Which driving frames are looked at. No thread and no clock: the session has both."""

from __future__ import annotations

from collections import deque
from typing import Final

from streaming.types import DrivingFrame

_TOGETHER_S: Final = 0.01  # no camera is so quick: frames nearer to each other came together
_PATIENCE: Final = 0.5  # of the time between frames, for each of those that came together
_EARLY: Final = 0.25  # of it, that a frame may come before its place
_LONGEST_HELD_S: Final = 0.3  # by a packet that is lost, sent again, and lost once more
_CAPACITY: Final = 3


class Mailbox:
    """Holds the newest driving frame, or a few that a network held back and delivers together.

    One that waits does so because whoever takes them is busy: it gives way to a newer one, but for
    those that came together, which are given the time to be taken one after the other.

    Attributes:
        fed: frames that were put in.
        dropped: those of them that gave way, or that the rate had no place for.
    """

    def __init__(self) -> None:
        self.fed = 0
        self.dropped = 0
        self._waiting: deque[DrivingFrame] = deque()
        self._pace = Pace()
        self._newest_s = float("-inf")
        self._together = 1  # frames that came at once, the newest one the last of them

    def put(self, frame: DrivingFrame, fps: float) -> None:
        """Take a frame where at most `fps` a second are wanted."""
        self.fed += 1
        is_alone = self._together == 1
        patience_s = _TOGETHER_S if is_alone else _PATIENCE * self._together / fps
        is_together = frame.time_s - self._newest_s < _TOGETHER_S
        self._newest_s = frame.time_s
        self._together = min(self._together + 1, _CAPACITY) if is_together else 1
        waiting = self._waiting
        if waiting and frame.time_s - waiting[-1].time_s >= patience_s:
            self.dropped += len(waiting)
            waiting.clear()
        elif not self._pace.admits(frame.time_s, fps) or len(waiting) == _CAPACITY:
            self.dropped += 1
            if not waiting:
                return
            waiting.pop()
        waiting.append(frame)

    def take(self) -> DrivingFrame | None:
        """Return the oldest frame that waits."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> None:
        """Let go of what waits."""
        self._waiting.clear()

    def __bool__(self) -> bool:
        return bool(self._waiting)


class Pace:
    """Lets through at most so many driving frames a second, evenly."""

    def __init__(self) -> None:
        self._due_s = float("-inf")
        self._passed_s = float("-inf")

    def admits(self, time_s: float, fps: float) -> bool:
        """Return whether the driving frame of `time_s` has a place among `fps` a second.

        The places lie on a grid of their own: a camera whose frames come a little early or late
        keeps its rate, and of one that is too fast the frames nearest to the grid pass. Those that
        were held back on their way find the places since the last frame still free, unless that
        was a pause.
        """
        interval_s = 1 / fps
        near_s = interval_s / 2
        if time_s - self._passed_s >= near_s:
            self._due_s = max(self._due_s, self._passed_s + near_s)  # a slower camera saves none up
        if time_s < self._due_s - _EARLY * interval_s:
            return False
        self._passed_s = time_s
        is_on_grid = time_s - self._due_s < _LONGEST_HELD_S
        self._due_s = (self._due_s if is_on_grid else time_s) + interval_s
        return True
