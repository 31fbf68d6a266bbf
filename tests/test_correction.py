"""What a residual denoiser's words do to a render."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mimaface.autoencoder import PixelUnshuffle
from mimaface.correction import (
    DISPLACEMENT,
    LEAST_ADDED,
    LEAST_MOVED,
    correct,
    displace,
    settle,
)
from mimaface.correction_loop import correct_picture

FACTOR, SIDE = 4, 32
CHANNELS = 3 * FACTOR**2
CELLS = SIDE // FACTOR
INSIDE = slice(8, -8)  # what no displacement here brings in from beyond the edge


def waves(side: int) -> Tensor:
    """Return a smooth picture [1, 3, side, side] in [-1, 1] without symmetry."""
    at = (torch.arange(side) + 0.5) / side
    x, y = at[None], at[:, None]
    rows = [torch.sin(7 * x + 4 * y), torch.cos(5 * y - 3 * x), torch.sin(6 * x * y)]
    return torch.stack(torch.broadcast_tensors(*rows))[None]


def saying(*, added: float = 0.0, right: float = 0.0, down: float = 0.0) -> Tensor:
    """Return a correction [1, 1, C + 2, h, w] that is the same everywhere; shifts in cells."""
    correction = torch.full((1, 1, CHANNELS + DISPLACEMENT, CELLS, CELLS), added)
    correction[:, :, CHANNELS] = right
    correction[:, :, CHANNELS + 1] = down
    return correction


def corrected(image: Tensor, correction: Tensor) -> Tensor:
    pixels = PixelUnshuffle(FACTOR)
    return pixels.decode(correct(pixels.encode(image)[:, None], correction)[:, 0])


def test_who_says_nothing_leaves_the_render() -> None:
    torch.testing.assert_close(corrected(waves(SIDE), saying()), waves(SIDE), atol=1e-6, rtol=0)


def test_what_is_added_is_added() -> None:
    found = corrected(waves(SIDE), saying(added=0.25))
    torch.testing.assert_close(found, waves(SIDE) + 0.25, atol=1e-6, rtol=0)


def test_a_place_shows_what_lies_a_displacement_further() -> None:
    image = waves(SIDE)
    found = corrected(image, saying(right=0.5, down=-0.75))  # cells: 2 and 3 pixels
    moved = image.roll((3, -2), dims=(2, 3))
    torch.testing.assert_close(
        found[..., INSIDE, INSIDE], moved[..., INSIDE, INSIDE], atol=1e-5, rtol=0
    )


def test_half_a_pixel_is_told_from_none_in_half_precision() -> None:
    exact, half = saying(right=1 / 8), saying(right=1 / 8).bfloat16()
    found = [corrected(waves(SIDE), each) for each in (saying(), exact, half)]
    assert float((found[1] - found[0]).abs().mean()) > 0.02
    torch.testing.assert_close(found[2], found[1], atol=1e-6, rtol=0)


def test_what_is_small_is_left_out_and_the_rest_is_less_by_it() -> None:
    settled = settle(saying(added=0.01, right=0.08, down=-0.08))
    torch.testing.assert_close(settled, saying())
    torch.testing.assert_close(
        settle(saying(added=-0.25, right=-0.5, down=0.4)),
        saying(added=LEAST_ADDED - 0.25, right=LEAST_MOVED - 0.5, down=0.4 - LEAST_MOVED),
    )


def test_a_correction_can_be_learnt_from_nothing() -> None:
    said = saying().requires_grad_()
    ((settle(said) - 0.5) ** 2).mean().backward()
    assert said.grad is not None
    assert (said.grad < 0).all()


def test_a_displacement_can_be_learnt() -> None:
    image = waves(SIDE)
    wanted = displace(image, torch.full((1, DISPLACEMENT, CELLS, CELLS), 0.3))
    displacement = torch.zeros(1, DISPLACEMENT, CELLS, CELLS, requires_grad=True)
    optimizer = torch.optim.Adam([displacement], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((displace(image, displacement) - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
    middle = displacement.detach()[..., 2:-2, 2:-2]
    assert float((middle - 0.3).abs().mean()) < 0.05


@pytest.mark.parametrize("far", [0.0, 0.5, 20.0])  # cells: the last leads out of the picture
def test_the_loop_does_to_a_picture_what_is_done_to_its_latents(far: float) -> None:
    draw, pixels = np.random.default_rng(0), PixelUnshuffle(FACTOR)
    picture = draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    correction = draw.normal(size=(CHANNELS + DISPLACEMENT, CELLS, CELLS)).astype(np.float32)
    correction[CHANNELS:] *= far
    images = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    wanted = correct(pixels.encode(images)[:, None], torch.from_numpy(correction)[None, None])[:, 0]
    latents, change = correct_picture(picture, correction)
    np.testing.assert_allclose(latents, wanted[0], atol=1e-4)
    shown = pixels.decode(wanted)[0].clamp(-1, 1).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(picture + change, (shown + 1) * 127.5, atol=0.01)
