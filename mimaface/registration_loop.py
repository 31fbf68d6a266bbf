"""The inner loops of `mimaface.registration`, compiled by numba. They release the GIL."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.types import Floats


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def compare(
    first: Floats, now: Floats, difference: Floats, index: NDArray[np.int32], half_trust: Floats
) -> tuple[Floats, float]:
    """Return where each pixel pulls, and how much of what there is to see is trusted.

    Args:
        first: float32 [H, W], the first picture, moved to where the face is now.
        now: float32 [H, W], the picture of now.
        difference: float32 [H, W], of the two, without that of their light.
        index: int32 [H, W], -1 where there is no face.
        half_trust: of a pixel, a difference in grey levels.

    Returns:
        The entries xx, xy, yy, x and y of each pixel's normal equations [5, H, W], and the share
        that they have of what they would be if every pixel were trusted.
    """
    height, width = now.shape
    pulls = np.zeros((5, height, width), np.float32)
    seen = trusted = 0.0
    zero, one, quarter = np.float32(0), np.float32(1), np.float32(0.25)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if index[y, x] < 0:
                continue
            was_x, was_y = first[y, x + 1] - first[y, x - 1], first[y + 1, x] - first[y - 1, x]
            now_x, now_y = now[y, x + 1] - now[y, x - 1], now[y + 1, x] - now[y - 1, x]
            alike = was_x * now_x + was_y * now_y
            larger = max(was_x * was_x + was_y * was_y, now_x * now_x + now_y * now_y)
            # The mean of both slopes is right to the second order.
            across, down = quarter * (was_x + now_x), quarter * (was_y + now_y)
            off = difference[y, x] / half_trust
            weight = min(max((alike + alike) / (larger + one), zero), one) / (one + off * off)
            slope = across * across + down * down
            seen += slope
            trusted += weight * slope
            pulls[0, y, x] = weight * across * across
            pulls[1, y, x] = weight * across * down
            pulls[2, y, x] = weight * down * down
            pulls[3, y, x] = weight * across * difference[y, x]
            pulls[4, y, x] = weight * down * difference[y, x]
    return pulls, trusted / max(seen, 1.0)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def gather(pulls: Floats, points: Floats, window: Floats) -> Floats:
    """Return the sums [V, 5] of pixels' pulls around points, weighted by their distance.

    Args:
        pulls: float32 [5, H, W].
        points: float32 [V, 3], x and y in pixels; around one near the edge, or beyond, there is
            nothing.
        window: float32 [2 R + 1], weights along a row and down a column.
    """
    _, height, width = pulls.shape
    reach = len(window) // 2
    sums = np.zeros((len(points), 5), np.float32)
    for v in range(len(points)):
        left, top = int(points[v, 0]) - reach, int(points[v, 1]) - reach
        if left < 0 or top < 0 or left + len(window) > width or top + len(window) > height:
            continue
        for k in range(5):
            total = np.float32(0)
            for i in range(len(window)):
                row = np.float32(0)
                for j in range(len(window)):
                    row += window[j] * pulls[k, top + i, left + j]
                total += window[i] * row
            sums[v, k] = total
    return sums


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def relax(
    sums: Floats,
    moved: Floats,
    neighbours: NDArray[np.int32],
    stay: float,
    together: float,
    rounds: int,
) -> Floats:
    """Return how far points are moved, after one more Gauss-Newton step.

    What is minimised says that a point fits its surroundings, moves little, and as its neighbours
    do; by sweeps of Gauss-Seidel.

    Args:
        sums: [V, 5], normal equations of each point where it is now.
        moved: float32 [V, 2], how far it has been moved.
        neighbours: int32 [V, N], each point's, filled up with -1; points without any do not move.
        stay: what it costs a point to move.
        together: what it costs to move otherwise than a neighbour.
        rounds: sweeps.
    """
    out = moved.copy()
    for _ in range(rounds):
        for v in range(len(out)):
            sum_x, sum_y, beside = np.float32(0), np.float32(0), 0
            for other in neighbours[v]:
                if other < 0:
                    break
                sum_x += out[other, 0]
                sum_y += out[other, 1]
                beside += 1
            if beside == 0:
                continue
            xx, xy, yy = sums[v, 0], sums[v, 1], sums[v, 2]
            x = sums[v, 3] + xx * moved[v, 0] + xy * moved[v, 1] + together * sum_x
            y = sums[v, 4] + xy * moved[v, 0] + yy * moved[v, 1] + together * sum_y
            xx += stay + together * beside
            yy += stay + together * beside
            area = xx * yy - xy * xy
            out[v, 0] = (yy * x - xy * y) / area
            out[v, 1] = (xx * y - xy * x) / area
    return out
