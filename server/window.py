"""The newest values of a noisy measurement, and what is typical of them."""

from __future__ import annotations

from collections import deque
from typing import Final

_LENGTH: Final = 64  # about two seconds of frames, more than one of sound


class Window:
    """Remembers the last values; its quantiles change only as many of them do."""

    def __init__(self, length: int = _LENGTH) -> None:
        self._values: deque[float] = deque(maxlen=length)

    def add(self, value: float) -> None:
        """Take a value; the oldest gives way."""
        self._values.append(value)

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()

    def quantile(self, fraction: float) -> float | None:
        """Return the value that a fraction, 0 to 1, of the others lie below; None without any."""
        ordered = sorted(self._values)
        return ordered[round(fraction * (len(ordered) - 1))] if ordered else None
