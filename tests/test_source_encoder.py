"""The encoders of the source image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mimaface.config import CONFIGS, ClipEncoderConfig, PatchEncoderConfig
from mimaface.source_encoder import (
    CLIP_MEAN,
    CLIP_STD,
    ClipIdentityEncoder,
    PatchEncoder,
    SourceEncoder,
    clip_pixels,
)
from mimaface.types import Pixels
from tests.recipe import load

NARROW_CLIP = ClipEncoderConfig(
    width=16,
    layers=2,
    heads=2,
    image_px=28,
    patch_px=14,
    identity_widths=(4, 4, 8, 8),
    identity_depths=(1, 1, 1, 1),
    identity_crop_px=256,
    regressor_width=4,
)


def narrow_clip() -> ClipIdentityEncoder:
    encoder = ClipIdentityEncoder(NARROW_CLIP)
    load(encoder, bnstats=True)
    return encoder


def narrow_patches() -> PatchEncoder:
    encoder = PatchEncoder(PatchEncoderConfig(channels=(4, 8), width=16, grid=4, layers=1, heads=2))
    load(encoder, bnstats=True)
    return encoder


def noise(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_clip_encoder_makes_tokens_and_an_identity() -> None:
    tokens = narrow_clip().encode(picture(64, 64), noise(1, 3, 512, 512))
    assert tokens.tokens.shape == (1 + 2 * 2, 16)
    assert tokens.identity.shape == (8 * 7 * 7,)


def test_clip_tokens_are_taken_before_the_norm_after_the_last_layer() -> None:
    encoder, pixels, aligned = narrow_clip(), noise(1, 3, 28, 28), noise(1, 3, 256, 256)
    before, _ = encoder(pixels, aligned)
    encoder.clip.post_layernorm.weight.data.zero_()
    torch.testing.assert_close(encoder(pixels, aligned)[0], before, atol=0, rtol=0)


def test_identity_is_flattened_channel_by_channel_and_not_normalised() -> None:
    encoder, aligned = narrow_clip(), noise(1, 3, 112, 112)
    _, identity = encoder(noise(1, 3, 28, 28), aligned)
    assert identity.norm() != pytest.approx(1, abs=1e-3)
    encoder.get_parameter("identity.body.3.res_layer.4.bias").data[3] += 1
    change = encoder(noise(1, 3, 28, 28), aligned)[1] - identity
    assert change[0].nonzero().flatten().tolist() == list(range(3 * 49, 4 * 49))


def test_clip_encoder_needs_the_aligned_picture() -> None:
    with pytest.raises(ValueError, match="aligned"):
        narrow_clip().encode(picture(64, 64))


def test_clip_encoder_built_without_memory_works_once_it_is_loaded() -> None:
    with torch.device("meta"):
        encoder = ClipIdentityEncoder(NARROW_CLIP)
    clip = encoder.clip
    load(clip)
    assert clip(noise(1, 3, 28, 28)).last_hidden_state.isfinite().all()


def test_patch_encoder_makes_tokens_and_the_first_is_the_identity() -> None:
    tokens = narrow_patches().encode(picture(64, 64))
    assert tokens.tokens.shape == (1 + 4 * 4, 16)
    assert torch.equal(tokens.identity, tokens.tokens[0])


def test_patch_encoder_for_the_embedded_model_is_small() -> None:
    config = CONFIGS["tiny"].encoder
    assert isinstance(config, PatchEncoderConfig)
    encoder = PatchEncoder(config).eval()
    assert 0.4e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 0.6e6
    with torch.inference_mode():
        assert encoder(noise(1, 3, 256, 256)).shape == (1, 1 + 8 * 8, 128)


@pytest.mark.parametrize("side_px", [64, 128, 192])
def test_patch_encoder_takes_any_multiple_of_64(side_px: int) -> None:
    assert narrow_patches().encode(picture(side_px, side_px)).tokens.shape == (17, 16)
    with pytest.raises(ValueError, match="multiples of 64"):
        narrow_patches().encode(picture(side_px, side_px + 8))


def test_class_token_sees_every_patch() -> None:
    encoder = narrow_patches()
    images = noise(1, 3, 64, 64).requires_grad_()
    encoder(images)[0, 0, 0].backward()
    assert images.grad is not None
    reached = images.grad.abs().sum((0, 1)).reshape(4, 16, 4, 16).sum((1, 3))
    assert (reached > 0).all()


@pytest.mark.parametrize("build", [narrow_clip, narrow_patches])
def test_the_same_source_gives_the_same_tokens(build: Callable[[], SourceEncoder]) -> None:
    encoder = build()
    first, second = (encoder.encode(picture(64, 64), noise(1, 3, 256, 256)) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.identity, second.identity)


@pytest.mark.parametrize("build", [narrow_clip, narrow_patches])
def test_a_picture_is_described_by_the_class_token(build: Callable[[], SourceEncoder]) -> None:
    encoder = build()
    said = encoder.describe(picture(64, 64))
    tokens = encoder.encode(picture(64, 64), noise(1, 3, 256, 256)).tokens
    torch.testing.assert_close(said, tokens[0])


def test_two_sources_are_encoded_as_if_alone() -> None:
    patches, images = narrow_patches(), noise(2, 3, 64, 64)
    alone = torch.cat([patches(image[None]) for image in images])
    torch.testing.assert_close(patches(images), alone, atol=1e-5, rtol=0)

    clip, pixels, aligned = narrow_clip(), noise(2, 3, 28, 28), noise(2, 3, 256, 256)
    together = clip(pixels, aligned)
    singles = [clip(pixels[i : i + 1], aligned[i : i + 1]) for i in range(2)]
    for both, parts in zip(together, zip(*singles, strict=True), strict=True):
        torch.testing.assert_close(both, torch.cat(parts), atol=1e-5, rtol=0)


def test_encoding_follows_the_type_of_the_weights() -> None:
    tokens = narrow_patches().to(torch.bfloat16).encode(picture(64, 64))
    assert tokens.tokens.dtype == torch.bfloat16
    tokens = narrow_clip().to(torch.bfloat16).encode(picture(64, 64), noise(1, 3, 256, 256))
    assert tokens.tokens.dtype == tokens.identity.dtype == torch.bfloat16


@pytest.mark.parametrize("is_tall", [False, True])
def test_clip_sees_the_middle_of_a_picture_that_is_not_square(is_tall: bool) -> None:
    wide = np.full((256, 384, 3), 255, np.uint8)
    wide[:, 64:-64] = (10, 120, 200)
    pixels = clip_pixels(wide.swapaxes(0, 1) if is_tall else wide)
    assert pixels.shape == (1, 3, 224, 224)
    expected = (torch.tensor([10, 120, 200]) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(
        CLIP_STD
    )
    inner = pixels[0, :, 4:-4, 4:-4]
    torch.testing.assert_close(inner, expected[:, None, None].expand_as(inner))


def test_clip_sees_every_pixel_of_a_large_picture() -> None:
    dotted = np.zeros((896, 896, 3), np.uint8)
    dotted[::4, ::4] = 160
    seen = clip_pixels(dotted)[0, 0] * CLIP_STD[0] + CLIP_MEAN[0]
    torch.testing.assert_close(seen.mean(), torch.tensor(160 / 255 / 16), atol=2e-3, rtol=0)
