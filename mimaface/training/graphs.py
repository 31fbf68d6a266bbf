"""The networks of a trained generator as `mimaface.frame_generator` asks them, to be exported.

One frame of one session: norms are folded into the layers beside them, and the attention over
frames, of which there is one, becomes a linear layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from mimaface.correction import settle
from mimaface.denoiser import ClipBatchNorm
from mimaface.frame_generator import INPUTS, Inputs
from mimaface.generator import Generator
from mimaface.schedule import add_noise
from mimaface.source_encoder import PatchEncoder
from mimaface.types import Floats, Pixels


class TorchNetworks:
    """What the exported graphs hold, run by torch."""

    def __init__(self, generator: Generator) -> None:
        """Use a generator's networks."""
        self.frame = FrameNetworks(generator).eval()
        self.source = SourceNetworks(generator).eval()

    @torch.inference_mode()
    def encode(self, source: Pixels) -> Floats:
        """Return the tokens [L, D'] of a source [H, W, 3], the class token first."""
        tokens: Floats = self.source(torch.from_numpy(source)).numpy()
        return tokens

    @torch.inference_mode()
    def correct(self, inputs: Inputs) -> Floats:
        """Return what MIA and denoiser say [C + 2, h, w], without small additions."""
        read = (torch.from_numpy(inputs[name]) for name in INPUTS)
        correction: Floats = self.frame(*read).numpy()
        return correction


class SourceNetworks(nn.Module):
    """A generator's source encoder."""

    def __init__(self, generator: Generator) -> None:
        """Use that of a generator of the paper's form."""
        super().__init__()
        assert isinstance(generator.encoder, PatchEncoder), "the released form reads more than this"
        self.encoder = generator.encoder

    def forward(self, picture: Tensor) -> Tensor:
        """Return tokens [L, D'] of a source, uint8 [H, W, 3]."""
        images = rearrange(picture.float(), "h w c -> 1 c h w") / 127.5 - 1
        tokens: Tensor = self.encoder(images)[0]
        return tokens


class FrameNetworks(nn.Module):
    """A generator's MIA and denoiser for one frame of one session, folded."""

    def __init__(self, generator: Generator) -> None:
        """Copy those of a generator whose denoiser's norms are BatchNorms."""
        super().__init__()
        self.mia = copy.deepcopy(generator.mia)
        self.unet = fold(copy.deepcopy(generator.denoiser.unet))
        self.autoencoder = generator.autoencoder

    def forward(
        self,
        render: Tensor,
        guess: Tensor,
        previous: Tensor,
        has_previous: Tensor,
        timestep: Tensor,
        source: Tensor,
        signals: Tensor,
    ) -> Tensor:
        """Return the correction [C+2, h, w] (`mimaface.frame_generator.INPUTS` says of what)."""
        images = rearrange(render.float(), "h w c -> 1 c h w") / 127.5 - 1
        latents = self.autoencoder.encode(images)
        noisy = add_noise(guess[None], torch.zeros_like(latents), timestep)
        mask = torch.ones_like(latents[:, :1]) * has_previous
        channels = torch.cat([noisy, latents, previous[None], mask], dim=1)
        nothing = signals[:0]  # the paper's form reads no more
        [tokens] = self.mia(source[None], nothing, nothing, signals[None, None])
        [said] = self.unet(channels[:, :, None], timestep, tokens, return_dict=False)
        return settle(rearrange(said, "b c f h w -> b f c h w"))[0, 0]


class OneFrameAttention(nn.Module):
    """Attention over one frame: the weight of its only value is 1, so two products are one."""

    def __init__(self, attention: Any) -> None:
        """Join the layers that make the value and the output."""
        super().__init__()
        value, out = attention.to_v, attention.to_out[0]
        assert value.bias is None, "diffusers gives values no bias"
        self.layer = nn.Linear(value.in_features, out.out_features)
        self.layer.weight.data = out.weight.data @ value.weight.data
        self.layer.bias.data = out.bias.data

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Return [h w, 1, C] of the same shape."""
        return self.layer(hidden_states)


@torch.no_grad()
def fold(unet: Any) -> nn.Module:
    """Change a network into its form for one frame, which computes the same."""
    for module in list(unet.modules()):
        name = type(module).__name__
        if name == "ResnetBlock2D":
            # The second norm follows the sum of a convolution and the embedded timestep.
            scale, shift = _affine(module.norm2)
            _scale_rows(module.conv1, scale, shift)
            _scale_rows(module.time_emb_proj, scale, torch.zeros_like(shift))
            module.norm2 = nn.Identity()
        elif name in ("Transformer2DModel", "AnimateDiffTransformer3D"):
            # Their norm precedes a linear layer, which is linear in the norm's scale and shift.
            scale, shift = _affine(module.norm)
            weight = module.proj_in.weight
            weight_rows = weight.flatten(1)
            module.proj_in.bias += weight_rows @ shift
            weight.copy_((weight_rows * scale).reshape(weight.shape))
            module.norm = nn.Identity()
        elif name == "BasicTransformerBlock" and module.pos_embed is not None:
            module.attn1 = OneFrameAttention(module.attn1)
            module.attn2 = OneFrameAttention(module.attn2)
    for name, module in list(unet.named_modules()):
        if isinstance(module, ClipBatchNorm):
            plain = nn.BatchNorm2d(module.num_features, eps=module.eps)
            plain.load_state_dict(module.state_dict())
            unet.set_submodule(name, plain)
    folded: nn.Module = unet.eval()
    return folded


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    # What a BatchNorm multiplies by and adds, [C] each.
    assert isinstance(norm, ClipBatchNorm), "only BatchNorm folds"
    assert norm.running_mean is not None, "it has statistics"
    assert norm.running_var is not None, "it has statistics"
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _scale_rows(layer: Any, scale: Tensor, shift: Tensor) -> None:
    rows = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.weight.mul_(rows)
    layer.bias.copy_(layer.bias * scale + shift)
