"""How the server goes down: no new calls, a word to those there are, and a while to finish.

It knows no signal and no clock.
"""

from __future__ import annotations

import math


class Drain:
    """Off until the server is asked to end.

    Attributes:
        is_over: whether the server may end now.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        """Let the calls go on for at most `grace_s` once it has begun."""
        self.is_over = False
        self._grace_s = grace_s
        self._ends_s = math.inf

    @property
    def is_on(self) -> bool:
        """Whether it has begun."""
        return self._ends_s < math.inf

    def begin(self, now_s: float) -> None:
        """Begin; it ends no later for being asked for again."""
        self._ends_s = min(self._ends_s, now_s + self._grace_s)

    def left_s(self, now_s: float) -> float:
        """Return for how long calls may still go on; infinite before it has begun."""
        return max(self._ends_s - now_s, 0.0)

    def look(self, now_s: float, *, calls: int) -> None:
        """See whether it is over: no driver is connected any more, or the time is up."""
        self.is_over = self.is_on and (not calls or now_s >= self._ends_s)
