"""What a residual denoiser says of a render: how far its parts are off, and what to add to them.

The mesh moves a photo rigidly where a head is not, and a tracker is late or wrong by a pixel or
two. Moving the render's own detail mends that without a loss of sharpness; what the render never
showed has to be added.

This works on batches of latents anywhere and can be learnt through; `mimaface.correction_loop` does
the same to one picture in a single pass of a processor.
"""

from __future__ import annotations

from math import isqrt
from typing import Final

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mimaface.autoencoder import PixelUnshuffle

DISPLACEMENT: Final = 2  # channels beside those of the latents: to the right and down, in cells
LEAST_ADDED: Final = 1.5 * 2 / 255  # what is added is less by this: a level or two are no detail,
LEAST_MOVED: Final = 0.1  # of a cell, by which all is moved less: fractions of a pixel only blur


def settle(said: Tensor) -> Tensor:
    """Return a correction [B, F, C + 2, h, w] without what is small in it.

    That blurs what is only unsure, and flickers where the network is rounded. Soft shrinkage
    (D. Donoho, De-noising by soft-thresholding, IEEE Trans. Information Theory 1995), with the
    gradient of the identity: what is too small to be seen, as at the start, can still grow.
    """
    added, moved = torch.split(said, [said.shape[2] - DISPLACEMENT, DISPLACEMENT], dim=2)
    settled = torch.cat([F.softshrink(added, LEAST_ADDED), F.softshrink(moved, LEAST_MOVED)], dim=2)
    return said + (settled - said).detach()


def correct(render: Tensor, correction: Tensor) -> Tensor:
    """Return the clean latents that a correction makes of a render's.

    Args:
        render: [B, F, C, h, w], pixels rearranged (`PixelUnshuffle`).
        correction: [B, F, C + 2, h, w], what to add and where to look.

    Returns:
        [B, F, C, h, w] in float32: half precision cannot tell neighbouring pixels' places apart.
    """
    channels = render.shape[2]
    pixels = PixelUnshuffle(isqrt(channels // 3))
    flat = rearrange(render, "b f c h w -> (b f) c h w").float()
    rows = rearrange(correction, "b f c h w -> (b f) c h w").float()
    added, displacement = torch.split(rows, [channels, DISPLACEMENT], dim=1)
    corrected = pixels.encode(displace(pixels.decode(flat), displacement)) + added
    return rearrange(corrected, "(b f) c h w -> b f c h w", b=len(render))


def displace(images: Tensor, displacement: Tensor) -> Tensor:
    """Return images [N, C, H, W] that show at each place what lies a displacement further.

    Args:
        images: [N, C, H, W].
        displacement: [N, 2, h, w], to the right and down, in cells of H / h pixels.
    """
    cells, size = displacement.shape[2:], images.shape[2:]
    smooth = F.interpolate(displacement, size=size, mode="bilinear", align_corners=False)
    rows, columns = (
        (torch.arange(side, device=images.device) + 0.5) * (2 / side) - 1 for side in size
    )
    x = columns + smooth[:, 0] * (2 / cells[1])
    y = rows[:, None] + smooth[:, 1] * (2 / cells[0])
    return F.grid_sample(
        images,
        torch.stack([x, y], dim=-1),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
