"""How often somebody may ask. Time is an argument."""

from __future__ import annotations

from typing import Final

_MAX_KEYS: Final = 4096  # more than that many at a time: who was quiet for longest is forgotten


class RateLimit:
    """A bucket of requests for everybody who asks, refilled evenly over a minute."""

    def __init__(self, per_min: int) -> None:
        self._per_min = per_min
        self._buckets: dict[str, tuple[float, float]] = {}  # (left, at time), longest quiet first

    def wait_s(self, key: str, now_s: float) -> float:
        """Take a request of `key`; return 0, or in how many seconds it would be taken."""
        left, then_s = self._buckets.pop(key, (float(self._per_min), now_s))
        left = min(left + (now_s - then_s) * self._per_min / 60, float(self._per_min))
        is_taken = left >= 1
        self._buckets[key] = left - is_taken, now_s
        if len(self._buckets) > _MAX_KEYS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if is_taken else (1 - left) * 60 / self._per_min
