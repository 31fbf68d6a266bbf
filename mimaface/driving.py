"""What drives a portrait offline: a video, or recorded motion. One frame after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mimaface.errors import UnreadableMediaError
from mimaface.motion import FaceMeshExtractor, relative_ahead
from mimaface.types import Motion, Pixels, Stage
from mimaface.video import USUAL_FPS, VideoReader

# A frame of motion, and the driver's picture where it is to be shown.
Frames = Iterator[tuple[Motion, Pixels | None]]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driving source, opened.

    Attributes:
        frames: relative motion, frame by frame.
        fps: frames per second.
        expected_frames: how many, None where the file does not tell.
        video: the video; None where motion was recorded.
    """

    frames: Frames
    fps: float
    expected_frames: int | None
    video: VideoReader | None


def open_driver(path: Path, stack: ExitStack, *, stage: Stage, box_px: int | None) -> Driver:
    """Open a driving source.

    Args:
        path: a video, or motion as .npz.
        stack: closes the video.
        stage: is entered with the names "read" and "extract" for each frame of a video.
        box_px: side of the square to fit the driver's pictures into; None for no pictures.

    Raises:
        UnreadableMediaError: the file is missing, damaged or empty.
    """
    if path.suffix != ".npz":
        video = stack.enter_context(VideoReader(path))
        frames = relative_ahead(_filmed(video, stage, box_px))
        return Driver(
            frames=frames, fps=video.fps, expected_frames=video.expected_frames, video=video
        )
    motion = Motion.load(path)
    if not len(motion):
        raise UnreadableMediaError(f"{path} holds no frames")
    recorded: Frames = ((motion[index : index + 1], None) for index in range(len(motion)))
    frames = recorded if motion.is_relative else relative_ahead(recorded)
    return Driver(frames=frames, fps=mean_fps(motion), expected_frames=len(motion), video=None)


def mean_fps(motion: Motion) -> float:
    """Return the frames per second of motion, a usual number for a single frame."""
    if len(motion) < 2:
        return USUAL_FPS
    return float((len(motion) - 1) / (motion.time_s[-1] - motion.time_s[0]))


def _filmed(video: VideoReader, stage: Stage, box_px: int | None) -> Frames:
    # Absolute motion, and the driver's picture if it is to be shown.
    pictures = iter(video)
    with closing(FaceMeshExtractor()) as extractor:
        while True:
            with stage("read"):
                frame = next(pictures, None)
            if frame is None:
                return
            time_s, rgb = frame
            with stage("extract"):
                motion = extractor.extract(time_s, rgb)
            yield motion, _letterboxed(rgb, box_px) if box_px else None


def _letterboxed(picture: Pixels, size_px: int) -> Pixels:
    height, width = picture.shape[:2]
    scale = size_px / max(height, width)
    fitted = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = ((size_px - side) // 2 for side in fitted)
    box = np.zeros((size_px, size_px, 3), np.uint8)
    box[top : top + fitted[1], left : left + fitted[0]] = cv2.resize(
        picture, fitted, interpolation=cv2.INTER_AREA
    )
    return box
