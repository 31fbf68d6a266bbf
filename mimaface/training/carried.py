"""What training gives a clip of the one before: a true frame with noise, or the student's own.

Rows of a batch differ: some have a past, others start from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mimaface.autoencoder import Autoencoder
from mimaface.ica import carry, warm_start

CARRY_NOISE: Final = 0.1  # on a true frame that is carried, as the release trains
KEEP, COLOUR, BLUR, GRAIN, STRANGER, DROP = range(6)  # what happens to a carried frame


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a clip knows of the one before: its own latents, spoilt or not, and who has them.

    Attributes:
        latents: [B, 1, C, h, w].
        given: [B] bool, which rows have them; the others start from nothing.
    """

    latents: Tensor
    given: Tensor


def carry_rows(previous: Tensor, like: Tensor, *, given: Tensor) -> Tensor:
    """Return carried latents and mask [B, F, C + 1, h, w], in some rows of the batch.

    Args:
        previous: [B, 1, C, h, w], each row's last latents.
        like: [B, F, C, h, w], latents of the clip.
        given: [B] bool, which rows have a previous clip.
    """
    return carry(previous, like=like, form="hold") * rearrange(given, "b -> b 1 1 1 1")


def warm_rows(previous: Tensor, source: Tensor, *, given: Tensor, frames: int) -> Tensor:
    """Return first guesses [B, F, C, h, w]: the previous latents [B, 1, C, h, w] in some rows."""
    return torch.where(
        rearrange(given, "b -> b 1 1 1 1"),
        warm_start(previous, source, frames=frames),
        warm_start(None, source, frames=frames),
    )


def first_past(
    previous: Tensor, *, nothing_share: float, rows: torch.Generator, noise: torch.Generator
) -> Past:
    """Return what a roll-out starts from: nothing, or the true frame [B, 1, C, h, w] with noise."""
    given = torch.rand(len(previous), generator=rows) >= nothing_share
    noised = previous + CARRY_NOISE * draw(noise, like=previous)
    return Past(latents=noised, given=given.to(previous.device))


def spoil(
    autoencoder: Autoencoder,
    latents: Tensor,
    *,
    spoilt_share: float,
    rows: torch.Generator,
    noise: torch.Generator,
) -> Past:
    """Return a clip's latents [B, 1, C, h, w] for the next one, in some rows spoilt.

    They get other colours, less detail, noise, another row's frame, or are lost.
    """
    count, device = len(latents), latents.device
    kinds = torch.randint(1, DROP + 1, (count,), generator=rows)
    is_spoilt = torch.rand(count, generator=rows) < spoilt_share
    kinds = torch.where(is_spoilt, kinds, KEEP).to(device)
    shift = 0.2 * torch.randn(count, 3, 1, 1, generator=rows).to(device)
    images = autoencoder.decode(latents[:, 0])
    small, size = F.avg_pool2d(images, 4), images.shape[-2:]
    blurred = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    versions = {
        COLOUR: autoencoder.encode(images + shift)[:, None],
        BLUR: autoencoder.encode(blurred)[:, None],
        GRAIN: latents + 2 * CARRY_NOISE * draw(noise, like=latents),
        STRANGER: latents.roll(1, dims=0),
    }
    for kind, version in versions.items():
        latents = torch.where(rearrange(kinds == kind, "b -> b 1 1 1 1"), version, latents)
    return Past(latents=latents, given=kinds != DROP)


def draw(noise: torch.Generator, *, like: Tensor) -> Tensor:
    """Return unit normal noise like `like`, the same on every device."""
    return torch.randn(like.shape, generator=noise).to(like)
