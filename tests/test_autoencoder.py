"""The autoencoders: pictures to latents and back."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimaface.autoencoder import KL, KL_SCALE, TAESD, Autoencoder, PixelUnshuffle
from tests.recipe import load

Build = Callable[[], Autoencoder]


def narrow_kl() -> KL:
    autoencoder = KL(widths=(4, 8, 8), layers=1, norm_groups=2)
    load(autoencoder)
    return autoencoder


def narrow_taesd() -> TAESD:
    autoencoder = TAESD(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    load(autoencoder)
    return autoencoder


def noise(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def four_pixels() -> PixelUnshuffle:
    return PixelUnshuffle(4)


every_autoencoder = pytest.mark.parametrize("build", [narrow_kl, narrow_taesd, four_pixels])


@every_autoencoder
def test_latents_have_the_promised_shape_and_pictures_come_back(build: Build) -> None:
    autoencoder = build()
    latents = autoencoder.encode(noise(2, 3, 24, 32))
    assert autoencoder.factor == 4
    assert latents.shape == (2, autoencoder.latent_channels, 6, 8)
    assert autoencoder.decode(latents).shape == (2, 3, 24, 32)


@every_autoencoder
def test_two_pictures_are_coded_as_if_alone(build: Build) -> None:
    autoencoder = build()
    images = noise(2, 3, 24, 32)
    latents = autoencoder.encode(images)
    alone = torch.cat([autoencoder.encode(image[None]) for image in images])
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=0)
    alone = torch.cat([autoencoder.decode(latent[None]) for latent in latents])
    torch.testing.assert_close(autoencoder.decode(latents), alone, atol=1e-5, rtol=0)


@every_autoencoder
def test_nothing_is_drawn_at_random(build: Build) -> None:
    autoencoder = build()
    images = noise(1, 3, 24, 32)
    first, second = (autoencoder.encode(images) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(autoencoder.decode(first), autoencoder.decode(second))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_rearranged_pixels_come_back_exactly(factor: int) -> None:
    images, autoencoder = noise(2, 3, 16, 24), PixelUnshuffle(factor)
    latents = autoencoder.encode(images)
    assert latents.shape == (2, 3 * factor**2, 16 // factor, 24 // factor)
    assert torch.equal(autoencoder.decode(latents), images)
    assert torch.equal(autoencoder.encode(autoencoder.decode(latents)), latents)


def test_a_cell_holds_the_pixels_it_covers() -> None:
    images = noise(1, 3, 16, 16)
    cell = PixelUnshuffle(8).encode(images)[0, :, 0, 1]
    assert torch.equal(cell, images[0, :, :8, 8:].flatten())


def test_a_cell_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        PixelUnshuffle(0)


def test_only_the_kl_autoencoder_scales_its_latents() -> None:
    images, kl, taesd = noise(1, 3, 16, 16), narrow_kl(), narrow_taesd()
    raw = kl.vae.encode(images).latent_dist.mean
    torch.testing.assert_close(kl.encode(images), raw * KL_SCALE)
    torch.testing.assert_close(kl.decode(raw * KL_SCALE), kl.vae.decode(raw).sample)
    raw = taesd.vae.encode(images).latents
    assert torch.equal(taesd.encode(images), raw)
    assert torch.equal(taesd.decode(raw), taesd.vae.decode(raw).sample)


def test_taesd_levels_must_agree() -> None:
    with pytest.raises(ValueError, match="the same levels"):
        TAESD(encoder_blocks=(1, 1), decoder_blocks=(1, 1, 1))
