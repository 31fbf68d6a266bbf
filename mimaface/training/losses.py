"""What training minimises."""

from __future__ import annotations

from typing import Final

from einops import reduce
from torch import Tensor

from mimaface.schedule import snr

SNR_GAMMA: Final = 5.0  # T. Hang et al., Min-SNR weighting, arXiv 2303.09556


def min_snr_weights(timestep: Tensor) -> Tensor:
    """Return weights [B] of errors in predicted noise: 1 where noise is strong, less where weak."""
    ratio = snr(timestep)
    return ratio.clamp(max=SNR_GAMMA) / ratio


def denoising_loss(epsilon: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return the weighted mean square error [] of predicted noise.

    Args:
        epsilon: [B, F, C, h, w], predicted.
        noise: the same shape, what was added.
        timestep: [B], where.
    """
    error = reduce((epsilon - noise) ** 2, "b f c h w -> b", "mean")
    return (error * min_snr_weights(timestep)).mean()
