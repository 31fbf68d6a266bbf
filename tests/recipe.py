"""Weights that follow from their names, and the arrays an independent program made with them.

The arrays are not in the repository; tests that read them are marked `needs_golden`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Container, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor, nn

from mimaface.official import Rules, rename
from mimaface.types import Reals
from mimaface.weights import fill

Shapes = Mapping[str, tuple[int, ...]]

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the golden arrays are not in the repository"
)

# From our names to the official ones: `mimaface.official` the other way.
UNET: Rules = (
    (r"^unet\.", ""),
    (r"(motion_modules\.\d+)\.(.*)\.attn1\.", r"\1.\2.attention_blocks.0."),
    (r"(motion_modules\.\d+)\.(.*)\.attn2\.", r"\1.\2.attention_blocks.1."),
    (r"(motion_modules\.\d+)\.(.*)\.norm1\.", r"\1.\2.norms.0."),
    (r"(motion_modules\.\d+)\.(.*)\.norm2\.", r"\1.\2.norms.1."),
    (r"(motion_modules\.\d+)\.(.*)\.norm3\.", r"\1.\2.ff_norm."),
    (r"\.pos_embed\.", ".attention_blocks.0.pos_encoder."),
    (r"(motion_modules\.\d+)\.", r"\1.temporal_transformer."),
)
MIA: Rules = (
    (r"^project\.source\.", "transform_dim_clip."),
    (r"^project\.identity\.", "transform_dim_arcface."),
    (r"^project\.expression\.", "transform_dim_exp."),
    (r"^project\.texture\.", "transform_dim_tex."),
    (r"^project\.lighting\.", "transform_dim_gamma."),
    (r"^project\.rotation\.", "transform_dim_angles."),
    (r"^project\.", "transform_dim_"),
    (r"^blocks\.", "mapper.resblocks."),
    (r"\.to_qkv\.", ".attn.c_qkv."),
    (r"\.to_out\.", ".attn.c_proj."),
    (r"\.attention_norm\.", ".ln_1."),
    (r"\.mlp_norm\.", ".ln_2."),
    (r"\.mlp\.0\.", ".mlp.c_fc."),
    (r"\.mlp\.2\.", ".mlp.c_proj."),
    (r"^norm\.", "layer_norm."),
)
CLIP: Rules = ((r"^", "vision_model."),)
REGRESSOR: Rules = ((r"^heads\.", "fianl_layers."),)
AUTOENCODER: Rules = ((r"^vae\.", ""),)


def shapes_of(module: nn.Module, to_official: Rules = ()) -> Shapes:
    """Return the official names of a module's tensors, and their shapes."""
    return {
        name: tuple(each.shape) for name, each in rename(module.state_dict(), to_official).items()
    }


def official_shapes(checkpoint: str) -> Shapes:
    """Return the names and shapes of a released checkpoint."""
    entries = json.loads((GOLDEN / "keys" / f"{checkpoint}.json").read_text())
    return {key: tuple(shape) for key, (shape, _) in entries.items()}


def official_state(
    shapes: Shapes, *, bnstats: bool = False, lively: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a network by their official names.

    Statistics of BatchNorms are those of a new module, or drawn too with `bnstats`. The weights
    are those of the golden arrays, of one size everywhere; in a narrow network, what goes in would
    then hardly reach what comes out. `lively` ones pass it on as large as it came.
    """
    return {
        key: _tensor(
            key, shape, shapes, bnstats=bnstats, size=prod(shape[1:]) ** -0.5 if lively else 0.02
        )
        for key, shape in shapes.items()
    }


def load(
    module: nn.Module,
    *,
    to_official: Rules = (),
    from_official: Rules = (),
    bnstats: bool = False,
    lively: bool = False,
) -> None:
    """Fill a module, which may be on the meta device, through the project's own loader."""
    state = official_state(shapes_of(module, to_official), bnstats=bnstats, lively=lively)
    problems = fill(module, rename(state, from_official), name="the module")
    assert not problems, problems
    module.eval().requires_grad_(False)


def golden(name: str) -> dict[str, Tensor]:
    """Return the arrays of one golden file."""
    return arrays_of(GOLDEN / f"{name}.npz")


def arrays_of(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file; texts are left out."""
    with np.load(path) as file:
        return {
            key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind != "U"
        }


def _tensor(
    key: str, shape: Sequence[int], keys: Container[str], *, bnstats: bool, size: float
) -> Tensor:
    last = key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.tensor(0)
    if last == "pe":
        return SinusoidalPositionalEmbedding(shape[-1], shape[-2]).pe
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if last == "running_mean":
        return _float(0.02 * n if bnstats else 0 * n)
    if last == "running_var":
        return _float(1 + 0.2 * np.abs(n) if bnstats else 0 * n + 1)
    if len(shape) == 1 and last == "weight":
        is_norm = key.removesuffix("weight") + "bias" in keys
        return _float((1 if is_norm else 0.25) + 0.02 * n)  # else the slope of a PReLU
    return _float((size if len(shape) > 1 else 0.02) * n)


def _float(array: Reals) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
