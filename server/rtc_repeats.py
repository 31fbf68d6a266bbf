"""Lost packets of a sent video stream: which are sent again. Time is an argument."""

from __future__ import annotations

from typing import Final

_WITHIN_S: Final = 0.5  # later than that a keyframe is there sooner
_SHARE: Final = 0.15  # of what the connection can take
_LEAST_BPS: Final = 100_000  # that it is taken to take
_SAVED_S: Final = 1.0  # of it, for packets that are lost together


class RepeatLimit:
    """Sends packets again as long as they are young and few.

    On a link that is too narrow packets are lost because there are too many. A receiver asks for
    each up to ten times, and with all of them sent again nothing gets through any more.
    """

    def __init__(self) -> None:
        self._left_s = _SAVED_S
        self._then_s: float | None = None

    def admits(self, size_bytes: int, *, age_s: float, granted_bps: int, now_s: float) -> bool:
        """Return whether to send a packet again that was sent first `age_s` ago.

        Args:
            size_bytes: its size.
            age_s: how old it is.
            granted_bps: what the connection can take, in bit/s.
            now_s: the time.
        """
        if self._then_s is not None:
            self._left_s = min(self._left_s + now_s - self._then_s, _SAVED_S)
        self._then_s = now_s
        takes_s = 8 * size_bytes / (_SHARE * max(granted_bps, _LEAST_BPS))
        if age_s > _WITHIN_S or takes_s > self._left_s:
            return False
        self._left_s -= takes_s
        return True
