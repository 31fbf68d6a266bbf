"""Rasteriser."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mimaface.types import Floats


@njit(cache=True, nogil=True)
def rasterize(
    points: Floats, triangles: NDArray[np.int32], height: int, width: int
) -> tuple[NDArray[np.int32], Floats]:
    """Find the nearest triangle under every pixel.

    Args:
        points: [V, 3], x and y in pixels (the centre of the first pixel is 0.5, 0.5) and the
            depth, which is positive and grows away from the camera.
        triangles: [T, 3], either winding.
        height: of the picture in pixels.
        width: of the picture in pixels.

    Returns:
        The triangle under each pixel [H, W], -1 where there is none, and the perspective-correct
        barycentric weights of its corners [H, W, 3].
    """
    index = np.full((height, width), -1, np.int32)
    weights = np.zeros((height, width, 3), np.float32)
    nearest = np.zeros((height, width), np.float32)  # 1 / depth
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
        cx, cy = points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0.0:
            continue
        left = max(int(np.floor(min(ax, bx, cx))), 0)
        right = min(int(np.ceil(max(ax, bx, cx))), width)
        top = max(int(np.floor(min(ay, by, cy))), 0)
        bottom = min(int(np.ceil(max(ay, by, cy))), height)
        ia, ib, ic = 1.0 / points[a, 2], 1.0 / points[b, 2], 1.0 / points[c, 2]
        for y in range(top, bottom):
            py = y + 0.5
            for x in range(left, right):
                px = x + 0.5
                u = ((bx - px) * (cy - py) - (cx - px) * (by - py)) / area
                v = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) / area
                w = 1.0 - u - v
                if u < 0.0 or v < 0.0 or w < 0.0:
                    continue
                inverse = u * ia + v * ib + w * ic
                if inverse > nearest[y, x]:
                    nearest[y, x] = inverse
                    index[y, x] = t
                    weights[y, x, 0] = u * ia / inverse
                    weights[y, x, 1] = v * ib / inverse
                    weights[y, x, 2] = w * ic / inverse
    return index, weights
