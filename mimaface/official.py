"""The official checkpoints: the release's folder, its names, and what it does not say.

Everything is read, to be stored as a weight file of ours. The widths of the networks come
from the files, so that a narrow copy of the release is read like the release.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from pickle import PickleError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mimaface.bfm import BfmModel
from mimaface.config import CONFIGS, AutoencoderConfig, ClipEncoderConfig, Decoder, ModelConfig
from mimaface.errors import WeightsError
from mimaface.generator import Generator
from mimaface.source_encoder import ClipIdentityEncoder
from mimaface.weights import State, fill, on_meta, problem, refuse

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


# What torch.load raises where a file is damaged: its unpickler trusts what it reads.
DAMAGED: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    PickleError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
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
        WeightsError: some are missing, and it names all of them; or the folder cannot be searched.
    """
    try:
        return _find(folder, decoder)
    except OSError as error:
        raise WeightsError(f"{folder} cannot be searched: {error.strerror}") from error


def _find(folder: Path, decoder: Decoder) -> OfficialFiles:
    image, video = folder / "checkpoints" / "image", folder / "checkpoints" / "video"
    unet, clip = image / "pretrained_unet", video / "vision_encoder"
    autoencoder = folder / {"kl": "vae", "taesd": "taesd"}[decoder]
    diffusers_file = "diffusion_pytorch_model.safetensors"
    places: dict[str, tuple[Path, ...]] = {  # alternatives, the best first, as mimaface.hub does
        "unet": (unet / diffusers_file, unet / "unet.pth"),
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

    At its peak, this takes the memory of the model it returns: 7 GB for the release. Files lie
    in memory one after another, and what is not used of one is freed before the next.

    Args:
        folder: holds `checkpoints`, `models` and `vae` or `taesd`.
        decoder: the autoencoder: Stable Diffusion's, or TAESD, which is quicker and softer.

    Raises:
        WeightsError: files are missing, cannot be read or do not fit; it names all of them.
    """
    files = find_official(folder, decoder=decoder)
    # The small files come first, for they tell of mistakes soon.
    face_model = BfmModel.load(files.face_model)
    identity, regressor = read_state(files.identity), read_state(files.regressor)
    generator = on_meta(_config(files, decoder, identity, regressor))
    assert isinstance(generator.encoder, ClipIdentityEncoder), "the official form reads CLIP"
    assert generator.regressor is not None, "the official form reads the face model"
    problems = [
        *fill(generator.encoder.identity, identity, name=files.identity.name),
        *fill(generator.regressor, rename(regressor, REGRESSOR_NAMES), name=files.regressor.name),
    ]
    del identity, regressor
    problems += [
        *_fill_unet(generator.denoiser, files),
        *fill(generator.mia, rename(read_state(files.mia), MIA_NAMES), name=files.mia.name),
        *fill(generator.encoder.clip, _read_clip(files.clip), name="vision_encoder"),
        *fill(
            generator.autoencoder,
            rename(read_state(files.autoencoder), AUTOENCODER_NAMES),
            name=files.autoencoder.parent.name,
        ),
    ]
    refuse(problems, folder)
    generator.face_model = face_model
    return generator


def _fill_unet(denoiser: nn.Module, files: OfficialFiles) -> list[str]:
    video, repeated = _read_video_stage(files.video_unet)  # first, for it is the largest
    spatial = read_state(files.unet)
    strange = repeated - spatial.keys()
    return [
        *problem(files.video_unet.name, "has no place for", strange),
        *fill(denoiser, rename(spatial | video, UNET_NAMES), name="the UNet"),
    ]


def _read_video_stage(path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """Return what is used of the video stage's file, and the names of the rest, which is freed."""
    whole = read_state(path)
    used = {name: tensor for name, tensor in whole.items() if is_of_video_stage(name)}
    return used, whole.keys() - used.keys()


def _read_clip(path: Path) -> dict[str, Tensor]:
    state = rename(read_state(path), CLIP_NAMES)
    # Positions are no weights; only older files hold them.
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint: safetensors, or a pickle of tensors by their names and nothing else.

    Raises:
        WeightsError: it cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of tensors "
            f"({reason or 'damaged, or another kind of file'}): get it anew"
        ) from error
    if isinstance(stored, dict):
        stored = stored.get("state_dict", stored)
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in stored.items()
    ):
        raise WeightsError(f"{path} holds something else than tensors by their names: get it anew")
    return {name.removeprefix("module."): tensor for name, tensor in stored.items()}


def _config(
    files: OfficialFiles, decoder: Decoder, identity: State, regressor: State
) -> ModelConfig:
    base = CONFIGS["sd15"]
    assert isinstance(base.encoder, ClipEncoderConfig)
    blocks = [  # widths of CurricularFace's blocks, equal within a stage
        tensor.shape[:1].numel()
        for name, tensor in identity.items()
        if re.fullmatch(r"body\.\d+\.res_layer\.3\.weight", name)
    ]
    if not blocks:
        raise WeightsError(f"{files.identity} does not hold CurricularFace: get it anew")
    stages = [(width, len(list(run))) for width, run in groupby(blocks)]
    first = regressor.get("backbone.conv1.weight", torch.empty(0))
    encoder = replace(
        base.encoder,
        identity_widths=tuple(width for width, _ in stages),
        identity_depths=tuple(depth for _, depth in stages),
        regressor_width=first.shape[:1].numel(),
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
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
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
