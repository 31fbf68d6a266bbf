"""Which of the clips that wait are made together, and when. No thread and no clock.

The earliest deadline goes first. A clip may wait a little for others of its shape, because a
batch costs the device less than its clips one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, NamedTuple

from mimaface.types import Clip, ClipRequest

ACTIVE_S: Final = 1.0  # a session that asked for nothing in so long is not waited for


class Shape(NamedTuple):
    """What requests must have in common to share a batch."""

    steps: int
    frames: int
    carried: int
    size_px: int

    @staticmethod
    def of(request: ClipRequest) -> Shape:
        """Return a request's shape."""
        return Shape(
            steps=request.steps,
            frames=len(request.motion),
            carried=0 if request.ica is None else len(request.ica.latents),
            size_px=len(request.appearance.source),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """A clip that was asked for.

    Attributes:
        request: what is asked for.
        future: gets the clip, or the error.
        asked_s: when it was asked for.
        due_s: by when it is wanted, on the same clock.
    """

    request: ClipRequest
    future: Future[Clip]
    asked_s: float
    due_s: float

    @property
    def rank_s(self) -> float:
        """Its place in the order: nobody gets further ahead than by wanting a clip at once."""
        return max(self.due_s, self.asked_s)


class Gatherer:
    """Holds what waits and cuts it into batches.

    It knows of sessions what their requests tell. Each has one clip in flight, so as many of a
    shape as were in flight at once in the last `ACTIVE_S` seconds are active and get in each
    other's way; a batch is worth waiting for until they all wait. A session that is alone, or
    whose clips never meet another's, waits for nobody.

    No clip is dropped for being late. Its session asks for nothing newer until it has this one,
    so there is nothing to replace it with, and without it the carried state would be lost. It
    waits for one batch of every other shape at most, since later requests have later deadlines.
    """

    def __init__(self, *, gather_s: float, max_batch: int) -> None:
        """Let no clip wait for others longer than `gather_s`, nor with more than `max_batch`."""
        self._gather_s = gather_s
        self._max_batch = max_batch
        self._waiting: list[Waiting] = []
        self._in_flight: Counter[Shape] = Counter()
        # For every shape the numbers in flight that no later one exceeds, and when they rose.
        self._crowds: defaultdict[Shape, deque[tuple[float, int]]] = defaultdict(deque)

    def __len__(self) -> int:
        """Return how many clips wait."""
        return len(self._waiting)

    def add(self, clip: Waiting) -> None:
        """Let a clip wait."""
        shape = Shape.of(clip.request)
        self._waiting.append(clip)
        self._in_flight[shape] += 1
        count, crowds = self._in_flight[shape], self._crowds[shape]
        while crowds and crowds[-1][1] <= count:
            crowds.pop()
        crowds.append((clip.asked_s, count))

    def take(self, now_s: float) -> list[Waiting]:
        """Return the clips to make together now, the earliest deadline first; perhaps none."""
        self._forget_cancelled()
        for shape, group in self._groups().items():
            if now_s >= self._patience_s(shape, group, now_s):
                batch = group[: self._most(shape)]
                taken = set(batch)
                self._waiting = [each for each in self._waiting if each not in taken]
                return batch
        return []

    def wake_s(self, now_s: float) -> float | None:
        """Return when there is something to take if nothing else comes, None if nothing waits."""
        return min(
            (self._patience_s(shape, group, now_s) for shape, group in self._groups().items()),
            default=None,
        )

    def land(self, clip: Waiting) -> None:
        """Note that a clip that was taken is made, or lost."""
        shape = Shape.of(clip.request)
        self._in_flight[shape] -= 1
        if not self._in_flight[shape]:
            del self._in_flight[shape]

    def clear(self) -> list[Waiting]:
        """Return everything that waits, and forget it."""
        waiting, self._waiting = self._waiting, []
        for clip in waiting:
            self.land(clip)
        return waiting

    def _groups(self) -> dict[Shape, list[Waiting]]:
        groups: dict[Shape, list[Waiting]] = {}
        for clip in sorted(self._waiting, key=lambda each: each.rank_s):
            groups.setdefault(Shape.of(clip.request), []).append(clip)
        return groups

    def _most(self, shape: Shape) -> int:
        # Meshes are drawn one by one: together, the first would only wait for the last.
        return self._max_batch if shape.steps else 1

    def _patience_s(self, shape: Shape, group: list[Waiting], now_s: float) -> float:
        # Until when a group waits for more.
        if len(group) >= min(self._active(shape, now_s), self._most(shape)):
            return now_s
        return min(min(each.asked_s + self._gather_s, each.rank_s) for each in group)

    def _active(self, shape: Shape, now_s: float) -> int:
        crowds = self._crowds[shape]
        while crowds and now_s - crowds[0][0] > ACTIVE_S:
            crowds.popleft()
        if not crowds:
            del self._crowds[shape]
            return self._in_flight[shape]
        return max(crowds[0][1], self._in_flight[shape])

    def _forget_cancelled(self) -> None:
        for clip in [each for each in self._waiting if each.future.cancelled()]:
            self._waiting.remove(clip)
            self.land(clip)
