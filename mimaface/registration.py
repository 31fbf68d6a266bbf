"""Puts a tracker's landmarks where the driver's own skin is, to a fraction of a pixel.

A face tracker looks at every picture anew and is off by a pixel or so, differently at every turn
of the head. Skin is not: the driver's first picture, moved as the landmarks say, has to look like
the picture of now. What they differ by says where the landmarks belong (B. Lucas and T. Kanade,
An iterative image registration technique, IJCAI 1981; the mesh of an active appearance model,
I. Matthews and S. Baker, IJCV 2004). It knows landmarks and pictures, not how faces are found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.face_mesh import EYES, INNER_LIPS, IRISES, canonical_face
from mimaface.raster import rasterize
from mimaface.registration_loop import compare, gather, relax, repaint
from mimaface.types import VERTICES, Floats, Pixels

FACE_PX: Final = 128  # longer side of a face as it is compared, with its margin
MARGIN: Final = 0.1  # of that side, around the landmarks
SMALLEST_FACE_PX: Final = 32  # shorter side of what is seen of it, in the frame and here
MOST_MOVED_PX: Final = 1.6  # of these, to either side: further off, the tracker sees another thing
ROUNDS: Final = 2  # Gauss-Newton steps, each of
SWEEPS: Final = 6
WINDOW_PX: Final = (2.5, 6)  # deviation and reach of what a landmark looks at
STAY: Final = 0.1  # squared grey levels a pixel: what a landmark's own place weighs,
TOGETHER: Final = 2.0  # and its neighbours'
# Lighting changes over wider places than this; what does, is no motion.
LIGHT_PX: Final = 19
# What of the difference counts is settled by how the face was seen: half of a pixel's say is lost
# at so many grey levels, where there is a shadow, a hand or teeth that the first picture had not.
HALF_TRUST: Final = 15.0
MOST_GAIN: Final = 2.0  # of contrast, over the first picture's or under it: beyond is other light
LEAST_TRUST: Final = 0.35  # of what there is to see; below, it is another view, or another face,
RETAKE_S: Final = 2.0  # and after so long a new first picture is taken
DEPTH_PX: Final = 1000.0  # from the camera to the face; only what is nearer counts
_INNER_LIPS: Final = np.unique(np.ravel(INNER_LIPS))
_EYES: Final = tuple(
    (np.unique(np.ravel(eye)), slice(iris, iris + 5))
    for eye, iris in zip(EYES, IRISES, strict=True)
)


@dataclass(frozen=True, kw_only=True)
class _View:
    grey: Floats  # [h, w], the face
    points: Floats  # [V, 3], landmarks in its pixels, and the depth
    scale: Floats  # [2], of these over the frame's


class Registration:
    """Moves the landmarks of a video's frames to where the face of its first one is now.

    It never leads further away from the tracker's landmarks than `MOST_MOVED_PX`, so it cannot
    drift, and does nothing where the two pictures have nothing in common. One per session; keeps
    one small grey picture of the driver.
    """

    def __init__(self) -> None:
        self._first: _View | None = None
        self._trusted_s = 0.0

    def align(self, time_s: float, rgb: Pixels, landmarks: Floats) -> Floats:
        """Return the landmarks [V, 3] of a frame in their places; frames come in order.

        Args:
            time_s: when the frame was taken.
            rgb: uint8 [H, W, 3].
            landmarks: [V, 3], MediaPipe's, normalised.
        """
        size = np.array([rgb.shape[1], rgb.shape[0], rgb.shape[1]], np.float32)
        view = _view(rgb, landmarks * size)
        if view is None:
            return landmarks
        if self._first is None:
            self._first, self._trusted_s = view, time_s
            return landmarks
        moved, trust = _moved(self._first, view)
        if trust >= LEAST_TRUST:
            self._trusted_s = time_s
        elif time_s - self._trusted_s > RETAKE_S:
            # What it shows is where it was found to be, so nothing jumps.
            points = view.points.copy()
            points[:, :2] += moved
            self._first, self._trusted_s = replace(view, points=points), time_s
        aligned = landmarks.copy()
        aligned[:, :2] += moved / view.scale / size[:2]
        return aligned

    def forget(self) -> None:
        """Take the next picture as the first: somebody else may be seen in it."""
        self._first = None


def _view(rgb: Pixels, landmarks_px: Floats) -> _View | None:
    # None of a face that is too small, or mostly outside the picture.
    shape = np.array([rgb.shape[1], rgb.shape[0]])
    low, high = landmarks_px[:, :2].min(axis=0), landmarks_px[:, :2].max(axis=0)
    margin = MARGIN * (high - low).max()
    low = np.clip(np.floor(low - margin), 0, shape).astype(int)
    high = np.clip(np.ceil(high + margin), 0, shape).astype(int)
    sides = np.round((high - low) * (FACE_PX / max((high - low).max(), 1))).astype(int)
    if min((high - low).min(), sides.min()) < SMALLEST_FACE_PX:
        return None
    face = cv2.cvtColor(rgb[low[1] : high[1], low[0] : high[0]], cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if face.shape[0] > sides[1] else cv2.INTER_LINEAR
    grey = cv2.resize(face, sides.tolist(), interpolation=how).astype(np.float32)
    scale = (sides / (high - low)).astype(np.float32)
    points = np.empty((VERTICES, 3), np.float32)
    points[:, :2] = (landmarks_px[:, :2] - low) * scale
    points[:, 2] = DEPTH_PX + landmarks_px[:, 2] * scale[0]
    return _View(grey=cv2.GaussianBlur(grey, (3, 3), 0.5), points=points, scale=scale)


def _moved(first: _View, view: _View) -> tuple[Floats, float]:
    # How far the landmarks of a view are to be moved [V, 2], in its pixels, and how far that is
    # trusted, 0 to 1.
    triangles, neighbours = canonical_face().triangles, _neighbours()
    moved = np.zeros((VERTICES, 2), np.float32)
    points = view.points.copy()
    for _ in range(ROUNDS):
        index, weights = rasterize(points, triangles, *view.grey.shape)
        seen, gain = repaint(
            index, weights, triangles, first.points, first.grey, view.grey, MOST_GAIN
        )
        difference = seen - view.grey
        difference -= cv2.blur(difference, (LIGHT_PX, LIGHT_PX))
        pulls, trust = compare(seen, view.grey, difference, index, HALF_TRUST)
        sums = gather(pulls, points, _window())
        sums[_INNER_LIPS] = 0  # they open onto what the first picture did not show
        moved = relax(sums, moved, neighbours, STAY, TOGETHER, SWEEPS)
        moved = np.clip(moved, -MOST_MOVED_PX, MOST_MOVED_PX)
        for lids, iris in _EYES:  # how far an eye is open, and where it looks, is the tracker's say
            moved[iris] = moved[lids] = moved[lids].mean(axis=0)
        points[:, :2] = view.points[:, :2] + moved
    return moved, trust if 1 / MOST_GAIN < gain < MOST_GAIN else 0.0


@cache
def _window() -> Floats:
    steps = np.arange(-WINDOW_PX[1], WINDOW_PX[1] + 1)
    window = np.exp(-0.5 * (steps / WINDOW_PX[0]) ** 2)
    return (window / window.sum()).astype(np.float32)


@cache
def _neighbours() -> NDArray[np.int32]:
    # [V, N], filled up with -1; the irises have none.
    beside: list[set[int]] = [set() for _ in range(VERTICES)]
    for triangle in canonical_face().triangles.tolist():
        for vertex in triangle:
            beside[vertex].update(set(triangle) - {vertex})
    table = np.full((VERTICES, max(map(len, beside))), -1, np.int32)
    for vertex, others in enumerate(beside):
        table[vertex, : len(others)] = sorted(others)
    return table
