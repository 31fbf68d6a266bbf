"""Encodes the source image into patch tokens and an identity vector, once per portrait.

`ClipIdentityEncoder` is what the official weights need: CLIP's vision tower and CurricularFace.
`PatchEncoder` is the small network of the embedded model. Neither knows how the source was cropped
or aligned, nor which tokens the denoiser makes of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import CLIPVisionConfig, CLIPVisionModel

from mimaface.config import ClipEncoderConfig, PatchEncoderConfig
from mimaface.identity import CurricularFace, crop_112
from mimaface.types import Pixels

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1]
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class SourceTokens:
    """What a source image looks like and who is in it.

    Attributes:
        tokens: [L, D], the class token, then the patches row by row.
        identity: [I].
    """

    tokens: Tensor
    identity: Tensor


class SourceEncoder(Protocol):
    """Makes tokens of a source image."""

    def encode(self, source: Pixels, aligned: Tensor | None = None) -> SourceTokens:
        """Encode a portrait.

        Args:
            source: uint8 [H, W, 3], the square crop around the face.
            aligned: [1, 3, S, S] in [-1, 1], the same face moved onto the identity network's
                template; encoders without such a network do not look at it.
        """
        ...

    def describe(self, picture: Pixels) -> Tensor:
        """Return a vector [D] that says who a picture, uint8 [H, W, 3], shows, aligned or not."""
        ...


class ClipIdentityEncoder(nn.Module):
    """CLIP's patch tokens and CurricularFace's deep features."""

    def __init__(self, config: ClipEncoderConfig) -> None:
        """Build it without weights."""
        super().__init__()
        self._image_px = config.image_px
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.image_px,
                patch_size=config.patch_px,
                hidden_act="quick_gelu",
            )
        )
        # These are no weights, so nothing would fill them in a module built on the meta device.
        embeddings = self.clip.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device="cpu")[None]
        self.identity = CurricularFace(widths=config.identity_widths, depths=config.identity_depths)

    def forward(self, pixels: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens [B, L, D] and identities [B, I].

        Args:
            pixels: [B, 3, 224, 224], what `clip_pixels` makes.
            aligned: [B, 3, S, S] in [-1, 1], cropped by `identity.crop_112`.
        """
        # Not the pooled output: the norm after the last layer only touches that one.
        patches = self.clip(pixels).last_hidden_state
        deep = self.identity(crop_112(aligned))  # [B, C, h, w]
        return patches, rearrange(deep, "b c h w -> b (c h w)")

    def encode(self, source: Pixels, aligned: Tensor | None = None) -> SourceTokens:
        """Encode a portrait, uint8 [H, W, 3]; see `SourceEncoder`."""
        if aligned is None:
            raise ValueError("the identity network needs the aligned picture, found None")
        some = next(self.parameters())  # for its device and dtype
        pixels = clip_pixels(source, image_px=self._image_px)
        tokens, identity = self(pixels.to(some), aligned.to(some))
        return SourceTokens(tokens=tokens[0], identity=identity[0])

    def describe(self, picture: Pixels) -> Tensor:
        """Return CLIP's class token [D] of a picture, uint8 [H, W, 3]; see `SourceEncoder`."""
        pixels = clip_pixels(picture, image_px=self._image_px).to(next(self.parameters()))
        token: Tensor = self.clip(pixels).last_hidden_state[0, 0]
        return token


class PatchEncoder(nn.Module):
    """A small encoder: convolutions down to a grid of patches, then a transformer.

    Norms directly follow convolutions, so they fold into them. The class token is the identity.
    """

    def __init__(self, config: PatchEncoderConfig) -> None:
        """Build it without weights."""
        super().__init__()
        self._grid, width = config.grid, config.width
        self.convolutions = nn.Sequential()
        for width_in, width_out in pairwise((3, *config.channels, width)):
            self.convolutions.append(nn.Conv2d(width_in, width_out, 3, 2, padding=1, bias=False))
            self.convolutions.append(nn.BatchNorm2d(width_out))
            self.convolutions.append(nn.SiLU())
        self.class_token = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.zeros(1 + config.grid**2, width))
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens [B, L, D], class token first, of images [B, 3, H, W] in [-1, 1]."""
        cells = adaptive_avg_pool2d(self.convolutions(images), self._grid)
        patches = rearrange(cells, "b d h w -> b (h w) d")
        class_tokens = repeat(self.class_token, "l d -> b l d", b=len(images))
        tokens = torch.cat([class_tokens, patches], dim=1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def encode(self, source: Pixels, aligned: Tensor | None = None) -> SourceTokens:
        """Encode a portrait, uint8 [H, W, 3], whose sides are multiples of 64."""
        del aligned  # The class token says who it is.
        if any(side % 64 for side in source.shape[:2]):
            raise ValueError(f"sides must be multiples of 64, found {source.shape[:2]}")
        images = rearrange(torch.tensor(source), "h w c -> 1 c h w")
        tokens = self(images.to(self.positions) / 127.5 - 1)[0]
        return SourceTokens(tokens=tokens, identity=tokens[0])

    def describe(self, picture: Pixels) -> Tensor:
        """Return the class token [D] of a picture, uint8 [H, W, 3]; see `SourceEncoder`."""
        return self.encode(picture).tokens[0]


def clip_pixels(source: Pixels, *, image_px: int = 224) -> Tensor:
    """Return a picture, uint8 [H, W, 3], as CLIP wants it: float [1, 3, image_px, image_px].

    The shorter side is scaled to image_px and the middle is cut out, as CLIP's own preprocessing
    does; Pillow's bicubic filter widens with the scale, which torch's does not.
    """
    height, width = source.shape[:2]
    short = min(height, width)
    size = (image_px * width // short, image_px * height // short)
    small = np.array(Image.fromarray(source).resize(size, Image.Resampling.BICUBIC))
    left, top = ((side - image_px) // 2 for side in size)
    square = torch.from_numpy(small[top : top + image_px, left : left + image_px]) / 255
    normal = (square - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return rearrange(normal, "h w c -> 1 c h w")
