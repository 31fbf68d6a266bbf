"""What live sessions showed in a stretch of time, from notes that were taken meanwhile."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from streaming.backend import Made

_WINDOW_S: Final = 1.0  # that must be as good as before to count as recovered
_STRIDE_S: Final = 0.1
# How far a good second may fall short of what was before: seconds differ by themselves.
_FEWER, _LATER = 0.9, 1.25


class Shown(NamedTuple):
    """A new picture: when it was shown, and the age of what it shows."""

    at_s: float
    age_s: float


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What one session showed in a stretch of time.

    Attributes:
        fps: new pictures per second.
        p50_ms: median age of what they show; None where nothing was shown.
        p95_ms: the 95th percentile.
        longest_gap_ms: the longest time that one picture stayed.
    """

    fps: float
    p50_ms: float | None
    p95_ms: float | None
    longest_gap_ms: float


def stretch(shown: Sequence[Shown], *, from_s: float, until_s: float) -> Stretch:
    """Return the figures of a stretch of one session's pictures, which are in order."""
    first, last = (bisect_left(shown, (at_s,)) for at_s in (from_s, until_s))
    within = shown[first:last]
    p50_ms, p95_ms = quantiles_ms([each.age_s for each in within])
    # The picture that stood at the beginning counts from when it came.
    before_s = shown[first - 1].at_s if first else from_s
    times_s = [before_s, *(each.at_s for each in within), until_s]
    return Stretch(
        fps=round(len(within) / (until_s - from_s), 1),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        longest_gap_ms=round(1000 * max(b - a for a, b in pairwise(times_s)), 1),
    )


def worst(stretches: Sequence[Stretch]) -> Stretch:
    """Return the worst of each figure of several sessions."""
    silent = any(each.p95_ms is None for each in stretches)
    return Stretch(
        fps=min(each.fps for each in stretches),
        p50_ms=None if silent else max(each.p50_ms or 0.0 for each in stretches),
        p95_ms=None if silent else max(each.p95_ms or 0.0 for each in stretches),
        longest_gap_ms=max(each.longest_gap_ms for each in stretches),
    )


def busy_share(made: Sequence[Made], *, from_s: float, until_s: float) -> float:
    """Return the share of a stretch in which the device made clips, 0 to 1."""
    busy_s = sum(
        max(0.0, min(each.ended_s, until_s) - max(each.started_s, from_s)) for each in made
    )
    return round(busy_s / (until_s - from_s), 3)


def mean_steps(made: Sequence[Made], *, from_s: float, until_s: float) -> float | None:
    """Return the denoising steps of a stretch's clips on average, None without any."""
    steps = [each.steps for each in made if from_s <= each.ended_s < until_s for _ in each.asked_s]
    return round(sum(steps) / len(steps), 2) if steps else None


def recovery_s(
    shown: Sequence[Sequence[Shown]],
    made: Sequence[Made],
    *,
    good_s: tuple[float, float],
    from_s: float,
    until_s: float,
) -> float | None:
    """Return how long after a disturbance all sessions were again what they were before it.

    That is until the first second whose frame rate, tail of latency and denoising steps are about
    those before.

    Args:
        shown: pictures of each session.
        made: batches of all of them.
        good_s: beginning and end of the stretch before the disturbance.
        from_s: the disturbance's end.
        until_s: the end of the notes.

    Returns:
        Seconds; None if it did not happen in the time.
    """
    goods = [stretch(each, from_s=good_s[0], until_s=good_s[1]) for each in shown]
    good_steps = mean_steps(made, from_s=good_s[0], until_s=good_s[1]) or 0.0
    for start_s in np.arange(from_s, until_s - _WINDOW_S + 1e-9, _STRIDE_S):
        second = {"from_s": float(start_s), "until_s": float(start_s) + _WINDOW_S}
        now = [stretch(each, **second) for each in shown]
        if (mean_steps(made, **second) or 0.0) >= _FEWER * good_steps and all(
            new.fps >= _FEWER * old.fps and (new.p95_ms or 0.0) <= _LATER * (old.p95_ms or 0.0)
            for new, old in zip(now, goods, strict=True)
        ):
            return round(float(start_s) - from_s, 1)
    return None


def quantiles_ms(times_s: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the median and the 95th percentile in milliseconds, None without times."""
    if not times_s:
        return None, None
    p50, p95 = (round(1000 * float(q), 1) for q in np.quantile(times_s, (0.5, 0.95)))
    return p50, p95
