"""A folder in the release's layout: narrow checkpoints whose weights follow from their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import Tensor

from mimaface.autoencoder import TAESD
from mimaface.bfm import BfmModel
from mimaface.config import ClipEncoderConfig
from mimaface.stand_in_face import stand_in
from mimaface.weights import on_meta
from tests import recipe
from tests.narrow import NARROW


def write_release(folder: Path) -> None:
    """Write what the release's code opens, and Stable Diffusion's autoencoder."""
    encoder = NARROW.encoder
    assert isinstance(encoder, ClipEncoderConfig)
    model = on_meta(NARROW)
    image, video = folder / "checkpoints" / "image", folder / "checkpoints" / "video"

    unet = official(model.denoiser, recipe.UNET)
    both_positions = {
        name.replace("attention_blocks.0.pos_encoder", "attention_blocks.1.pos_encoder"): tensor
        for name, tensor in unet.items()
        if name.endswith("pos_encoder.pe")
    }
    spatial = {name: tensor for name, tensor in unet.items() if "motion_modules." not in name}
    save_legacy(spatial, image / "pretrained_unet" / "unet.pth")
    save_legacy(unet | both_positions, video / "3dunet.pth")
    write_json(
        image / "pretrained_unet" / "config.json",
        sample_size=NARROW.size_px // NARROW.autoencoder.factor,
        block_out_channels=NARROW.denoiser.widths,
        layers_per_block=NARROW.denoiser.layers,
        attention_head_dim=NARROW.denoiser.heads,
        norm_num_groups=NARROW.denoiser.norm_groups,
        cross_attention_dim=NARROW.mia.width,
    )
    save_legacy(official(model.mia, recipe.MIA), video / "mim.pth")
    clip = official(model.encoder.clip, recipe.CLIP)
    save_safe(clip, video / "vision_encoder" / "model.safetensors")
    write_json(
        video / "vision_encoder" / "config.json",
        hidden_size=encoder.width,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        image_size=encoder.image_px,
        patch_size=encoder.patch_px,
    )
    models = folder / "models"
    identity = official(model.encoder.identity, ())
    save_legacy(identity, models / "ArcFace" / "CurricularFace_Backbone.pth")
    regressor = official(model.regressor, recipe.REGRESSOR)
    save_legacy(
        {f"module.{name}": tensor for name, tensor in regressor.items()},
        models / "D3DFR" / "netG_epoch_25.pth",
    )
    savemat(models / "D3DFR" / "BFM09_model_info.mat", as_mat(stand_in()))
    vae = official(model.autoencoder, recipe.AUTOENCODER)
    save_safe(with_old_names(vae), folder / "vae" / "diffusion_pytorch_model.safetensors")
    taesd = official(TAESD(), recipe.AUTOENCODER)
    save_safe(taesd, folder / "taesd" / "diffusion_pytorch_model.safetensors")
    write_json(
        folder / "taesd" / "config.json",
        decoder_block_out_channels=[64] * 4,
        latent_channels=NARROW.autoencoder.channels,
    )
    write_json(
        folder / "vae" / "config.json",
        block_out_channels=NARROW.autoencoder.widths,
        layers_per_block=NARROW.autoencoder.layers,
        latent_channels=NARROW.autoencoder.channels,
    )


def official(module: Any, to_official: Any) -> dict[str, Tensor]:
    """Return a module's tensors under the official names."""
    return recipe.official_state(recipe.shapes_of(module, to_official))


def with_old_names(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder's tensors as older files name them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in vae.items():
        for new, former in old.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{former}.")
        renamed[name] = tensor
    return renamed


def as_mat(model: BfmModel) -> dict[str, Any]:
    """Return a face model's arrays as the .mat file holds them."""

    def flat(basis: np.ndarray) -> np.ndarray:
        return basis.reshape(3 * len(model.mean_shape), -1)

    return {
        "meanshape": model.mean_shape.reshape(1, -1),
        "meantex": model.mean_texture.reshape(1, -1),
        "idBase": flat(model.identity_basis),
        "exBase": flat(model.expression_basis),
        "texBase": flat(model.texture_basis),
        "tri": model.triangles + 1,
        "point_buf": model.neighbours + 1,
        "keypoints": model.keypoints[None] + 1,
        "skinmask": np.ones((1, len(model.mean_shape))),
    }


def save_legacy(state: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)


def save_safe(state: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), path)


def write_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values))
