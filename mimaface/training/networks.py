"""The generator as training runs it, on batches of pictures, and what it is shown and judged by.

`animate` in `mimaface.generator` is the same model on requests; here tensors keep their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from mimaface.config import ModelConfig
from mimaface.denoiser import Predicted, predict
from mimaface.errors import UntrainableError
from mimaface.generator import Generator
from mimaface.mia import PaperMIA
from mimaface.schedule import denoise
from mimaface.source_encoder import PatchEncoder
from mimaface.training.batches import Batch
from mimaface.training.carried import carry_rows, draw, warm_rows
from mimaface.training.losses import (
    gradient_loss,
    laplacian_loss,
    perceptual_loss,
    pixel_loss,
    region_weights,
    square_loss,
)
from mimaface.whole_file import naming_errors, whole_file


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each loss counts.

    Attributes:
        sample: of the clean latents.
        added: of how much is added to what the render shows: detail that is only unsure stays.
        pixel, square, gradient, laplacian, perceptual: of the decoded picture.
        temporal: of its change since the frame before.
        identity: of the source encoder's class tokens.
        adversarial: of the critic's opinion.
    """

    sample: float = 1.0
    added: float = 1.0
    pixel: float = 1.0
    square: float = 4.0
    gradient: float = 1.0
    laplacian: float = 0.5
    perceptual: float = 0.1
    temporal: float = 0.5
    identity: float = 0.02
    adversarial: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative, found {self}")

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum [] of losses by their names here."""
        return torch.stack([getattr(self, name) * each for name, each in losses.items()]).sum()


def check_trainable(config: ModelConfig) -> None:
    """Raise UntrainableError where training cannot make what a model needs."""
    if not config.denoiser.residual or config.condition != "mesh" or config.ica != "hold":
        raise UntrainableError(
            "training makes residual models of a mesh that hold one carried frame, found "
            f"residual {config.denoiser.residual}, {config.condition} and {config.ica}"
        )


def zero_output(generator: Generator) -> None:
    """Let the denoiser add nothing, so that training starts at its condition's render."""
    nn.init.zeros_(generator.denoiser.unet.conv_out.weight)
    nn.init.zeros_(generator.denoiser.unet.conv_out.bias)


def encode(generator: Generator, images: Tensor) -> Tensor:
    """Return latents [.., C, h, w] of images [.., 3, H, W]."""
    return _by_picture(generator.autoencoder.encode, images)


def decode(generator: Generator, latents: Tensor) -> Tensor:
    """Return images [.., 3, H, W] of latents [.., C, h, w]."""
    return _by_picture(generator.autoencoder.decode, latents)


def source_tokens(generator: Generator, images: Tensor) -> Tensor:
    """Return tokens [B, L, D'] of source images [B, 3, S, S], the class token first."""
    assert isinstance(generator.encoder, PatchEncoder), "the embedded model's encoder"
    tokens: Tensor = generator.encoder(images)
    return tokens


def context(generator: Generator, tokens: Tensor, signals: Tensor) -> Tensor:
    """Return context tokens [B, F, L, D] of source tokens [B, L, D'] and signals [B, F, M]."""
    assert isinstance(generator.mia, PaperMIA), "the embedded model's MIA"
    unread = tokens[:, 0]
    modulated: Tensor = generator.mia(tokens, unread, unread, signals)
    return modulated


def walk(
    generator: Generator,
    *,
    warm: Tensor,
    condition: Tensor,
    tokens: Tensor,
    steps: int,
    noise: torch.Generator,
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Predicted:
    """Denoise as the generator does; the last step, which is returned, alone keeps a gradient.

    Args:
        generator: whose denoiser it is.
        warm: [B, F, C, h, w], the first guess.
        condition: [B, F, 2C + 1, h, w], render and carried latents, and the mask.
        tokens: [B, F, L, D].
        steps: how many, one of those in the configuration.
        noise: what noise is drawn from, on the CPU.
        arithmetic: entered around each call of the network, to choose a precision. One context
            around all calls would give the last one the weights that the first ones, which have
            no gradient, had made of the parameters.
    """
    config = generator.config
    network = partial(predict, generator.denoiser, condition=condition, tokens=tokens, guidance=1.0)
    may_learn = torch.is_grad_enabled()
    said: list[Predicted] = []

    def last_learns(latents: Tensor, timestep: Tensor) -> Tensor:
        with torch.set_grad_enabled(may_learn and len(said) == steps - 1), arithmetic():
            said.append(network(latents, timestep))
        return said[-1].latents

    *_, latents = denoise(
        last_learns,
        warm,
        lambda _: draw(noise, like=warm),
        steps=steps,
        sampling=config.samplings[steps],
        prediction=config.prediction,
    )
    return Predicted(latents, said[-1].correction)


def picture_losses(
    images: Tensor, target: Tensor, weights: Tensor, average: Generator, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Return the losses of pictures against their targets.

    Args:
        images: [B, F, 3, H, W].
        target: the same shape.
        weights: [B, F, 1, H, W].
        average: whose encoder compares them in the perceptual loss.
        accelerator: in whose precision it does.
    """
    flat, wanted, counts = (
        rearrange(each, "b f c h w -> (b f) c h w") for each in (images, target, weights)
    )
    assert isinstance(average.encoder, PatchEncoder), "the embedded model's encoder"
    with accelerator.autocast():
        perceptual = perceptual_loss(flat, wanted, average.encoder.convolutions)
    return {
        "pixel": pixel_loss(flat, wanted, counts),
        "square": square_loss(flat, wanted, counts),
        "gradient": gradient_loss(flat, wanted, counts),
        "laplacian": laplacian_loss(flat, wanted, counts),
        "perceptual": perceptual,
    }


def batch_weights(batch: Batch) -> Tensor:
    """Return how much each pixel of the targets counts, [B, T, 1, P, P]."""
    flat = rearrange(batch.landmarks, "b t v xy -> (b t) v xy")
    weights = region_weights(flat, size_px=batch.target.shape[-1])
    return rearrange(weights, "(b t) c h w -> b t c h w", b=len(batch.target))


@torch.no_grad()
def make_sheet(
    generator: Generator, batch: Batch, path: Path, *, steps: int, noise: torch.Generator
) -> dict[str, float]:
    """Write sources, renders, outputs and targets of a batch, row by row; return their figures.

    Each window is rolled out from nothing, frame by frame; its last frame is shown.
    """
    generator.eval()
    source, render = (encode(generator, each) for each in (batch.source_crop, batch.render))
    tokens = context(generator, source_tokens(generator, batch.source), batch.signals)
    given, previous = torch.zeros(len(source), dtype=torch.bool, device=source.device), source
    for frame in range(render.shape[1]):
        now = render[:, frame : frame + 1]
        carried = carry_rows(previous.reshape_as(now), now, given=given)
        latents, _ = walk(
            generator,
            warm=warm_rows(previous.reshape_as(now), source, given=given, frames=1),
            condition=torch.cat([now, carried], dim=2),
            tokens=tokens[:, frame : frame + 1],
            steps=steps,
            noise=noise,
        )
        previous, given = latents, torch.ones_like(given)
    output = decode(generator, latents)[:, 0].clamp(-1, 1)
    _write(path, [batch.source_crop, batch.render[:, -1], output, batch.target[:, -1]])
    return {
        "psnr": _psnr(output, batch.target[:, -1]),
        "render_psnr": _psnr(batch.render[:, -1], batch.target[:, -1]),
    }


def _write(path: Path, rows: Sequence[Tensor]) -> None:
    grid = rearrange(torch.stack(list(rows)), "r b c h w -> (r h) (b w) c")
    pixels = ((grid + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    with whole_file(path) as partial_path, naming_errors(path):
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial_path, "PNG")


def _psnr(images: Tensor, target: Tensor) -> float:
    error = float(((images - target) ** 2).mean())
    return round(float(10 * np.log10(4 / max(error, 1e-12))), 3)


def _by_picture(convert: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    flat: Tensor = convert(images.reshape(-1, *images.shape[-3:]))
    return flat.reshape(*images.shape[:-3], *flat.shape[1:])
