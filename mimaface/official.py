"""The official checkpoints: the release's folder, its names, and what it does not say.

Everything is read at once, to be stored as a weight file of ours. The widths of the networks come
from the files, so that a narrow copy of the release is read like the release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mimaface.bfm import BfmModel
from mimaface.config import CONFIGS, AutoencoderConfig, ClipEncoderConfig, ModelConfig
from mimaface.errors import WeightsError
from mimaface.generator import Generator
from mimaface.source_encoder import ClipIdentityEncoder
from mimaface.weights import State, fill, on_meta, problem, refuse

Decoder = Literal["kl", "taesd"]
Rules = Sequence[tuple[str, str]]  # pattern and replacement, applied in order to a tensor's name

# From the official names to ours. AnimateDiff keeps the temporal positions twice, once for each
# attention; diffusers once for both.
UNET_NAMES: Final[Rules] = (
    (r"^", "unet."),
    (r"\.temporal_transformer\.", "."),
    (r"\.attention_blocks\.[01]\.pos_encoder\.", ".pos_embed."),
    (r"\.attention_blocks\.0\.", ".attn1."),
    (r"\.attention_blocks\.1\.", ".attn2."),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
    (r"\.ff_norm\.", ".norm3."),
)
MIA_NAMES: Final[Rules] = (
    (r"^transform_dim_clip\.", "project.source."),
    (r"^transform_dim_arcface\.", "project.identity."),
    (r"^transform_dim_exp\.", "project.expression."),
    (r"^transform_dim_tex\.", "project.texture."),
    (r"^transform_dim_gamma\.", "project.lighting."),
    (r"^transform_dim_angles\.", "project.rotation."),
    (r"^transform_dim_", "project."),
    (r"^mapper\.resblocks\.", "blocks."),
    (r"\.attn\.c_qkv\.", ".to_qkv."),
    (r"\.attn\.c_proj\.", ".to_out."),
    (r"\.ln_1\.", ".attention_norm."),
    (r"\.ln_2\.", ".mlp_norm."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
    (r"^layer_norm\.", "norm."),
)
CLIP_NAMES: Final[Rules] = ((r"^vision_model\.", ""),)
REGRESSOR_NAMES: Final[Rules] = ((r"^fianl_layers\.", "heads."),)  # the checkpoint's spelling
AUTOENCODER_NAMES: Final[Rules] = (  # older files name the attention's layers in another way
    (r"^", "vae."),
    (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
    (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
    (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
)


def rename(state: State, rules: Rules) -> dict[str, Tensor]:
    """Return official tensors under our names."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def is_of_video_stage(name: str) -> bool:
    """Return whether a tensor of the UNet is read from the video stage's file.

    That file repeats the spatial layers of the image stage, which are not read from it.
    """
    return "motion_modules." in name or name.startswith("conv_in.")


@dataclass(frozen=True, kw_only=True)
class OfficialFiles:
    """Where the files of the release are. Without a configuration, widths are the release's."""

    unet_config: Path | None
    unet: Path
    video_unet: Path
    mia: Path
    clip_config: Path | None
    clip: Path
    identity: Path
    regressor: Path
    face_model: Path
    autoencoder_config: Path
    autoencoder: Path


def find_official(folder: Path, *, decoder: Decoder = "kl") -> OfficialFiles:
    """Find the release's files in a folder of its layout.

    Raises:
        WeightsError: some are missing; it names all of them.
    """
    image, video = folder / "checkpoints" / "image", folder / "checkpoints" / "video"
    unet, clip = image / "pretrained_unet", video / "vision_encoder"
    autoencoder = folder / {"kl": "vae", "taesd": "taesd"}[decoder]
    diffusers_file = "diffusion_pytorch_model.safetensors"
    places: dict[str, tuple[Path, ...]] = {  # alternatives, the one to prefer first
        "unet": (unet / "unet.pth", unet / diffusers_file),
        "video_unet": (video / "3dunet.pth",),
        "mia": (video / "mim.pth",),
        "clip": (clip / "model.safetensors", clip / "pytorch_model.bin"),
        "identity": (folder / "models" / "ArcFace" / "CurricularFace_Backbone.pth",),
        "regressor": (folder / "models" / "D3DFR" / "netG_epoch_25.pth",),
        "face_model": (folder / "models" / "D3DFR" / "BFM09_model_info.mat",),
        "autoencoder_config": (autoencoder / "config.json",),
        "autoencoder": (autoencoder / diffusers_file, autoencoder / "diffusion_pytorch_model.bin"),
    }
    found = {name: [path for path in paths if path.is_file()] for name, paths in places.items()}
    missing = [
        " or ".join(str(path.relative_to(folder)) for path in places[name])
        for name, paths in found.items()
        if not paths
    ]
    if missing:
        raise WeightsError(
            f"{folder} lacks {', '.join(missing)}: get what can be downloaded with "
            "'mimaface fetch', and the face model from its makers"
        )
    return OfficialFiles(
        unet_config=next(filter(Path.is_file, [unet / "config.json"]), None),
        clip_config=next(filter(Path.is_file, [clip / "config.json"]), None),
        **{name: paths[0] for name, paths in found.items()},
    )


def read_official(folder: Path, *, decoder: Decoder = "kl") -> Generator:
    """Read the release's checkpoints from a folder of its layout, of any width.

    Args:
        folder: holds `checkpoints`, `models` and `vae` or `taesd`.
        decoder: the autoencoder: Stable Diffusion's, or TAESD, which is quicker and softer.

    Raises:
        WeightsError: files are missing, cannot be read or do not fit; it names all of them.
    """
    files = find_official(folder, decoder=decoder)
    spatial, whole_video = read_state(files.unet), read_state(files.video_unet)
    video = {name: tensor for name, tensor in whole_video.items() if is_of_video_stage(name)}
    strange = whole_video.keys() - video.keys() - spatial.keys()
    identity, regressor = read_state(files.identity), read_state(files.regressor)
    clip = {
        name: tensor
        for name, tensor in read_state(files.clip).items()
        if not name.endswith("position_ids")  # no weights; only older files hold them
    }
    generator = on_meta(_config(files, decoder, identity, regressor))
    assert isinstance(generator.encoder, ClipIdentityEncoder), "the official form reads CLIP"
    assert generator.regressor is not None, "the official form reads the face model"
    refuse(
        [
            *problem(files.video_unet.name, "has no place for", strange),
            *fill(generator.denoiser, rename(spatial | video, UNET_NAMES), name="the UNet"),
            *fill(generator.mia, rename(read_state(files.mia), MIA_NAMES), name=files.mia.name),
            *fill(generator.encoder.clip, rename(clip, CLIP_NAMES), name="vision_encoder"),
            *fill(generator.encoder.identity, identity, name=files.identity.name),
            *fill(
                generator.regressor, rename(regressor, REGRESSOR_NAMES), name=files.regressor.name
            ),
            *fill(
                generator.autoencoder,
                rename(read_state(files.autoencoder), AUTOENCODER_NAMES),
                name=files.autoencoder.parent.name,
            ),
        ],
        folder,
    )
    generator.face_model = BfmModel.load(files.face_model)
    return generator


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint: safetensors, or a pickle of tensors and nothing else.

    Raises:
        WeightsError: it cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint of tensors: {error}") from error
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else {"": stored}
    if not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise WeightsError(f"{path} holds something else than tensors by their names")
    return {name.removeprefix("module."): tensor for name, tensor in stored.items()}


def _config(
    files: OfficialFiles, decoder: Decoder, identity: State, regressor: State
) -> ModelConfig:
    base = CONFIGS["sd15"]
    assert isinstance(base.encoder, ClipEncoderConfig)
    blocks = [  # widths of CurricularFace's blocks, equal within a stage
        len(tensor)
        for name, tensor in identity.items()
        if re.fullmatch(r"body\.\d+\.res_layer\.3\.weight", name)
    ]
    stages = [(width, len(list(run))) for width, run in groupby(blocks)]
    first = regressor.get("backbone.conv1.weight", ())
    encoder = replace(
        base.encoder,
        identity_widths=tuple(width for width, _ in stages),
        identity_depths=tuple(depth for _, depth in stages),
        regressor_width=len(first),
    )
    try:
        vae = json.loads(files.autoencoder_config.read_text())
        widths = tuple(vae.get("decoder_block_out_channels", vae.get("block_out_channels")))
        config = replace(
            base,
            encoder=encoder,
            autoencoder=AutoencoderConfig(
                kind=decoder,
                channels=vae["latent_channels"],
                factor=2 ** (len(widths) - 1),
                widths=widths,
                layers=vae.get("layers_per_block", 0),
            ),
        )
        if files.clip_config:
            config = replace(
                config, encoder=_as_clip(encoder, json.loads(files.clip_config.read_text()))
            )
        if files.unet_config:
            config = _as_unet(config, json.loads(files.unet_config.read_text()))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the configuration files are not the release's: {error!r}") from error
    return config


def _as_clip(encoder: ClipEncoderConfig, stored: dict[str, Any]) -> ClipEncoderConfig:
    return replace(
        encoder,
        width=stored["hidden_size"],
        layers=stored["num_hidden_layers"],
        heads=stored["num_attention_heads"],
        image_px=stored["image_size"],
        patch_px=stored["patch_size"],
    )


def _as_unet(config: ModelConfig, stored: dict[str, Any]) -> ModelConfig:
    return replace(
        config,
        size_px=stored["sample_size"] * config.autoencoder.factor,
        denoiser=replace(
            config.denoiser,
            widths=tuple(stored["block_out_channels"]),
            layers=stored["layers_per_block"],
            heads=stored["attention_head_dim"],  # it is their number that is called so
            norm_groups=stored["norm_num_groups"],
        ),
        mia=replace(config.mia, width=stored["cross_attention_dim"]),
    )
