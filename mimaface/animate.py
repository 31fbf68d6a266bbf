"""The heart: a portrait and motion in, avatar frames out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mimaface.appearance import encode_photo
from mimaface.config import CONFIGS, ModelConfig
from mimaface.errors import UnsupportedStepsError
from mimaface.render import render
from mimaface.types import Appearance, Clip, ClipRequest, Pixels


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded model; it holds no state of any session."""

    config: ModelConfig


def load(name: str = "tiny", *, size_px: int | None = None) -> Model:
    """Load a model by its name in `CONFIGS`, if need be for another size than its own."""
    if name not in CONFIGS:
        raise ValueError(f"there is no model {name!r}, there are {', '.join(CONFIGS)}")
    config = CONFIGS[name]
    return Model(config=replace(config, size_px=size_px or config.size_px))


def encode_source(model: Model, photo: Path | bytes | Pixels) -> Appearance:
    """Encode a source image once, for all clips to come.

    Args:
        model: what `load` returned.
        photo: a JPEG, PNG or WebP file, its bytes, or uint8 [H, W, 3] RGB.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        SourceImageError: the picture cannot be a portrait; its subclasses say why.
    """
    return encode_photo(photo, size_px=model.config.size_px)


def animate(model: Model, requests: Sequence[ClipRequest]) -> list[Clip]:
    """Make the clips of several sessions; none depends on which others are in the batch.

    Raises:
        UnsupportedStepsError: the model cannot do a request's number of denoising steps.
    """
    for request in requests:
        if request.steps not in model.config.steps:
            offered = ", ".join(str(steps) for steps in model.config.steps)
            raise UnsupportedStepsError(
                f"model {model.config.name} does {offered} denoising steps, not {request.steps}"
            )
    conditions = [render(request.appearance.mesh, request.motion) for request in requests]
    # With no denoising steps the condition render is the avatar.
    return [
        Clip(pixels=condition.render, ica=request.ica)
        for condition, request in zip(conditions, requests, strict=True)
    ]
