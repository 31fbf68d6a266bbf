"""Inter-clip affinity: how the previous clip's last latents enter the next clip.

Arrays are frame-major, [B, F, C, h, w]. Two forms. `overlap`, the release's: K frames are carried
in their own places and made again, before the new ones. `hold`, ours: one frame is carried, and
stands beside every new frame; nothing is made twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimaface.config import ICAForm


def carry(previous: Tensor | None, *, like: Tensor, form: ICAForm) -> Tensor:
    """Return the carried latents of a clip and their mask.

    Args:
        previous: [B, K, C, h, w], the last latents of the previous clips; None for first clips.
        like: [B, F, C, h, w], latents of the clip.
        form: where they go.

    Returns:
        [B, F, C + 1, h, w]: latents, zeros where none are given, and a mask, 1 where some are.
    """
    carried = torch.zeros_like(like)
    mask = torch.zeros_like(like[:, :, :1])
    if previous is not None:
        given = slice(None) if form == "hold" else slice(previous.shape[1])
        carried[:, given] = previous.to(like)
        mask[:, given] = 1
    return torch.cat([carried, mask], dim=2)


def warm_start(previous: Tensor | None, source: Tensor, *, frames: int) -> Tensor:
    """Return a first guess of a clip's latents [B, F, C, h, w], from which few steps suffice.

    Args:
        previous: [B, K, C, h, w], the last latents of the previous clips; None for first clips.
        source: [B, C, h, w], the source image's latents, the guess for first clips.
        frames: F.
    """
    known = source[:, None] if previous is None else previous
    return known[:, torch.arange(frames).clamp(max=known.shape[1] - 1)]
