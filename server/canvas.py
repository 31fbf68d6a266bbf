"""Pictures of any shape on a canvas of one: fitted whole, with blurred surroundings."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from mimaface.types import Pixels

_BLURRED_PX: Final = 64  # width of the canvas on which the surroundings are blurred
_DIMMED: Final = 0.45  # so that the picture stands out


class Canvas:
    """Fits pictures into one size; used by one thread."""

    def __init__(self, width: int, height: int) -> None:
        """Take a size in pixels."""
        self.width, self.height = width, height
        self._portrait: Pixels | None = None
        self._surroundings: Pixels | None = None

    def fit(self, pixels: Pixels, portrait: Pixels) -> Pixels:
        """Return a picture, uint8 [H, W, 3], in the canvas' size, nothing cut off or stretched.

        What it leaves free shows `portrait`, blurred and dimmed. The picture itself may come back.
        """
        height, width = pixels.shape[:2]
        if (height, width) == (self.height, self.width):
            return pixels
        if self._surroundings is None or portrait is not self._portrait:
            self._portrait = portrait
            self._surroundings = surroundings(portrait, self.width, self.height)
        scale = min(self.width / width, self.height / height)
        inner_width, inner_height = round(width * scale), round(height * scale)
        shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        left, top = (self.width - inner_width) // 2, (self.height - inner_height) // 2
        fitted = self._surroundings.copy()
        fitted[top : top + inner_height, left : left + inner_width] = cv2.resize(
            pixels, (inner_width, inner_height), interpolation=shrinks
        )
        return fitted


def surroundings(portrait: Pixels, width: int, height: int) -> Pixels:
    """Return a portrait that covers a size, blurred until nobody is recognised, and dimmed."""
    source_height, source_width = portrait.shape[:2]
    scale = max(width / source_width, height / source_height)
    part_width, part_height = round(width / scale), round(height / scale)
    left, top = (source_width - part_width) // 2, (source_height - part_height) // 2
    part = portrait[top : top + part_height, left : left + part_width]
    small_height = max(round(_BLURRED_PX * height / width), 1)
    small = cv2.resize(part, (_BLURRED_PX, small_height), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), _BLURRED_PX / 12)
    large = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large * _DIMMED, np.uint8)
