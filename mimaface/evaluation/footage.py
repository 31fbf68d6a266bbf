"""A driving video as an evaluation needs it: cropped pictures, and where the face is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from mimaface.config import Framing
from mimaface.errors import NoFaceError, UnreadableMediaError
from mimaface.motion import FaceMeshExtractor
from mimaface.photo import DETECTOR_BOX, crop_around
from mimaface.types import Crop, Floats, Motion, Pixels
from mimaface.video import VideoReader

MOST_REPEATED_S: Final = 60.0  # a clip that is played back and forth is kept in memory


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A driving frame, uint8 [H, W, 3], and its absolute motion; `index` counts from 0."""

    index: int
    rgb: Pixels
    motion: Motion


@dataclass(frozen=True, kw_only=True)
class Take:
    """A driving frame as the avatar's picture would show it.

    Attributes:
        picture: uint8 [H, W, 3], the crop at the avatar's size.
        places: [V, 2], the landmarks in its pixels.
        motion: the frame's absolute motion.
        index: which frame of the clip it is; 0 is the first that shows a face.
    """

    picture: Pixels
    places: Floats
    motion: Motion
    index: int


def filmed(video: VideoReader) -> Iterator[Shot]:
    """Yield the driving frames from the first one on that shows a face.

    Raises:
        NoFaceError: none does.
    """
    index = 0
    with closing(FaceMeshExtractor()) as extractor:
        for time_s, rgb in video:
            motion = extractor.extract(time_s, rgb)
            if index or motion.valid[0]:
                yield Shot(index=index, rgb=rgb, motion=motion)
                index += 1
    if not index:
        raise NoFaceError(f"{video.path} shows no face: choose a video that does")


def crop_of(shot: Shot, framing: Framing) -> Crop:
    """Return the square around the face of a driving frame."""
    high, wide = shot.rgb.shape[:2]
    unit_px = wide / float(shot.motion.translation[0, 2])
    places = shot.motion.landmarks[0, :, :2] * (wide, high)
    x, y = (places.min(axis=0) + places.max(axis=0)) / 2
    return crop_around((x, y, DETECTOR_BOX * unit_px), shot.rgb.shape, framing)


def cropped(shot: Shot, crop: Crop, size_px: int) -> Take:
    """Return what the avatar's picture would show of a driving frame."""
    high, wide = shot.rgb.shape[:2]
    picture = shot.rgb[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    how = cv2.INTER_AREA if crop.side > size_px else cv2.INTER_CUBIC
    places = shot.motion.landmarks[0, :, :2] * (wide, high) - (crop.left, crop.top)
    return Take(
        picture=cv2.resize(picture, (size_px, size_px), interpolation=how),
        places=(places * size_px / crop.side).astype(np.float32),
        motion=shot.motion,
        index=shot.index,
    )


def kept(takes: Iterator[Take]) -> list[Take]:
    """Keep a clip in memory, to play it again.

    Raises:
        UnreadableMediaError: it is longer than `MOST_REPEATED_S`, or a single frame.
    """
    clip: list[Take] = []
    for take in takes:
        clip.append(take)
        if take.motion.time_s[0] - clip[0].motion.time_s[0] > MOST_REPEATED_S:
            raise UnreadableMediaError(
                f"a driver that is repeated may last {MOST_REPEATED_S:.0f} s: choose a shorter one"
            )
    if len(clip) < 2:
        raise UnreadableMediaError("a driver that is repeated needs more than one frame")
    return clip


def back_and_forth(takes: Sequence[Take], until_s: float) -> Iterator[Take]:
    """Play a clip forwards and backwards until it has lasted so long; no frame comes twice."""
    times_s = [float(take.motion.time_s[0]) for take in takes]
    round_trip = [*range(len(takes)), *range(len(takes) - 2, 0, -1)]
    shown_s, turn, before = 0.0, 0, 0
    while True:
        row = round_trip[turn % len(round_trip)]
        shown_s += abs(times_s[row] - times_s[before])
        if shown_s > until_s - 1e-6:
            return
        yield replace(takes[row], motion=replace(takes[row].motion, time_s=np.array([shown_s])))
        turn, before = turn + 1, row
