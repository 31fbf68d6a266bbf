"""LoRAs of Stable Diffusion 1.5, such as LCM-LoRA, added into the denoiser's weights for good.

Public files name the layers of diffusers' spatial UNet in one of four ways. Motion modules have
layers of the same kinds and are never touched. Knows nothing of what a LoRA is for.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimaface.errors import WeightsError

MOTION: Final = "motion_modules"

# How the names of a layer's two matrices and of its scale end.
PARTS: Final[Mapping[str, str]] = {
    ".lora_down.weight": "down",  # kohya
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",  # peft
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",  # diffusers
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",  # diffusers' attention processors
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
TEXT_ENCODER: Final = ("lora_te", "text_encoder")


def read_lora(path: Path) -> dict[str, Tensor]:
    """Read a LoRA from a safetensors file; what its metadata says of its scale becomes alphas.

    Raises:
        WeightsError: there is no such file, it is no safetensors file, or its scale is one that
            `fuse_lora` does not know.
    """
    try:
        with safe_open(path, framework="pt") as file:
            lora = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            adapter = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except FileNotFoundError as error:
        raise WeightsError(f"there is no LoRA {path}") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is not a safetensors file that can be read: choose another"
        ) from error
    if not _has_known_scale(adapter):
        raise WeightsError(f"{path} scales its layers in a way that is not known: choose another")
    return lora | _alphas(lora, adapter.get("unet.lora_alpha"))


def _has_known_scale(adapter: object) -> TypeGuard[dict[str, Any]]:
    """Return whether an adapter's metadata, any JSON, scales by one number or none."""
    if not isinstance(adapter, dict):
        return False
    if any(adapter.get(f"unet.{key}") for key in ("alpha_pattern", "use_dora", "use_rslora")):
        return False
    alpha = adapter.get("unet.lora_alpha", 1)
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    return is_number and abs(alpha) <= torch.finfo(torch.float32).max


def fuse_lora(denoiser: nn.Module, lora: Mapping[str, Tensor], *, scale: float) -> int:
    """Add `scale * alpha / rank * up @ down` to the weight of every layer that a LoRA names.

    Args:
        denoiser: a UNetMotionModel, or what holds one as `unet`; changed in place.
        lora: down [r, in] or [r, in, k, k], up [out, r] or [out, r, 1, 1] and, if it is not r,
            alpha of each layer. What it has for text encoders is passed over.
        scale: how much of it; 1 is as it was trained.

    Returns:
        How many layers were changed.

    Raises:
        WeightsError: some keys name no spatial layer of the denoiser, or have another shape, or
            the LoRA has nothing for a denoiser; all are named, and no weight has changed.
    """
    found = _layers(denoiser)
    wrong: dict[str, list[str]] = defaultdict(list)
    named: dict[str, dict[str, tuple[str, Tensor]]] = defaultdict(dict)
    for key, tensor in lora.items():
        if key.startswith(TEXT_ENCODER):
            continue
        layer, part = _parsed(key)
        if MOTION in layer:
            wrong["naming a motion module"].append(key)
        elif not part or layer not in found:
            wrong["naming no layer of this denoiser"].append(key)
        elif part in named[layer]:
            wrong["naming a layer once more"].append(key)
        else:
            named[layer][part] = key, tensor
    changes = {}
    for layer, parts in named.items():
        change = _Change.of({part: tensor for part, (_, tensor) in parts.items()})
        if change is None or not change.fits(found[layer].weight):
            wrong["of another shape, or without counterpart"] += [key for key, _ in parts.values()]
        else:
            changes[layer] = change
    if wrong:
        reasons = "; ".join(f"{reason}: {', '.join(keys)}" for reason, keys in wrong.items())
        raise WeightsError(f"the LoRA does not fit. Keys {reasons}")
    if not changes:
        raise WeightsError(
            "the LoRA holds nothing for a denoiser: choose one of Stable Diffusion 1.5"
        )
    with torch.no_grad():
        for layer, change in changes.items():
            change.add_to(found[layer].weight, scale)
    return len(changes)


@dataclass(frozen=True)
class _Change:
    down: Tensor
    up: Tensor
    alpha: float

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> _Change | None:
        """Return the change that the parts make, None if they make none."""
        down, up = parts.get("down"), parts.get("up")
        if down is None or up is None or min(down.ndim, up.ndim) < 2 or not len(down):
            return None
        alpha = parts.get("alpha", torch.tensor(len(down)))
        return cls(down, up, float(alpha)) if alpha.numel() == 1 else None

    def fits(self, weight: Tensor) -> bool:
        """Return whether up @ down has the shape of a layer's weight [out, in(, k, k)]."""
        rank, *taken = _bare(self.down)
        out, *given = _bare(weight)
        return taken == given and _bare(self.up) == [out, rank]

    def add_to(self, weight: Tensor, scale: float) -> None:
        """Add itself, computed in float32."""
        down, up = (each.to(weight.device, torch.float32) for each in (self.down, self.up))
        product = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        weight.copy_(weight.float() + scale * self.alpha / len(down) * product)


def _layers(denoiser: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the spatial layers by the name all styles of key are brought to."""
    return {
        name.removeprefix("unet.").replace(".", "_"): module
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and MOTION not in name
    }


def _parsed(key: str) -> tuple[str, str]:
    """Return the layer a key names, and which part of its change, "" if neither can be told."""
    ending = next((each for each in PARTS if key.endswith(each)), "")
    name = key.removesuffix(ending)
    if ending.startswith("_lora"):
        # attn1.processor.to_out_lora is about attn1.to_out.0.
        name = re.sub(r"\bprocessor\.", "", name)
        name = re.sub(r"\bto_out$", "to_out.0", name)
    name = re.sub(r"^(lora_unet_|base_model\.model\.|unet\.)", "", name)
    return name.replace(".", "_"), PARTS.get(ending, "")


def _bare(tensor: Tensor) -> list[int]:
    """Return the shape, without the sides of a 1x1 kernel."""
    *rest, height, width = tensor.shape if tensor.ndim == 4 else (*tensor.shape, 1, 1)
    return rest if height == width == 1 else list(tensor.shape)


def _alphas(lora: Mapping[str, Tensor], alpha: float | None) -> dict[str, Tensor]:
    """Return, for each layer, the alpha that diffusers writes once, beside the tensors."""
    ending = ".lora_A.weight"
    layers = [key.removesuffix(ending) for key in lora if key.endswith(ending)]
    if alpha is None:
        return {}
    return {f"{layer}.alpha": torch.tensor(alpha) for layer in layers if layer.startswith("unet.")}
