"""Between pictures and latents: Stable Diffusion's KL autoencoder, TAESD, or pixels rearranged.

Latents are what the denoiser works on. This is the only file that knows a scaling factor; nothing
here clamps what it decodes.
"""

from __future__ import annotations

from typing import Final, Protocol

from diffusers import AutoencoderKL, AutoencoderTiny
from einops import rearrange
from torch import Tensor, nn

KL_SCALE: Final = 0.18215  # one over the deviation of Stable Diffusion 1.5's raw latents


class Autoencoder(Protocol):
    """Turns pictures into latents and back.

    Attributes:
        latent_channels: C.
        factor: pixels along a side of a latent cell, H = factor h.
    """

    latent_channels: int
    factor: int

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of latents [B, C, h, w]; they may exceed [-1, 1]."""
        ...


class KL(nn.Module):
    """Stable Diffusion 1.5's autoencoder; latents are the mode of its distribution.

    Args:
        widths: channels of the levels; each but the first halves the picture.
        layers: residual blocks per level.
        norm_groups: groups of every GroupNorm.
        latent_channels: C.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (128, 256, 512, 512),
        layers: int = 2,
        norm_groups: int = 32,
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.factor = 2 ** (len(widths) - 1)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=layers,
            latent_channels=latent_channels,
            norm_num_groups=norm_groups,
            scaling_factor=KL_SCALE,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        mode: Tensor = self.vae.encode(images).latent_dist.mode()
        return mode * KL_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of latents [B, C, h, w]."""
        images: Tensor = self.vae.decode(latents / KL_SCALE).sample
        return images


class TAESD(nn.Module):
    """A small network that imitates `KL` on the same latents.

    TAESD was trained on latents already multiplied by the scaling factor
    (github.com/madebyollin/taesd/issues/3 and /18), so its own factor is 1 and either
    autoencoder decodes what the other encodes. diffusers' `scale_latents` is for storing latents
    in a picture file and has no part in this.

    Args:
        width: channels of every convolution.
        encoder_blocks: residual blocks per level, finest first.
        decoder_blocks: residual blocks per level, coarsest first.
        latent_channels: C.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        if len(encoder_blocks) != len(decoder_blocks):
            raise ValueError(f"{encoder_blocks=} and {decoder_blocks=} must name the same levels")
        self.latent_channels = latent_channels
        self.factor = 2 ** (len(encoder_blocks) - 1)
        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(width,) * len(encoder_blocks),
            decoder_block_out_channels=(width,) * len(decoder_blocks),
            latent_channels=latent_channels,
            num_encoder_blocks=encoder_blocks,
            num_decoder_blocks=decoder_blocks,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        latents: Tensor = self.vae.encode(images).latents
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of latents [B, C, h, w]."""
        images: Tensor = self.vae.decode(latents).sample
        return images


class PixelUnshuffle(nn.Module):
    """No network: the latents of a cell are its pixels, [B, 3 factor^2, h, w], nothing lost."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"{factor=} must be at least 1")
        self.latent_channels = 3 * factor**2
        self.factor = factor

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        return rearrange(images, "b c (h i) (w j) -> b (c i j) h w", i=self.factor, j=self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of latents [B, C, h, w]."""
        return rearrange(latents, "b (c i j) h w -> b c (h i) (w j)", i=self.factor, j=self.factor)
