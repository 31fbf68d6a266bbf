"""The inner loops of `mimaface.registration`, compiled by numba. They release the GIL."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.types import Floats


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def repaint(
    index: NDArray[np.int32],
    weights: Floats,
    triangles: NDArray[np.int32],
    points: Floats,
    first: Floats,
    now: Floats,
    most_gain: float,
) -> tuple[Floats, float]:
    """Return the first picture, moved to where the face is now and in the light of now.

    Args:
        index: int32 [H, W], the triangle under each pixel, -1 where there is no face.
        weights: float32 [H, W, 3], of its corners.
        triangles: int32 [T, 3].
        points: float32 [V, 2 or more], where the first picture has the corners, in its pixels.
        first: float32 [h, w], the first picture, in grey levels.
        now: float32 [H, W], the picture of now.
        most_gain: of contrast, and of its inverse.

    Returns:
        float32 [H, W], as it is now where there is no face, and by how much the face has more
        contrast now.
    """
    height, width = now.shape
    high, wide = first.shape
    seen = now.copy()
    half, edge = np.float32(0.5), np.float32(1e-3)
    count = 0
    sum_first = squares_first = sum_now = squares_now = 0.0
    for y in range(height):
        for x in range(width):
            t = index[y, x]
            if t < 0:
                continue
            column = row = -half
            for corner in range(3):
                column += weights[y, x, corner] * points[triangles[t, corner], 0]
                row += weights[y, x, corner] * points[triangles[t, corner], 1]
            column = min(max(column, np.float32(0)), np.float32(wide - 1) - edge)
            row = min(max(row, np.float32(0)), np.float32(high - 1) - edge)
            left, top = int(column), int(row)
            right, down = column - np.float32(left), row - np.float32(top)
            above = first[top, left] + right * (first[top, left + 1] - first[top, left])
            below = first[top + 1, left] + right * (first[top + 1, left + 1] - first[top + 1, left])
            level = above + down * (below - above)
            seen[y, x] = level
            count += 1
            sum_first += level
            squares_first += level * level
            sum_now += now[y, x]
            squares_now += now[y, x] * now[y, x]
    spread_first = max(squares_first - sum_first * sum_first / max(count, 1), 1.0)
    spread_now = max(squares_now - sum_now * sum_now / max(count, 1), 1.0)
    gain = np.sqrt(spread_now / spread_first)
    by = np.float32(min(max(gain, 1 / most_gain), most_gain))
    more = np.float32(sum_now / max(count, 1)) - by * np.float32(sum_first / max(count, 1))
    for y in range(height):
        for x in range(width):
            if index[y, x] >= 0:
                seen[y, x] = by * seen[y, x] + more
    return seen, gain


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def compare(
    seen: Floats, now: Floats, difference: Floats, index: NDArray[np.int32], half_trust: float
) -> tuple[Floats, float]:
    """Return where each pixel pulls, and how much of what there is to see is trusted.

    Args:
        seen: float32 [H, W], the first picture as `repaint` returns it.
        now: float32 [H, W], the picture of now.
        difference: float32 [H, W], of the two, without that of their light.
        index: int32 [H, W], -1 where there is no face.
        half_trust: a difference in grey levels that is half trusted.

    Returns:
        The entries xx, xy, yy, x and y of each pixel's normal equations [H, W, 5], and the share
        that they have of what they would be if every pixel were trusted.
    """
    height, width = now.shape
    pulls = np.zeros((height, width, 5), np.float32)
    there = trusted = 0.0
    zero, one, quarter = np.float32(0), np.float32(1), np.float32(0.25)
    least = np.float32(half_trust * half_trust)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if index[y, x] < 0:
                continue
            was_x, was_y = seen[y, x + 1] - seen[y, x - 1], seen[y + 1, x] - seen[y - 1, x]
            now_x, now_y = now[y, x + 1] - now[y, x - 1], now[y + 1, x] - now[y - 1, x]
            alike = was_x * now_x + was_y * now_y
            larger = max(was_x * was_x + was_y * was_y, now_x * now_x + now_y * now_y)
            # The mean of both slopes is right to the second order.
            across, down = quarter * (was_x + now_x), quarter * (was_y + now_y)
            off = difference[y, x]
            weight = min(max((alike + alike) / (larger + one), zero), one)
            weight *= least / (least + off * off)
            slope = across * across + down * down
            there += slope
            trusted += weight * slope
            pulls[y, x, 0] = weight * across * across
            pulls[y, x, 1] = weight * across * down
            pulls[y, x, 2] = weight * down * down
            pulls[y, x, 3] = weight * across * off
            pulls[y, x, 4] = weight * down * off
    return pulls, trusted / max(there, 1.0)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def gather(pulls: Floats, points: Floats, window: Floats) -> Floats:
    """Return the sums [V, 5] of pixels' pulls around points, weighted by their distance.

    Args:
        pulls: float32 [H, W, 5].
        points: float32 [V, 2 or more], x and y in pixels; around one near the edge, or beyond,
            there is nothing.
        window: float32 [2 R + 1], weights along a row and down a column.
    """
    height, width, _ = pulls.shape
    reach = len(window) // 2
    sums = np.zeros((len(points), 5), np.float32)
    for v in range(len(points)):
        left, top = int(points[v, 0]) - reach, int(points[v, 1]) - reach
        if left < 0 or top < 0 or left + len(window) > width or top + len(window) > height:
            continue
        xx = xy = yy = x = y = np.float32(0)
        for i in range(len(window)):
            for j in range(len(window)):
                weight, pull = window[i] * window[j], pulls[top + i, left + j]
                xx += weight * pull[0]
                xy += weight * pull[1]
                yy += weight * pull[2]
                x += weight * pull[3]
                y += weight * pull[4]
        sums[v, 0], sums[v, 1], sums[v, 2], sums[v, 3], sums[v, 4] = xx, xy, yy, x, y
    return sums


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def relax(
    sums: Floats,
    moved: Floats,
    neighbours: NDArray[np.int32],
    stay: float,
    together: float,
    sweeps: int,
) -> Floats:
    """Return how far points are moved, after one more Gauss-Newton step.

    What is minimised says that a point fits its surroundings, moves little, and as its neighbours
    do; by sweeps of Gauss-Seidel.

    Args:
        sums: float32 [V, 5], normal equations of each point where it is now.
        moved: float32 [V, 2], how far it has been moved.
        neighbours: int32 [V, N], each point's, filled up with -1; points without any do not move.
        stay: what it costs a point to move.
        together: what it costs to move otherwise than a neighbour.
        sweeps: how many.
    """
    out = moved.copy()
    for _ in range(sweeps):
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
