"""The heart: a portrait and motion in, avatar frames out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mimaface.appearance import encode_photo
from mimaface.errors import SourceImageError
from mimaface.frame_generator import FrameGenerator
from mimaface.model import Model
from mimaface.photo import Photo
from mimaface.render import drawn, render
from mimaface.types import (
    Appearance,
    Clip,
    ClipRequest,
    MeshRender,
    Motion,
    SourceFeatures,
    Stage,
    is_finite,
)

if TYPE_CHECKING:
    from mimaface.generator import Generator


def unwatched(_name: str) -> AbstractContextManager[None]:
    """Enter a stage that nobody measures."""
    return nullcontext()


def encode_source(
    model: Model,
    photo: Photo,
    *,
    on_device: Callable[[Callable[[], SourceFeatures]], SourceFeatures] = lambda read: read(),
) -> Appearance:
    """Encode a source image once, for all clips to come.

    Args:
        model: what `load` returned.
        photo: path of a JPEG, PNG or WebP file, its bytes, or uint8 [H, W, 3] RGB.
        on_device: runs the part that needs the generator's device, in the thread that owns it.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        SourceImageError: the picture cannot be a portrait; its subclasses say why, or the
            generator makes no numbers of it.
    """
    appearance = encode_photo(photo, size_px=model.config.size_px, framing=model.config.framing)
    if model.generator is None:
        return appearance
    features = on_device(partial(model.generator.read_source, appearance))
    if not is_finite(features):
        raise SourceImageError(
            "the generator makes values that are no numbers of this photo: try another one, or a "
            "higher precision"
        )
    return replace(appearance, features=features)


def animate(
    model: Model, requests: Sequence[ClipRequest], *, stage: Stage = unwatched
) -> list[Clip]:
    """Make the clips of several sessions; none depends on which others are in the batch.

    Requests of the same shape share one forward pass of torch (`Generator.animate`). With
    no denoising steps the mesh render is the avatar.

    Args:
        model: what `load` returned.
        requests: the clips to make.
        stage: is entered with the name of every stage of the generator, to measure it.

    Raises:
        UnsupportedStepsError: the model cannot do a request's number of denoising steps.
        ValueError: a request is for more frames than a clip may have, or its source or ICA state
            is another model's.
        MemoryError: the device has no room for the clips; what it kept for later is given back.
    """
    for request in requests:
        model.check_steps(request.steps)
        most = model.config.denoiser.most_frames - model.config.overlap_frames
        if request.steps and len(request.motion) > most:
            raise ValueError(f"a clip may add at most {most} frames, found {len(request.motion)}")
    clips: dict[int, Clip] = {}
    for rows in _alike(requests):
        group = [requests[row] for row in rows]
        if model.generator is None or not group[0].steps:
            made = [_draw(model, request) for request in group]
        elif isinstance(model.generator, FrameGenerator):
            made = model.generator.animate(group, stage=stage)
        else:
            made = _denoise(model.generator, group, stage)
        clips.update(zip(rows, made, strict=True))
    return [clips[row] for row in range(len(requests))]


def _denoise(generator: Generator, group: Sequence[ClipRequest], stage: Stage) -> list[Clip]:
    import torch

    try:
        return generator.animate(group, stage=stage)
    except torch.OutOfMemoryError:
        pass  # the error holds on to tensors: what they took is free only once it is gone
    torch.cuda.empty_cache()
    raise MemoryError(f"the device has no memory left for {len(group)} clips at a time")


def draw_ahead(appearance: Appearance, motion: Motion, steps: int) -> MeshRender | None:
    """Draw the mesh that a clip of so many steps will be made from (`ClipRequest.moved`).

    It can be drawn in any thread, while the device makes the clip before. None where the condition
    is a face model's render, which the device draws.
    """
    features = appearance.features
    if steps and features is not None and features.face is not None:
        return None
    return render(appearance.mesh, motion)


def _draw(model: Model, request: ClipRequest) -> Clip:
    moved = drawn(request)
    state = None if model.generator is None else model.generator.remember(request, moved)
    return Clip(pixels=moved.pixels, ica=state, matte=moved.coverage)


def _alike(requests: Sequence[ClipRequest]) -> Iterator[list[int]]:
    # Requests that can share a batch: the same steps, new frames and carried frames.
    groups: dict[tuple[int, int, int], list[int]] = {}
    for row, request in enumerate(requests):
        carried = 0 if request.ica is None else len(request.ica.latents)
        groups.setdefault((request.steps, len(request.motion), carried), []).append(row)
    yield from groups.values()
