"""A picture sheet of a roll-out: the driver, the mesh render and what the model made of it."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mimaface.evaluation.rollout import Frame
from mimaface.types import Pixels

COLUMNS: Final = 8
DIFFERENCE_GAIN: Final = 4
STRIP_PX: Final = 16  # height of the words above each row


class Sheet:
    """Gathers frames that lie evenly in a roll-out of any length; keeps a few times the columns."""

    def __init__(self, *, has_difference: bool) -> None:
        """Begin; with the difference of driver and output where they should be the same."""
        self._has_difference = has_difference
        self._kept: list[Frame] = []
        self._every = 1
        self._seen = 0

    def add(self, frame: Frame) -> None:
        """Look at the next frame."""
        if self._seen % self._every == 0:
            self._kept.append(frame)
        self._seen += 1
        if len(self._kept) > 4 * COLUMNS:
            self._kept = self._kept[::2]
            self._every *= 2

    def draw(self) -> Pixels:
        """Return the sheet, uint8 [H, W, 3]: a row for each kind of picture, a column a frame."""
        if not self._kept:
            raise ValueError("there is no frame to draw")
        picked = np.linspace(0, len(self._kept) - 1, min(COLUMNS, len(self._kept)))
        frames = [self._kept[round(row)] for row in picked]
        rows = {
            "driver": [each.take.picture for each in frames],
            "mesh render": [each.mesh for each in frames],
            "output": [each.output for each in frames],
        }
        if self._has_difference:
            rows[f"difference x{DIFFERENCE_GAIN}"] = [
                difference(each.take.picture, each.output) for each in frames
            ]
        size = len(frames[0].output)
        sheet = np.vstack(
            [np.pad(np.hstack(row), ((STRIP_PX, 0), (0, 0), (0, 0))) for row in rows.values()]
        )
        image = Image.fromarray(sheet)
        pen = ImageDraw.Draw(image)
        for row, title in enumerate(rows):
            for column, frame in enumerate(frames):
                words = f"{title}, {frame.time_s:.2f} s" if column == 0 else f"{frame.time_s:.2f} s"
                pen.text((column * size + 4, row * (size + STRIP_PX) + 2), words, fill="white")
        return np.asarray(image)


def difference(real: Pixels, output: Pixels) -> Pixels:
    """Return the absolute difference of two pictures [H, W, 3], made visible."""
    apart = cv2.absdiff(real, output).astype(np.uint16) * DIFFERENCE_GAIN
    return np.minimum(apart, 255).astype(np.uint8)


def side_by_side(frame: Frame) -> Pixels:
    """Return driver, mesh render and output beside each other, uint8 [H, 3 W, 3]."""
    return np.hstack([frame.take.picture, frame.mesh, frame.output])
