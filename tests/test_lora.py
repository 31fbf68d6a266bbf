"""LoRAs are fused into a narrow UNet, in every style their keys are written in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import UNetMotionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from mimaface.errors import WeightsError
from mimaface.lora import fuse_lora, read_lora

RANK = 4
SCALE = 0.7
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"

LINEAR = f"{ATTENTION}.attn1.to_k"
OUT = f"{ATTENTION}.attn2.to_out.0"
FEED_FORWARD = f"{ATTENTION}.ff.net.0.proj"
TIME = "up_blocks.1.resnets.0.time_emb_proj"
POINTWISE = "down_blocks.0.attentions.0.proj_in"
CONV = "mid_block.resnets.1.conv1"
STRIDED = "down_blocks.0.downsamplers.0.conv"
LAYERS = [LINEAR, OUT, FEED_FORWARD, TIME, POINTWISE, CONV, STRIDED]
MOTION = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"

Style = Callable[[str, Tensor, Tensor], dict[str, Tensor]]


@pytest.fixture
def unet() -> UNetMotionModel:
    """The denoiser's kind of network, narrow, with the denoiser's 13 input channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNetMotionModel(
            in_channels=13,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=24,
            norm_num_groups=8,
            num_attention_heads=2,
            motion_num_attention_heads=2,
            use_motion_mid_block=False,
        )


def weights(unet: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def parts(unet: nn.Module, layer: str, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return random down and up matrices, with the kernel of the layer."""
    out, *taken = unet.get_submodule(layer).weight.shape
    random = torch.Generator().manual_seed(seed)
    kernel = [1] * (len(taken) - 1)
    down = torch.randn(RANK, *taken, generator=random)
    return down, torch.randn(out, RANK, *kernel, generator=random)


def expected(before: Tensor, down: Tensor, up: Tensor, *, factor: float) -> Tensor:
    """Return the sum, written out."""
    if before.ndim == 2:
        return before + factor * up @ down
    return before + factor * torch.einsum("orxy,rikl->oikl", up, down)


def kohya(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    name = "lora_unet_" + layer.replace(".", "_")
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(2.0),
    }


def peft(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}


def bare_peft(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {
        f"base_model.model.{layer}.lora_A.weight": down,
        f"base_model.model.{layer}.lora_B.weight": up,
    }


def diffusers(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}


def processors(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    attention, _, projection = layer.removesuffix(".0").rpartition(".")
    name = f"{attention}.processor.{projection}_lora"
    return {f"{name}.down.weight": down, f"{name}.up.weight": up}


def prefixed_processors(layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"unet.{key}": part for key, part in processors(layer, down, up).items()}


@pytest.mark.parametrize(
    ("style", "layers", "alpha"),
    [
        (kohya, LAYERS, 2.0),
        (peft, LAYERS, RANK),
        (bare_peft, LAYERS, RANK),
        (diffusers, LAYERS, RANK),
        (processors, [LINEAR, OUT], RANK),
        (prefixed_processors, [LINEAR, OUT], RANK),
    ],
)
def test_the_fused_weights_are_the_explicit_sum(
    unet: UNetMotionModel, style: Style, layers: list[str], alpha: float
) -> None:
    before = weights(unet)
    lora: dict[str, Tensor] = {}
    for layer in layers:
        lora |= style(layer, *parts(unet, layer))
    assert fuse_lora(unet, lora, scale=SCALE) == len(layers)
    after = weights(unet)
    for layer in layers:
        name = f"{layer}.weight"
        wanted = expected(before[name], *parts(unet, layer), factor=SCALE * alpha / RANK)
        torch.testing.assert_close(after.pop(name), wanted)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_flat_and_pointwise_matrices_fit_both_kinds_of_layer(unet: UNetMotionModel) -> None:
    before = weights(unet)
    lora: dict[str, Tensor] = {}
    for layer in (LINEAR, POINTWISE):
        down, up = parts(unet, layer)
        if layer == LINEAR:
            lora |= peft(layer, down[:, :, None, None], up[:, :, None, None])
        else:
            lora |= peft(layer, down.flatten(1), up.flatten(1))
    assert fuse_lora(unet, lora, scale=1.0) == 2
    for layer in (LINEAR, POINTWISE):
        wanted = expected(before[f"{layer}.weight"], *parts(unet, layer), factor=1.0)
        torch.testing.assert_close(unet.get_submodule(layer).weight, wanted)


def test_what_holds_a_unet_is_fused_like_it(unet: UNetMotionModel) -> None:
    holder = nn.Module()
    holder.unet = unet
    before = weights(unet)[f"{LINEAR}.weight"]
    down, up = parts(unet, LINEAR)
    assert fuse_lora(holder, kohya(LINEAR, down, up), scale=1.0) == 1
    torch.testing.assert_close(
        unet.get_submodule(LINEAR).weight, expected(before, down, up, factor=0.5)
    )


def test_half_precision_weights_get_the_sum_rounded_once(unet: UNetMotionModel) -> None:
    before = weights(unet.to(torch.bfloat16))[f"{LINEAR}.weight"]
    down, up = parts(unet, LINEAR)
    fuse_lora(unet, peft(LINEAR, down, up), scale=1e-3)
    after = unet.get_submodule(LINEAR).weight
    wanted = expected(before.float(), down, up, factor=1e-3)
    assert torch.equal(after, wanted.to(torch.bfloat16))


def test_scale_zero_changes_nothing(unet: UNetMotionModel) -> None:
    before = weights(unet)
    lora = kohya(CONV, *parts(unet, CONV))
    assert fuse_lora(unet, lora, scale=0.0) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def test_text_encoders_are_passed_over(unet: UNetMotionModel) -> None:
    lora = kohya(LINEAR, *parts(unet, LINEAR)) | {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 8),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(4.0),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.zeros(4, 8),
    }
    assert fuse_lora(unet, lora, scale=1.0) == 1


def test_one_error_names_every_bad_key_and_no_weight_has_changed(unet: UNetMotionModel) -> None:
    before = weights(unet)
    down, up = parts(unet, LINEAR)
    bad: dict[str, Tensor] = {
        **peft(MOTION, down, up),
        **kohya(MOTION, down, up),
        **kohya("input_blocks.1.1.proj_in", down, up),
        **peft("conv_in", torch.zeros(4, 4, 3, 3), torch.zeros(32, 4, 1, 1)),
        **peft(CONV, torch.zeros(4, 64 * 9), torch.zeros(64, 4)),
        **peft(OUT, torch.zeros(4, 32), torch.zeros(32, 8)),
        **peft(FEED_FORWARD, torch.zeros(0, 32), torch.zeros(256, 0)),
        **peft(TIME, torch.zeros(4), torch.tensor(1.0)),
        **{key: part for key, part in peft(STRIDED, down, up).items() if "lora_A" in key},
        f"unet.{LINEAR}.dora_scale": torch.ones(32, 1),
        "not a key of a LoRA": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as raised:
        fuse_lora(unet, peft(LINEAR, down, up) | bad, scale=1.0)
    for key in bad:
        assert key in str(raised.value)
    assert f"{LINEAR}.lora_A" not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {f"lora_unet_{LINEAR.replace('.', '_')}.alpha": torch.ones(2)},
        {f"unet.{LINEAR}.lora_A.weight": torch.zeros(4, 32)},
    ],
    ids=["two alphas", "the layer in two styles"],
)
def test_a_layer_in_doubt_is_an_error(unet: UNetMotionModel, change: Mapping[str, Tensor]) -> None:
    lora = kohya(LINEAR, *parts(unet, LINEAR)) | change
    with pytest.raises(WeightsError, match="to_k"):
        fuse_lora(unet, lora, scale=1.0)


def test_a_lora_without_anything_for_the_denoiser_is_an_error(unet: UNetMotionModel) -> None:
    with pytest.raises(WeightsError, match="nothing for a denoiser"):
        fuse_lora(unet, {"text_encoder.fc1.lora_A.weight": torch.zeros(4, 8)}, scale=1.0)


def test_a_file_is_read_with_the_alpha_of_its_metadata(
    unet: UNetMotionModel, tmp_path: Path
) -> None:
    before = weights(unet)[f"{LINEAR}.weight"]
    down, up = parts(unet, LINEAR)
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 8})}
    save_file(peft(LINEAR, down, up), tmp_path / "lora.safetensors", metadata)
    assert fuse_lora(unet, read_lora(tmp_path / "lora.safetensors"), scale=0.5) == 1
    torch.testing.assert_close(
        unet.get_submodule(LINEAR).weight, expected(before, down, up, factor=0.5 * 8 / RANK)
    )


def test_a_file_with_alphas_is_read_as_it_is(unet: UNetMotionModel, tmp_path: Path) -> None:
    lora = kohya(LINEAR, *parts(unet, LINEAR))
    save_file(lora, tmp_path / "lora.safetensors")
    read = read_lora(tmp_path / "lora.safetensors")
    assert read.keys() == lora.keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in lora.items())


@pytest.mark.parametrize(
    "adapter",
    [
        '{"unet.use_rslora": true}',
        '{"unet.alpha_pattern": {"to_k": 2}}',
        *("[1]", "null", '"x"', "1"),
        *(
            f'{{"unet.lora_alpha": {alpha}}}'
            for alpha in ('"x"', "[8]", "{}", "null", "true", "NaN", "Infinity", "1e300", "9" * 400)
        ),
    ],
)
def test_an_unknown_scale_is_refused(adapter: str, tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": adapter}
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors", metadata)
    with pytest.raises(WeightsError, match="not known"):
        read_lora(tmp_path / "lora.safetensors")


def _pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path)


def _no_json(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, {"lora_adapter_metadata": "{"})


def _deep_json(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, {"lora_adapter_metadata": "[" * 100_000})


@pytest.mark.parametrize(
    "make", [lambda _path: None, Path.mkdir, Path.touch, _pickle, _no_json, _deep_json]
)
def test_what_is_no_safetensors_file_is_one_clear_error(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=r"lora\.safetensors"):
        read_lora(tmp_path / "lora.safetensors")
