"""What `mimaface.correction` does to latents, done to one picture by a loop that numba compiles.

It releases the GIL, so that other threads go on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mimaface.types import Floats, Pixels

BEYOND = 3  # pixels outside a picture that are read at most


@njit(cache=True, nogil=True, error_model="numpy")
def correct_picture(render: Pixels, correction: Floats) -> tuple[Floats, Floats]:
    """Return the clean latents that a correction makes of a picture, and what it changes.

    Args:
        render: uint8 [H, W, 3].
        correction: float32 [C + 2, h, w], what to add and where to look.

    Returns:
        [C, h, w], as `correct` returns them, and by how many levels of 255 the picture that they
        show differs from the render [H, W, 3].
    """
    (height, width, _), (channels, rows, columns) = render.shape, correction.shape
    channels, cell_px = channels - 2, height // rows
    latents = np.empty((channels, rows, columns), np.float32)
    change = np.empty((height, width, 3), np.float32)
    one, level = np.float32(1), np.float32(127.5)
    around = _continued(render)
    for y in range(height):
        for x in range(width):
            across = _between_cells(correction[channels], y, x, cell_px) * np.float32(cell_px)
            down = _between_cells(correction[channels + 1], y, x, cell_px) * np.float32(cell_px)
            # Whatever lies further out shows the picture's edge.
            look_x = min(max(np.float32(x) + across, np.float32(1 - BEYOND)), np.float32(width))
            look_y = min(max(np.float32(y) + down, np.float32(1 - BEYOND)), np.float32(height))
            left, top = int(np.floor(look_x)), int(np.floor(look_y))
            in_row, in_column = _cubic(look_x - np.float32(left)), _cubic(look_y - np.float32(top))
            r = g = b = np.float32(0)
            for i in range(4):
                for j in range(4):
                    weight = in_column[i] * in_row[j]
                    row, column = top + BEYOND - 1 + i, left + BEYOND - 1 + j
                    r += weight * around[row, column, 0]
                    g += weight * around[row, column, 1]
                    b += weight * around[row, column, 2]
            place = y % cell_px * cell_px + x % cell_px
            for colour, seen in enumerate((r, g, b)):
                channel = colour * cell_px**2 + place
                clean = seen / level - one + correction[channel, y // cell_px, x // cell_px]
                latents[channel, y // cell_px, x // cell_px] = clean
                shown = (min(max(clean, -one), one) + one) * level
                change[y, x, colour] = shown - np.float32(render[y, x, colour])
    return latents, change


@njit(cache=True, nogil=True, error_model="numpy")
def _continued(render: Pixels) -> Floats:
    """Return a picture [H, W, 3] with its edge repeated, [H + 2 BEYOND, W + 2 BEYOND, 3]."""
    height, width = render.shape[:2]
    around = np.empty((height + 2 * BEYOND, width + 2 * BEYOND, 3), np.float32)
    for y in range(around.shape[0]):
        for x in range(around.shape[1]):
            row, column = min(max(y - BEYOND, 0), height - 1), min(max(x - BEYOND, 0), width - 1)
            for colour in range(3):
                around[y, x, colour] = np.float32(render[row, column, colour])
    return around


@njit(cache=True, nogil=True, error_model="numpy")
def _between_cells(values: Floats, y: int, x: int, cell_px: int) -> np.float32:
    """Return what values [h, w] at the middles of cells come to at a pixel, bilinearly."""
    (rows, columns), half, zero = values.shape, np.float32(0.5), np.float32(0)
    row = min(max((np.float32(y) + half) / np.float32(cell_px) - half, zero), np.float32(rows - 1))
    column = (np.float32(x) + half) / np.float32(cell_px) - half
    column = min(max(column, zero), np.float32(columns - 1))
    top, left = int(row), int(column)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    down, along = row - np.float32(top), column - np.float32(left)
    upper = values[top, left] + along * (values[top, right] - values[top, left])
    lower = values[bottom, left] + along * (values[bottom, right] - values[bottom, left])
    return upper + down * (lower - upper)


@njit(cache=True, nogil=True, error_model="numpy")
def _cubic(share: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Return the weights of four neighbours, with a place `share` between the middle two.

    Cubic convolution as `grid_sample` does it (R. Keys, IEEE Trans. Acoustics, Speech and Signal
    Processing 1981), with a = -0.75.
    """
    a, one, two = np.float32(-0.75), np.float32(1), np.float32(2)
    five, eight, four = np.float32(5), np.float32(8), np.float32(4)
    rest, first, last = one - share, one + share, two - share
    return (
        a * (((first - five) * first + eight) * first - four),
        ((a + two) * share - (a + two + one)) * share * share + one,
        ((a + two) * rest - (a + two + one)) * rest * rest + one,
        a * (((last - five) * last + eight) * last - four),
    )
