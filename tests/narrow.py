"""A narrow copy of the released model: quick enough for every run of the tests.

`outputs.npz` beside the tests holds what its parts computed when they agreed, at full width, with
the released implementation (`tests/parity.py`): python -m tests.narrow writes it anew. Weights are
large enough for every input to be seen in the outputs.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from mimaface.config import AutoencoderConfig, ClipEncoderConfig
from mimaface.model import Model
from mimaface.types import Reals
from mimaface.weights import randomize
from tests.parity import KINDS, SD15, Parts

assert isinstance(SD15.encoder, ClipEncoderConfig)
NARROW: Final = replace(
    SD15,
    size_px=128,
    denoiser=replace(SD15.denoiser, widths=(32, 64, 64, 64), layers=1, heads=4, norm_groups=8),
    mia=replace(SD15.mia, width=32),
    encoder=replace(
        SD15.encoder,
        width=32,
        layers=2,
        heads=2,
        image_px=28,
        identity_widths=(4, 6, 8, 10),
        identity_depths=(1, 2, 1, 1),
        regressor_width=4,
    ),
    autoencoder=AutoencoderConfig(kind="kl", channels=4, factor=8, widths=(32,) * 4, layers=1),
)
OUTPUTS: Final = Path(__file__).parent / "outputs.npz"
LATENTS: Final = (4, 8, 8)  # C, h, w
TOKENS: Final = (6, 32)  # L, D
NEAR: Final = 1e-4  # of an output's spread; kernels of convolutions differ by 1e-5 of it


def narrow_parts() -> Parts:
    """Return the parts, not yet built."""
    return Parts(NARROW, lively=True)


@cache
def narrow_model(
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    *,
    size_px: int = NARROW.size_px,
) -> Model:
    """Return the whole model, never trained."""
    config = replace(NARROW, size_px=size_px)
    generator = randomize(config)
    generator.place(torch.device("cpu"), getattr(torch, precision))
    return Model(config=config, generator=generator)


def inputs(kind: str) -> dict[str, Any]:
    """Return the inputs of a kind of check, the same each time.

    Of those that are all zeros, only the shape is read.
    """

    def noise(name: str, *shape: int) -> Tensor:
        rng = np.random.default_rng(zlib.crc32(f"{kind}/{name}".encode()))
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    def clip(name: str, frames: int, *, channels: int = LATENTS[0]) -> Tensor:
        return noise(name, 1, channels, frames, *LATENTS[1:])

    channels = 3 * LATENTS[0] + 1
    match kind:
        case "mia" | "mia_mean":
            lengths = {"gaze": 4, "exp": 64, "tex": 80, "gamma": 27, "angles": 3, "translation": 3}
            return {
                "object_embeds257": noise("tokens", 1, 5, 32),
                "arcface": noise("identity", 1, 490),
                **{name: noise(name, 2, length) for name, length in lengths.items()},
            }
        case "mia_transformer":
            return {"x": noise("x", 2, *TOKENS)}
        case "motion_module":
            return {"prefix": "down_blocks.1.motion_modules.0.", "x": noise("x", 2, 64, 3, 2, 4)}
        case "unet":
            return {
                "sample": clip("sample", 3, channels=channels),
                "timestep": torch.tensor(601.5),
                "encoder_hidden_states": noise("tokens", 1, *TOKENS),
            }
        case "unet2d_image":
            return {
                "sample": noise("sample", 2, channels, *LATENTS[1:]),
                "timestep": torch.tensor([601.5, 20.0]),
                "encoder_hidden_states": noise("tokens", 2, *TOKENS),
            }
        case "denoise":
            return {
                "timesteps": torch.zeros(3),
                "guidance": torch.tensor(5.0),
                "prev_frame_num": torch.tensor(2),
                "noise": clip("noise", 4),
                **{f"render_latents.{i}": clip(f"render {i}", 4) for i in range(2)},
                **{f"tokens.{i}": noise(f"tokens {i}", 1, *TOKENS) for i in range(2)},
            }
        case "denoise_image":
            return {
                "timesteps": torch.zeros(3),
                "guidance": torch.tensor(5.0),
                "noise": noise("noise", 2, *LATENTS),
                "render_latents": noise("render", 2, *LATENTS),
                "tokens": noise("tokens", 2, *TOKENS),
            }
        case "train_loss":
            carried = clip("carried", 3, channels=channels).expand(2, -1, -1, -1, -1)
            return {
                "latents": noise("latents", 2, LATENTS[0], 3, *LATENTS[1:]),
                "render_latents": noise("render", 2, LATENTS[0], 3, *LATENTS[1:]),
                "tokens": noise("tokens", 6, *TOKENS),
                "ica.noise": noise("noise", 2, LATENTS[0], 3, *LATENTS[1:]),
                "ica.timesteps": torch.tensor([693, 31]),
                "ica.prev_frame_num": torch.tensor(1),
                "ica.unet_input": carried,
                "ica.loss": torch.tensor(0.0),
            }
        case "d3dfr":
            return {"image": noise("image", 1, 3, 64, 64)}
        case "curricular":
            return {
                "image112": noise("image", 1, 3, 112, 112),
                **{f"aligned{size}": _picture(size) for size in (512, 256)},
            }
        case "clip":
            return {"pixel_values": noise("pixels", 1, 3, 28, 28)}
        case "clip_preprocess":
            return {"image": _picture(96)}
        case "vae":
            return {"image": noise("image", 1, 3, 32, 32), "z": noise("z", 1, 4, 4, 4)}
        case "scheduler":
            levels = torch.tensor([0, 250, 500, 999])
            return {
                "timesteps.4": torch.zeros(4),
                "timesteps.25": torch.zeros(25),
                "x": noise("x", 1, *LATENTS),
                "eps": noise("eps", 1, *LATENTS),
                "x0": noise("x0", 4, *LATENTS),
                "noise": noise("noise", 4, *LATENTS),
                "train_t": levels,
            }
        case "render":
            return {
                "coeffs": 0.1 * noise("coeffs", 2, 257),
                "img_size": torch.tensor(32),
                "focal": torch.tensor(145.0),
                "rendered": torch.zeros(2, 32, 32, 4),
            }
        case "reenact":
            return {
                "coeffs_source": 0.1 * noise("source", 1, 261),
                "coeffs_driving": 0.1 * noise("driving", 2, 261),
                "warp256": torch.tensor([[0.8, -0.1, 3.0], [0.1, 0.8, -2.0]]).expand(2, -1, -1),
                "img_size": torch.tensor(32),
                "focal": torch.tensor(145.0),
                "image": torch.zeros(2, 3, 40, 40),
            }
        case "align":
            return {
                "pts5": 40 * noise("points", 2, 5, 2) + 128,
                "warp_im": noise("picture", 1, 3, 20, 16),
                "warp_M": torch.tensor([[[1.2, 0.3, -2.0], [-0.3, 1.2, 4.0]]]),
                "warp_out": torch.zeros(1, 3, 24, 18),
            }
    raise ValueError(f"there is no check of the kind {kind!r}")


def compute(kind: str, parts: Parts, **others: Tensor) -> dict[str, Tensor]:
    """Return what the narrow parts compute of a kind's inputs, or of others in their places."""
    with torch.inference_mode():
        return KINDS[kind][0](inputs(kind) | others, parts)


def tolerance(output: Reals) -> float:
    """Return how far an output may be from this one, which is stored."""
    return NEAR * float(output.std() if output.size > 1 else np.abs(output))


def _picture(size_px: int) -> Tensor:
    # Waves of three colours, of the same length in pixels at every size.
    y, x = np.mgrid[:size_px, :size_px] * (2 * np.pi / 128)
    waves = np.dstack([np.sin(3 * x + y), np.cos(5 * y), np.sin(2 * x * y)])
    return torch.from_numpy((127 * (waves + 1)).round().astype(np.uint8))


if __name__ == "__main__":
    parts = narrow_parts()
    arrays = {
        f"{kind}/{name}": array.numpy()
        for kind in KINDS
        for name, array in compute(kind, parts).items()
    }
    np.savez_compressed(OUTPUTS, **arrays)
