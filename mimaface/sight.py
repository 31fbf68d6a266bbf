"""What the networks of a model see of a request, and how what they change gets into the picture.

It knows no networks, nor what they are made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mimaface.config import ModelConfig
from mimaface.face_crop import follow
from mimaface.face_mesh import FEATURES
from mimaface.types import (
    ClipRequest,
    Corner,
    Floats,
    ICAState,
    MeshRender,
    Motion,
    Pixels,
    SourceFeatures,
    pack_signals,
)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the networks see of an avatar: a square around eyes and mouth, or all of it.

    Attributes:
        working_px: side of the avatar at the size that they work on.
        side_px: of the square.
        previous: its corner in the clip before, in pixels at that size; None for first clips.
    """

    working_px: int
    side_px: int
    previous: Corner | None = None


def sight_of(state: ICAState | None, config: ModelConfig) -> Sight:
    """Return what a model's networks see of the clip that follows a state, None of the first."""
    return Sight(
        working_px=config.working_px,
        side_px=config.square_px,
        previous=None if state is None else state.corner,
    )


def look_at(moved: MeshRender, sight: Sight) -> tuple[Pixels, Corner]:
    """Return what networks see of a render, uint8 [F, H, W, 3], and its corner."""
    if sight.side_px == sight.working_px:
        return shrink(moved.pixels, sight.side_px), (0, 0)
    scale = moved.pixels.shape[1] / sight.working_px
    corner = follow(
        moved.landmarks[:, FEATURES] / scale,
        sight.previous,
        size_px=sight.working_px,
        side_px=sight.side_px,
    )
    x, y, side = (round(each * scale) for each in (*corner, sight.side_px))
    return shrink(moved.pixels[:, y : y + side, x : x + side], sight.side_px), corner


def pack_motion(motion: Motion) -> Floats:
    """Return the signals [F, M] of relative motion as it is."""
    return pack_signals(
        expression=motion.expression,
        rotation=motion.rotation,
        translation=motion.translation,
        gaze=motion.gaze,
    )


def features_of(request: ClipRequest, config: ModelConfig) -> SourceFeatures:
    """Return what a model's generator knows of a request's source.

    Raises:
        ValueError: source or ICA state are another model's.
    """
    features, size_px = request.appearance.features, config.size_px
    if features is None or len(request.appearance.source) != size_px:
        raise ValueError(f"the source was not encoded by this model at {size_px} pixels")
    state, cells = request.ica, config.square_px // config.autoencoder.factor
    if state is not None and state.latents.shape[1:] != (len(features.latents), cells, cells):
        raise ValueError("the ICA state is another model's")
    return features


def shrink(pixels: Pixels, side_px: int) -> Pixels:
    """Return square pictures [F, H, H, 3] at a side, averaged where that is shorter than theirs."""
    if pixels.shape[1] == side_px:
        return pixels
    side = (side_px, side_px)
    return np.stack([cv2.resize(each, side, interpolation=cv2.INTER_AREA) for each in pixels])


def refine(whole: Pixels, change: Floats, corner: Corner, *, working_px: int) -> Pixels:
    """Add what the networks changed to pictures that are larger, or finer, or both.

    Args:
        whole: [F, H, H, 3].
        change: [F, h, h, 3] in levels of 255.
        corner: of what the networks saw, in pixels of the picture at their size.
        working_px: that size.
    """
    refined, scale = whole.copy(), whole.shape[1] / working_px
    x, y, side = (round(each * scale) for each in (*corner, change.shape[1]))
    for picture, by in zip(refined, change, strict=True):
        square = picture[y : y + side, x : x + side]
        fitted = cv2.resize(by, (side, side), interpolation=cv2.INTER_CUBIC)
        square[:] = cv2.add(square, fitted, dtype=cv2.CV_8U)
    return refined
