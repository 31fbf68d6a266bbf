"""The denoiser: its size, what frames and sessions share, and guidance."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mimaface.config import CONFIGS, DenoiserConfig
from mimaface.denoiser import (
    MOST_ATTENTION_ROWS,
    ClipBatchNorm,
    Denoiser,
    PerFrameGroupNorm,
    TemporalAttention,
    predict,
)
from mimaface.model import load

CHANNELS, WIDTH = 2, 12  # C, D
MOST_GRID_ROWS = 65_535  # of CUDA's fused attention kernels
HAS_XFORMERS = importlib.util.find_spec("xformers") is not None

NormKind = Literal["group", "batch"]
Norm = Callable[[], nn.Module]


class Inputs(NamedTuple):
    """What the denoiser reads."""

    noisy: Tensor
    timestep: Tensor
    tokens: Tensor

    def row(self, index: int) -> Inputs:
        return Inputs(*(each[index : index + 1] for each in self))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(*, frames: int = 3, width: int = WIDTH) -> Inputs:
    return Inputs(
        noisy=noise(2, 3 * CHANNELS + 1, frames, 8, 8),
        timestep=torch.tensor([499.0, 957.375]),
        tokens=noise(2, frames, 5, width, seed=1),
    )


def narrow(norm: NormKind, *, motion: tuple[bool, ...] = (False, True, True)) -> Denoiser:
    config = DenoiserConfig(
        widths=(16, 32, 32),
        layers=1,
        attention=(False, True, True),
        motion=motion,
        heads=2,
        norm=norm,
        norm_groups=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(config, channels=CHANNELS, context_width=WIDTH)
    denoiser.requires_grad_(requires_grad=False)
    if norm == "batch":  # statistics as training leaves them, not those of a new module
        for seed in range(20):
            denoiser.train()(noise(2, 7, 3, 8, 8, seed=seed), *inputs()[1:])
    return denoiser.eval()


def on_meta(name: str) -> Denoiser:
    config = CONFIGS[name]
    with torch.device("meta"):
        return Denoiser(
            config.denoiser,
            channels=config.autoencoder.channels,
            context_width=config.mia.width,
        )


def size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


every_norm = pytest.mark.parametrize("norm", ["group", "batch"])


def test_the_models_have_their_sizes() -> None:
    assert size(on_meta("sd15")) == 1_276_684_484
    assert 5_000_000 <= size(on_meta("tiny")) <= 8_000_000


@pytest.mark.parametrize("kind", ["attentions", "motion_modules"])
def test_tiny_attends_at_the_two_coarsest_levels_only(kind: str) -> None:
    names = "\n".join(name for name, _ in on_meta("tiny").named_parameters())
    found = set(re.findall(rf"(\w+_blocks\.\d)\.{kind}\.", names))
    assert found == {"down_blocks.2", "down_blocks.3", "up_blocks.0", "up_blocks.1"}


def drawn(norm: nn.Module) -> nn.Module:
    """Give a norm weights and statistics that are not those of a new one."""
    for seed, (name, tensor) in enumerate(norm.state_dict().items()):
        if tensor.is_floating_point():
            values = noise(*tensor.shape, seed=seed)
            tensor.copy_(values.exp() if name == "running_var" else values)
    return norm.eval().requires_grad_(requires_grad=False)


def group_norm() -> nn.Module:
    return drawn(PerFrameGroupNorm(2, 6, eps=0.1))


def batch_norm() -> nn.Module:
    return drawn(ClipBatchNorm(6))


def plain(norm: nn.Module) -> nn.Module:
    """Return torch's own norm of pictures, with the same weights."""
    own = nn.GroupNorm(2, 6, eps=0.1) if isinstance(norm, nn.GroupNorm) else nn.BatchNorm2d(6)
    own.load_state_dict(norm.state_dict())
    return own.eval().requires_grad_(requires_grad=False)


every_per_frame_norm = pytest.mark.parametrize("build", [group_norm, batch_norm])


@every_per_frame_norm
def test_a_clip_is_normalised_as_its_frames_alone(build: Norm) -> None:
    norm = build()
    clip = noise(2, 6, 3, 4, 5) * 3 + 1
    frames = torch.stack([plain(norm)(clip[:, :, frame]) for frame in range(3)], dim=2)
    torch.testing.assert_close(norm(clip), frames, atol=1e-5, rtol=0)
    assert torch.equal(norm(clip[:, :, 0]), plain(norm)(clip[:, :, 0])), "pictures go in too"


@every_per_frame_norm
def test_the_scale_of_a_frame_does_not_leak_into_another(build: Norm) -> None:
    norm = build()
    clip = noise(2, 6, 3, 4, 5)
    louder = clip.clone()
    louder[:, :, 0] *= 100
    assert torch.equal(norm(louder)[:, :, 1:], norm(clip)[:, :, 1:])
    over_the_clip = nn.GroupNorm(2, 6)  # which is what diffusers does
    leaked = over_the_clip(louder)[:, :, 1:] - over_the_clip(clip)[:, :, 1:]
    assert leaked.abs().max() > 1


def test_statistics_in_training_are_those_of_all_frames() -> None:
    clip = noise(2, 6, 3, 4, 5) * 3 + 1
    norm = ClipBatchNorm(6).train()
    normalised = norm(clip)
    frames = rearrange(clip, "b c f h w -> (b f h w) c")
    torch.testing.assert_close(norm.running_mean, 0.1 * frames.mean(dim=0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * frames.var(dim=0))
    rows = rearrange(normalised, "b c f h w -> (b f h w) c")
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.var(dim=0, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_a_residual_denoiser_that_says_nothing_leaves_the_render() -> None:
    config, channels = CONFIGS["tiny"].denoiser, CONFIGS["tiny"].autoencoder.channels
    denoiser = Denoiser(config, channels=channels, context_width=WIDTH).eval()
    for parameter in denoiser.unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    condition = noise(2, 1, 2 * channels + 1, 8, 8, seed=1)
    latents, correction = predict(
        denoiser,
        noise(2, 1, channels, 8, 8),
        torch.tensor([499.0, 999.0]),
        condition=condition,
        tokens=noise(2, 1, 5, WIDTH, seed=2),
        guidance=1.0,
    )
    assert correction is not None
    assert not correction.any()
    torch.testing.assert_close(latents, condition[:, :, :channels], atol=1e-5, rtol=0)


@every_norm
def test_a_prediction_has_the_shape_of_the_latents(norm: NormKind) -> None:
    assert narrow(norm)(*inputs(frames=4)).shape == (2, CHANNELS, 4, 8, 8)


@every_norm
def test_frames_of_a_clip_meet_and_items_of_a_batch_never_do(norm: NormKind) -> None:
    denoiser, before = narrow(norm), inputs()
    noisy = before.noisy.clone()
    noisy[0, :, 0] += 1
    after = denoiser(*before._replace(noisy=noisy))
    difference = (after - denoiser(*before)).abs()
    assert difference[0, :, 2].max() > 1e-3
    assert difference[1].max() == 0


@every_norm
def test_a_batch_of_two_is_two_singles(norm: NormKind) -> None:
    denoiser, batch = narrow(norm), inputs()
    singles = torch.cat([denoiser(*batch.row(row)) for row in range(2)])
    torch.testing.assert_close(denoiser(*batch), singles, atol=1e-5, rtol=0)


def frame_by_frame(denoiser: Denoiser, clip: Inputs) -> Tensor:
    frames = [
        denoiser(clip.noisy[:, :, [frame]], clip.timestep, clip.tokens[:, [frame]])
        for frame in range(clip.noisy.shape[2])
    ]
    return torch.cat(frames, dim=2)


@every_norm
def test_without_motion_modules_frames_are_pictures(norm: NormKind) -> None:
    denoiser, clip = narrow(norm, motion=(False,) * 3), inputs()
    torch.testing.assert_close(denoiser(*clip), frame_by_frame(denoiser, clip), atol=1e-5, rtol=0)


@every_norm
def test_frames_meet_in_temporal_attention_only(norm: NormKind) -> None:
    denoiser, clip = narrow(norm), inputs()
    assert not torch.allclose(denoiser(*clip), frame_by_frame(denoiser, clip), atol=1e-3)
    for name, module in denoiser.named_modules():
        if re.search(r"motion_modules\..*\.to_out\.0$", name):
            module.weight.zero_()
            module.bias.zero_()
    torch.testing.assert_close(denoiser(*clip), frame_by_frame(denoiser, clip), atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", range(3))
def test_a_motion_module_at_any_one_level_lets_frames_meet(level: int) -> None:
    denoiser = narrow("group", motion=tuple(each == level for each in range(3)))
    before = inputs()
    noisy = before.noisy.clone()
    noisy[:, :, 0] += 1
    difference = denoiser(*before._replace(noisy=noisy)) - denoiser(*before)
    assert difference[:, :, 2].abs().max() > 1e-4


@every_norm
def test_every_frame_attends_to_its_own_tokens(norm: NormKind) -> None:
    denoiser = narrow(norm, motion=(False,) * 3)
    before = inputs()
    tokens = before.tokens.clone()
    tokens[0, 1] += noise(5, WIDTH, seed=2)
    difference = (denoiser(*before._replace(tokens=tokens)) - denoiser(*before)).abs()
    difference = difference.amax(dim=(1, 3, 4))  # [B, F]
    assert (difference > 0).tolist() == [[False, True, False], [False] * 3]
    assert difference.max() > 0.01, "no rounding"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_timesteps_are_not_rounded(dtype: torch.dtype) -> None:
    denoiser, given = narrow("group").to(dtype), inputs()
    noisy, tokens = given.noisy.to(dtype), given.tokens.to(dtype)
    fractional = denoiser(noisy, given.timestep, tokens)
    rounded = denoiser(noisy, given.timestep.round(), tokens)  # 499 already is
    assert torch.equal(fractional[0], rounded[0])
    assert (fractional[1] - rounded[1]).abs().max() > 0.01


def test_bfloat16_is_near_float32() -> None:
    denoiser, given = narrow("group"), inputs()
    exact = denoiser(*given)
    denoiser.to(torch.bfloat16)
    half = denoiser(given.noisy.bfloat16(), given.timestep, given.tokens.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() < 0.02 * exact.norm()


def test_temporal_attention_is_handed_to_the_kernel_in_slabs_it_can_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = MOST_GRID_ROWS + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = Attention(query_dim=4, heads=2, dim_head=2).requires_grad_(requires_grad=False)
    hidden_states = noise(rows, 3, 4)
    unsplit = AttnProcessor2_0()(attention, hidden_states)

    kernel, handed = F.scaled_dot_product_attention, []

    def recorded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        handed.append(len(query))
        return kernel(query, key, value)

    monkeypatch.setattr("mimaface.denoiser.F.scaled_dot_product_attention", recorded)
    split = TemporalAttention()(attention, hidden_states)
    assert len(handed) > 1
    assert max(handed) <= MOST_ATTENTION_ROWS <= MOST_GRID_ROWS
    assert sum(handed) == rows
    assert torch.equal(split, unsplit)


def test_xformers_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"xformers .* for GPUs only"):
        load("tiny", weights="random", device="cpu", attention="xformers")


@pytest.mark.skipif(
    HAS_XFORMERS or not torch.cuda.is_available(), reason="needs a GPU and no xformers"
)
def test_xformers_without_the_package_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"pip install.*xformers"):
        load("tiny", weights="random", device="cuda", attention="xformers")


@pytest.mark.skipif(
    not (HAS_XFORMERS and torch.cuda.is_available()), reason="needs xformers and a GPU"
)
def test_xformers_is_sdpa_with_another_kernel() -> None:
    config = DenoiserConfig(
        widths=(32, 64),
        layers=1,
        attention=(True, True),
        motion=(True, True),
        heads=2,
        norm="group",
        norm_groups=8,
    )
    given = Inputs(*(each.cuda() for each in inputs(width=16)))
    with torch.device("cuda"):
        denoisers = [
            Denoiser(config, channels=CHANNELS, context_width=16, attention=attention).eval()
            for attention in ("sdpa", "xformers")
        ]
    denoisers[1].load_state_dict(denoisers[0].state_dict())
    with torch.inference_mode():
        sdpa, xformers = (denoiser(*given) for denoiser in denoisers)
    torch.testing.assert_close(xformers, sdpa, atol=1e-3, rtol=0)


class Asked(NamedTuple):
    """What `predict` is asked: frame-major latents, as the rest of the library has them."""

    noisy: Tensor
    timestep: Tensor
    condition: Tensor
    tokens: Tensor


def asked() -> Asked:
    return Asked(
        noisy=noise(2, 3, CHANNELS, 8, 8),
        timestep=torch.tensor([499.0, 957.375]),
        condition=noise(2, 3, 2 * CHANNELS + 1, 8, 8, seed=1),
        tokens=noise(2, 3, 5, WIDTH, seed=2),
    )


def run(denoiser: Denoiser, each: Asked, *, guidance: float) -> Tensor:
    return predict(
        denoiser,
        each.noisy,
        each.timestep,
        condition=each.condition,
        tokens=each.tokens,
        guidance=guidance,
    ).latents


def runs_of(denoiser: Denoiser) -> list[Inputs]:
    """Return a list that fills with what the network reads, run by run."""
    runs: list[Inputs] = []
    denoiser.register_forward_pre_hook(lambda _module, given: runs.append(Inputs(*given)))
    return runs


def test_without_guidance_the_network_runs_once_on_the_batch_and_never_on_zero_tokens() -> None:
    denoiser, given = narrow("group"), asked()
    runs = runs_of(denoiser)
    prediction = run(denoiser, given, guidance=1.0)
    [read] = runs
    assert torch.equal(read.tokens, given.tokens)
    assert torch.equal(read.timestep, given.timestep)
    noisy, condition = read.noisy.split([CHANNELS, 2 * CHANNELS + 1], dim=1)
    assert torch.equal(rearrange(noisy, "b c f h w -> b f c h w"), given.noisy)
    assert torch.equal(rearrange(condition, "b c f h w -> b f c h w"), given.condition)
    assert torch.equal(prediction, rearrange(denoiser(*read), "b c f h w -> b f c h w"))


@pytest.mark.parametrize("guidance", [0.0, 0.5, 5.0])
def test_guidance_leads_away_from_what_zero_tokens_give(guidance: float) -> None:
    denoiser, given = narrow("group"), asked()
    with_tokens = run(denoiser, given, guidance=1.0)
    without = run(denoiser, given._replace(tokens=torch.zeros(2, 3, 5, WIDTH)), guidance=1.0)
    assert (with_tokens - without).abs().max() > 0.01
    expected = without + guidance * (with_tokens - without)
    guided = run(denoiser, given, guidance=guidance)
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=0)


def test_both_branches_of_guidance_read_the_same_but_for_the_tokens() -> None:
    denoiser, given = narrow("group"), asked()
    runs = runs_of(denoiser)
    run(denoiser, given, guidance=5.0)
    runs_with_guidance = list(runs)
    run(denoiser, given, guidance=1.0)
    [single] = runs[len(runs_with_guidance) :]
    noisy, timestep, tokens = (
        torch.cat(each) for each in zip(*runs_with_guidance, strict=True)
    )  # in one run or two
    assert torch.equal(noisy, torch.cat([single.noisy] * 2))
    assert torch.equal(timestep, torch.cat([single.timestep] * 2))
    is_empty = [not row.any() for row in tokens]
    assert sorted(is_empty) == [False, False, True, True]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_half_precision_network_answers_in_the_precision_of_the_latents(guidance: float) -> None:
    denoiser, given = narrow("group"), asked()
    exact = run(denoiser, given, guidance=guidance)
    denoiser.to(torch.bfloat16)
    half = run(
        denoiser,
        given._replace(condition=given.condition.bfloat16(), tokens=given.tokens.bfloat16()),
        guidance=guidance,
    )
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 0.02 * guidance * exact.norm()
