"""The UNet with motion modules: diffusers' UNetMotionModel, normalised frame by frame.

MIMAFace's UNet is Stable Diffusion 1.5 with AnimateDiff v3 motion modules and 3C+1 input channels.
diffusers normalises a motion module's input over all frames of a clip, MIMAFace each frame alone;
with that changed the two agree. Frames then meet in temporal attention only, so the length of a
clip can change and sessions share a batch without touching each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import torch
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mimaface.config import AttentionKernel, DenoiserConfig
from mimaface.correction import DISPLACEMENT, correct, settle

# CUDA's fused attention kernels put the batch on a grid axis of at most 65,535 blocks
# (pytorch issue 142228). Temporal attention has a row per latent cell, 4,096 per session of
# 512x512, so that 16 sessions would be one row too many.
MOST_ATTENTION_ROWS: Final = 32_768


class PerFrameGroupNorm(nn.GroupNorm):
    """GroupNorm of every frame alone: [B, C, F, h, w], or [B F, C, h, w], where it is GroupNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, of its shape."""
        return _with_frames_in_batch(super().forward, x)


class ClipBatchNorm(nn.BatchNorm2d):
    """BatchNorm of clips [B, C, F, h, w], or [B F, C, h, w], over all their frames."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, of its shape."""
        return _with_frames_in_batch(super().forward, x)


class TemporalAttention:
    """Attention over the frames of a clip, in slabs that fused kernels can take."""

    def __call__(self, attention: Attention, hidden_states: Tensor, **_: Any) -> Tensor:
        """Return [B h w, F, C] attended over F; diffusers' signature of a processor."""
        if hidden_states.shape[1] == 1:  # one frame attends to itself alone
            only: Tensor = attention.to_out[0](attention.to_v(hidden_states))
            return only

        def heads_apart(x: Tensor) -> Tensor:
            return rearrange(x, "rows f (heads d) -> rows heads f d", heads=attention.heads)

        query = heads_apart(attention.to_q(hidden_states))
        key = heads_apart(attention.to_k(hidden_states))
        value = heads_apart(attention.to_v(hidden_states))
        slabs = [
            F.scaled_dot_product_attention(*slab)
            for slab in zip(
                *(torch.split(each, MOST_ATTENTION_ROWS) for each in (query, key, value)),
                strict=True,
            )
        ]
        attended = slabs[0] if len(slabs) == 1 else torch.cat(slabs)
        out: Tensor = attention.to_out[0](rearrange(attended, "rows heads f d -> rows f (heads d)"))
        return out


class Still(nn.Module):
    """Stands where a level has no motion module: every frame passes as it is."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Return the input."""
        return hidden_states


class Denoiser(nn.Module):
    """Predicts the noise or the clean sample of a clip's latents, or what corrects its render."""

    def __init__(
        self,
        config: DenoiserConfig,
        *,
        channels: int,
        context_width: int,
        attention: AttentionKernel = "sdpa",
    ) -> None:
        """Build it without weights.

        Args:
            config: its shape.
            channels: C; 3C+1 channels go in. C come out, of a residual one C+2 (`correction`).
            context_width: D of the context tokens.
            attention: kernel of the spatial attentions. xformers has kernels for GPUs only.
        """
        super().__init__()
        down = [
            "CrossAttnDownBlockMotion" if has else "DownBlockMotion" for has in config.attention
        ]
        up = ["CrossAttnUpBlockMotion" if has else "UpBlockMotion" for has in config.attention]
        self.unet = UNetMotionModel(
            in_channels=3 * channels + 1,
            out_channels=channels + DISPLACEMENT if config.residual else channels,
            down_block_types=tuple(down),
            up_block_types=tuple(reversed(up)),
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            norm_num_groups=config.norm_groups,
            cross_attention_dim=context_width,
            num_attention_heads=config.heads,
            motion_num_attention_heads=config.heads,
            motion_max_seq_length=config.most_frames,
            use_motion_mid_block=False,
        )
        for level, has_motion in enumerate(config.motion):
            if not has_motion:
                for block in (self.unet.down_blocks[level], self.unet.up_blocks[-1 - level]):
                    block.motion_modules = nn.ModuleList(Still() for _ in block.motion_modules)
        for name, module in list(self.unet.named_modules()):
            if isinstance(module, nn.GroupNorm):
                self.unet.set_submodule(name, _per_frame(module, config.norm))
        self.unet.set_attn_processor(
            {
                name: TemporalAttention() if "motion_modules" in name else _spatial(attention)
                for name in self.unet.attn_processors
            }
        )

    def forward(self, noisy: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """Predict.

        Args:
            noisy: [B, 3C+1, F, h, w]: noisy, render and carried latents, and the mask.
            timestep: [B], in 0..999; need not be whole.
            tokens: [B, F, L, D], the context.

        Returns:
            [B, C, F, h, w], or [B, C+2, F, h, w].
        """
        context = rearrange(tokens, "b f l d -> (b f) l d")
        [said] = self.unet(noisy, timestep, context, return_dict=False)
        prediction: Tensor = said
        return prediction


class Predicted(NamedTuple):
    """What a denoiser said, in the precision of the noisy latents.

    Attributes:
        latents: [B, F, C, h, w], the noise or the clean sample.
        correction: [B, F, C+2, h, w], how a residual denoiser made that of the render, else None.
    """

    latents: Tensor
    correction: Tensor | None


def predict(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    noisy: Tensor,
    timestep: Tensor,
    *,
    condition: Tensor,
    tokens: Tensor,
    guidance: float,
) -> Predicted:
    """Predict the noise or the clean sample, with classifier-free guidance where it is not 1.

    Args:
        denoiser: the network (`Denoiser`); it computes in its own precision.
        noisy: [B, F, C, h, w].
        timestep: [B].
        condition: [B, F, 2C+1, h, w], render and carried latents, and the mask.
        tokens: [B, F, L, D], the context, or what `denoiser` makes it of; guidance leads away from
            what zeros would give.
        guidance: its scale (J. Ho, T. Salimans, arXiv 2207.12598).
    """
    channels = torch.cat([noisy.to(condition), condition], dim=2)
    if guidance != 1:
        channels, timestep = torch.cat([channels] * 2), torch.cat([timestep] * 2)
        tokens = torch.cat([torch.zeros_like(tokens), tokens])
    out = denoiser(rearrange(channels, "b f c h w -> b c f h w"), timestep, tokens)
    said = rearrange(out, "b c f h w -> b f c h w").to(noisy.dtype)
    if guidance != 1:
        without, with_tokens = said.chunk(2)
        said = without + guidance * (with_tokens - without)
    if said.shape[2] == noisy.shape[2]:
        return Predicted(said, None)
    render, correction = condition[:, :, : noisy.shape[2]], settle(said)
    return Predicted(correct(render, correction).to(noisy.dtype), correction)


def _with_frames_in_batch(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.ndim == 4:
        return norm(x)
    frames = rearrange(x, "b c f h w -> (b f) c h w")
    return rearrange(norm(frames), "(b f) c h w -> b c f h w", b=len(x))


def _per_frame(norm: nn.GroupNorm, kind: Literal["group", "batch"]) -> nn.Module:
    if kind == "batch":
        return ClipBatchNorm(norm.num_channels)
    return PerFrameGroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps)


def _spatial(attention: AttentionKernel) -> Any:
    if attention == "sdpa":
        return AttnProcessor2_0()
    from diffusers.models.attention_processor import XFormersAttnProcessor
    from diffusers.utils import is_xformers_available

    if not is_xformers_available():
        raise ValueError("attention='xformers' needs the package: pip install 'mimaface[xformers]'")
    return XFormersAttnProcessor()
