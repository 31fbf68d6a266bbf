"""Which quality a session can afford. No thread, no clock: time is an argument."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

SMOOTH_FPS: Final = 25  # that few people tell from more: given up before denoising steps are
LOWER_RATES: Final = (20, 15)  # frames a second, once there are no steps left to save

_WINDOW_S: Final = 1.0
_SETTLED_S: Final = 0.3  # the first clips of a rung take longer than those that follow
_UP_AFTER_S: Final = 3.0
_ROOM: Final = 0.8  # of the load that would be too much; a better rung must fit into it
_ENOUGH: Final = 4  # frames to say that there is room, or clips that the rate is not reached
_PROVEN_S: Final = 20.0  # a rung that held for so long starts with a clean record
_LONGEST_BAR_S: Final = 300.0
# A rung need not be smoother than smooth to be worth having; it is left when it falls short by
# more than a fifth, and taken again when it would be reached.
_SHORTFALL: Final = 0.8

Sample = tuple[float, float]  # now_s, seconds


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A quality.

    Attributes:
        steps: denoising steps of a clip.
        fps: driving frames a second, at most.
        is_half: whether the picture has half the side.
    """

    steps: int
    fps: float
    is_half: bool = False


def rungs_for(steps: Sequence[int], *, fps: float, has_half: bool = False) -> list[Rung]:
    """Return the rungs from best to worst.

    Args:
        steps: denoising steps to choose from, at least one number, in any order.
        fps: frames per second at best; rates that look jerky come after the fewest steps.
        has_half: whether the picture may come to half the side, which is the last there is to
            save: without denoising steps a fifth of a frame's cost, with them next to nothing.
    """
    rates = [fps, SMOOTH_FPS] if fps > SMOOTH_FPS else [fps]
    smooth = [
        Rung(steps=each, fps=rate) for each in sorted(set(steps), reverse=True) for rate in rates
    ]
    rungs = smooth + [Rung(steps=min(steps), fps=rate) for rate in LOWER_RATES if rate < fps]
    return [*rungs, replace(rungs[-1], is_half=True)] if has_half and not min(steps) else rungs


@dataclass(kw_only=True)
class _Record:
    """How the attempts to climb to one rung went.

    Attributes:
        failures: attempts in a row that did not hold.
        barred_until_s: until then only a forecast that it fits leads to another attempt.
        ratio: load of the last failed attempt over that of the rung below, just before.
    """

    failures: int = 0
    barred_until_s: float = float("-inf")
    ratio: float = 1.0


class Ladder:
    """Goes down at once when frames come late, and up when a better rung would fit.

    The *load* is 1 where the rung is too much: the 95th percentile of the frames' age over the
    deadline, or the time a frame takes over the time there is for it. A rung is left when its load
    in the last second is more than 1, for the first one below with fewer steps or with a rate that
    takes enough off; a single late frame is a hiccup. A better rung is tried after three seconds
    with room, and the next ones each after another second, so that a session soon has its quality
    back. If it does not hold, its load tells what it costs over the rung below: it is tried again
    once the load has fallen so far that it would fit, or else after a while that doubles with
    every failure.

    Attributes:
        switches: how often the rung changed.
    """

    def __init__(self, rungs: Sequence[Rung], *, deadline_s: float) -> None:
        """Start on the first rung.

        Args:
            rungs: from best to worst, as `rungs_for` returns them.
            deadline_s: age of a driving frame at which its avatar frame is late.

        Raises:
            ValueError: there is no rung, or the deadline is not positive.
        """
        if not rungs:
            raise ValueError("a ladder needs at least one rung")
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be positive, found {deadline_s}")
        self.deadline_s = deadline_s
        self.switches = 0
        self._rungs = tuple(rungs)
        self._records = [_Record() for _ in rungs]
        self._index = 0
        self._entered_s = float("-inf")
        self._load_before_climb: float | None = None  # None when the rung was fallen to
        self._roomy_since_s = float("-inf")
        self._ages: deque[Sample] = deque()
        self._costs: deque[Sample] = deque()

    @property
    def rung(self) -> Rung:
        """The rung to work on."""
        return self._rungs[self._index]

    @property
    def index(self) -> int:
        """Its place, 0 for the best."""
        return self._index

    def shown(self, time_s: float, now_s: float) -> None:
        """Take the age of an avatar frame that is shown now.

        Args:
            time_s: when its driving frame came. That a chunk has to be gathered is no load: add
                the time from its first frame to its newest.
            now_s: the time.
        """
        if time_s >= self._entered_s:  # else it was made on the rung before
            self._ages.append((now_s, now_s - time_s))
            self._judge(now_s)

    def made(self, asked_s: float, now_s: float, frames: int) -> None:
        """Take the time of a clip, received now, of so many frames, asked for at `asked_s`."""
        if asked_s >= self._entered_s + _SETTLED_S:
            self._costs.append((now_s, (now_s - asked_s) / frames))
            self._judge(now_s)

    def overflowed(self, now_s: float) -> None:
        """Take that there was no memory for a clip: go down to fewer steps, where there are."""
        steps = self.rung.steps
        fewer = next((i for i, rung in enumerate(self._rungs) if rung.steps < steps), None)
        if fewer is None:
            return
        has_held = now_s - self._entered_s >= _PROVEN_S
        for record in self._records[:fewer]:
            record.failures = 1 if has_held else record.failures + 1
            record.barred_until_s = now_s + _bar_s(record.failures)
            record.ratio = math.inf
        self._enter(fewer, now_s)

    def _judge(self, now_s: float) -> None:
        # However slow the frames are, two of them are enough to fall.
        _forget(self._ages, now_s - _WINDOW_S, keep=2)
        _forget(self._costs, now_s - _WINDOW_S, keep=0)
        load = self._load(self.rung)
        if load > 1 and self._index + 1 < len(self._rungs):
            self._fall(load, now_s)
        elif self._index > 0:
            self._look_up(now_s)

    def _fall(self, load: float, now_s: float) -> None:
        # Past lower rates that would not be enough either, down to the first or to fewer steps.
        self._note_failure(self._records[self._index], load, now_s)
        index = self._index + 1
        while index + 1 < len(self._rungs) and self._rungs[index].steps == self.rung.steps:
            load = self._load(self._rungs[index])
            if load <= 1:
                break
            self._note_failure(self._records[index], load, now_s)
            index += 1
        self._enter(index, now_s)

    def _load(self, rung: Rung) -> float:
        # What the recent frames would be to the rung with as many steps as they had.
        loads = [0.0]
        if len(self._ages) > 1:
            ages = sorted(age_s for _, age_s in self._ages)
            rank = min(math.ceil(0.95 * len(ages)), len(ages) - 1)  # never the oldest one alone
            loads.append(ages[rank - 1] / self.deadline_s * rung.fps / self.rung.fps)
        if len(self._costs) >= _ENOUGH:
            cost_s = statistics.median(cost_s for _, cost_s in self._costs)
            loads.append(cost_s * _SHORTFALL * min(rung.fps, SMOOTH_FPS))
        return max(loads)

    def _note_failure(self, record: _Record, load: float, now_s: float) -> None:
        if now_s - self._entered_s >= _PROVEN_S:
            record.failures = 0
            record.barred_until_s = float("-inf")
        elif self._load_before_climb is not None:
            record.failures += 1
            record.barred_until_s = now_s + _bar_s(record.failures)
            record.ratio = load / self._load_before_climb

    def _look_up(self, now_s: float) -> None:
        # Of the next better steps, or of the same ones, the best rate that fits.
        steps = self._rungs[self._index - 1].steps
        better = [i for i in range(self._index) if self._rungs[i].steps == steps]
        index = next((i for i in better if self._forecast(i, now_s) <= _ROOM), None)
        if index is None:
            self._roomy_since_s = now_s
        elif len(self._ages) >= _ENOUGH and now_s - self._roomy_since_s >= _UP_AFTER_S:
            self._enter(index, now_s, climbed_at=self._load(self._rungs[index]))

    def _forecast(self, index: int, now_s: float) -> float:
        record, load = self._records[index], self._load(self._rungs[index])
        return load * record.ratio if now_s < record.barred_until_s else load

    def _enter(self, index: int, now_s: float, *, climbed_at: float | None = None) -> None:
        # Of a better rung, the load before is told; the next one may follow soon.
        self._index = index
        self._entered_s = now_s
        self._load_before_climb = climbed_at
        self._roomy_since_s = now_s if climbed_at is None else now_s - _UP_AFTER_S + _WINDOW_S
        self._ages.clear()
        self._costs.clear()
        self.switches += 1


def _bar_s(failures: int) -> float:
    return min(_UP_AFTER_S * 2.0**failures, _LONGEST_BAR_S)


def _forget(samples: deque[Sample], before_s: float, *, keep: int) -> None:
    while len(samples) > keep and samples[0][0] < before_s:
        samples.popleft()
