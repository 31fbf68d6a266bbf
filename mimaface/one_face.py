"""Who of those in the picture drives: the one who did, as long as that may be.

MediaPipe follows one face, and takes any other as soon as it loses that one for a frame. It knows
no tracker: boxes and pictures in, pictures out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from mimaface.types import Floats, Pixels

PATIENCE_S: Final = 1.0  # for the driver to be seen again, before it may be somebody else
_MARGIN: Final = 0.3  # of a face's size, that it has beyond its landmarks
_GREY: Final = 127


class _Box(NamedTuple):
    """Normalised image coordinates."""

    low: Floats  # x, y
    high: Floats

    def touches(self, other: _Box) -> bool:
        return bool((self.low < other.high).all() and (other.low < self.high).all())


class OneFace:
    """Keeps to one face: one that is elsewhere a moment later is not the driver's.

    Somebody else's is covered until the driver has been found again or waited for long enough, so
    that the tracker lets go of it. Two people's faces do not touch.
    """

    def __init__(self) -> None:
        self._box: _Box | None = None
        self._seen_s = float("-inf")
        self._other: _Box | None = None

    def view(self, time_s: float, rgb: Pixels) -> Pixels:
        """Return what the tracker is to look at of a picture, uint8 [H, W, 3]."""
        if self._other is None or self._is_forgotten(time_s):
            return rgb
        height, width = rgb.shape[:2]
        margin = _MARGIN * (self._other.high - self._other.low)
        low, high = self._other.low - margin, self._other.high + margin
        left, top = np.maximum(low * (width, height), 0).astype(int)
        right, bottom = np.maximum(high * (width, height), 0).astype(int)
        covered = rgb.copy()
        covered[top:bottom, left:right] = _GREY
        return covered

    def owns(self, time_s: float, landmarks: Floats) -> bool:
        """Take the landmarks [V, 3] of a face that was found; return whether it is the driver's."""
        found = _Box(landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0))
        driver = None if self._is_forgotten(time_s) else self._box
        if driver is not None and not driver.touches(found):
            self._other = found
            return False
        self._box, self._seen_s, self._other = found, time_s, None
        return True

    def _is_forgotten(self, time_s: float) -> bool:
        return time_s - self._seen_s > PATIENCE_S
