"""Copies a number from the driving picture to the avatar, to measure glass to glass.

A test picture shows a 16-bit counter as blocks in its top strip. The counter is read as part of
the motion and drawn anew on the avatar frame: a number passes, never a pixel. Off by default.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mimaface.motion import MotionExtractor
from mimaface.types import Motion, Pixels
from streaming.types import AvatarFrame

BITS: Final = 16  # one block each, width / 16 wide and height / 12 high, lowest bit at the left
_REMEMBERED: Final = 256  # frames, more than are ever under way


def read_counter(rgb: Pixels) -> int:
    """Return the number drawn on a picture, uint8 [H, W, 3]."""
    height, width = rgb.shape[:2]
    x = (np.arange(BITS) + 0.5) * width / BITS
    blocks = rgb[height // 24, x.astype(np.intp), 0]
    return int(np.sum((blocks > 127) << np.arange(BITS)))


def draw_counter(pixels: Pixels, counter: int) -> Pixels:
    """Return a copy of a picture, uint8 [H, W, 3], with the number drawn on it."""
    height, width = pixels.shape[:2]
    block = np.arange(width) * BITS // width
    marked = pixels.copy()
    marked[: height // 12] = (255 * (counter >> block & 1)).astype(np.uint8)[:, None]
    return marked


class LatencyMarker:
    """Carries the counters of one session from its driving frames to its avatar frames."""

    def __init__(self) -> None:
        self._counters: dict[float, int] = {}  # by time_s

    def note(self, time_s: float, rgb: Pixels) -> None:
        """Read the counter of a driving frame."""
        self._counters[time_s] = read_counter(rgb)
        if len(self._counters) > _REMEMBERED:
            del self._counters[next(iter(self._counters))]

    def draw(self, frame: AvatarFrame) -> Pixels:
        """Return the frame's pixels, with the counter of its driving frame if it has one."""
        counter = self._counters.get(frame.time_s)
        return frame.pixels if counter is None else draw_counter(frame.pixels, counter)


class MarkedExtractor:
    """A motion extractor that also notes the counter of each frame."""

    def __init__(self, extractor: MotionExtractor, marker: LatencyMarker) -> None:
        self._extractor = extractor
        self._marker = marker

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        """Return the motion of one frame, uint8 [H, W, 3]."""
        self._marker.note(time_s, rgb)
        return self._extractor.extract(time_s, rgb)

    def close(self) -> None:
        """Close the extractor."""
        self._extractor.close()
