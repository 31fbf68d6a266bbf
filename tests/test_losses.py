"""What training minimises, on numbers that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mimaface.schedule import snr
from mimaface.source_encoder import PatchEncoder
from mimaface.training.losses import (
    BROWS,
    REGION_WEIGHT,
    IdentityBank,
    adversarial_loss,
    critic_loss,
    denoising_loss,
    gradient_loss,
    identity_loss,
    laplacian_loss,
    min_snr_weights,
    perceptual_loss,
    pixel_loss,
    region_weights,
    sample_loss,
    square_loss,
    temporal_loss,
)
from mimaface.types import VERTICES
from tests.learning import SMALL


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_errors_count_in_full_where_noise_is_strong_and_less_where_it_is_weak() -> None:
    timesteps = torch.arange(1000)
    ratios, weights = snr(timesteps), min_snr_weights(timesteps)
    is_weak = ratios > 5
    assert 100 < is_weak.sum() < 900, "both kinds are there"
    assert torch.equal(weights[~is_weak], torch.ones(int((~is_weak).sum())))
    torch.testing.assert_close(weights[is_weak], 5 / ratios[is_weak])


def test_the_true_noise_costs_nothing() -> None:
    true = noise(2, 3, 4, 5, 6)
    assert denoising_loss(true, true.clone(), torch.tensor([0, 999])) == 0


def test_a_uniform_error_costs_its_square() -> None:
    true, timestep = noise(2, 3, 4, 5, 6), torch.tensor([900, 999])  # where the weight is 1
    loss = denoising_loss(true + 0.5, true, timestep)
    assert loss.shape == ()
    torch.testing.assert_close(loss, torch.tensor(0.25))


def test_each_row_is_weighted_by_its_own_timestep() -> None:
    true = noise(2, 3, 4, 5, 6)
    timestep = torch.tensor([20, 800])
    weights = min_snr_weights(timestep)
    for row in range(2):
        wrong = true.clone()
        wrong[row] += 3
        expected = 9 * weights[row] / 2  # the other row is right
        torch.testing.assert_close(denoising_loss(wrong, true, timestep), expected)


def test_every_frame_counts_the_same_and_they_are_averaged() -> None:
    true, timestep = noise(1, 4, 2, 3, 3), torch.tensor([900])
    for frame in range(4):
        wrong = true.clone()
        wrong[:, frame] += 2
        loss = denoising_loss(wrong, true, timestep)
        torch.testing.assert_close(loss, torch.tensor(4 / 4.0))
    longer = denoising_loss((true + 2).repeat(1, 3, 1, 1, 1), true.repeat(1, 3, 1, 1, 1), timestep)
    torch.testing.assert_close(longer, torch.tensor(4.0))


def test_the_true_sample_costs_nothing_and_an_error_its_square() -> None:
    true = noise(2, 1, 3, 4, 4)
    assert sample_loss(true, true) == 0
    torch.testing.assert_close(sample_loss(true + 2, true), torch.tensor(4.0))


def test_pixels_of_no_weight_add_nothing_to_the_square_error() -> None:
    true = noise(1, 3, 4, 4)
    wrong = true.clone()
    wrong[..., :2] += 2
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., 1:] = 1
    torch.testing.assert_close(square_loss(wrong, true, weights), torch.tensor(4 / 3))


def eye_landmarks(x: float, y: float) -> Tensor:
    # Everything far outside but the left eye with its brow, a cross of 0.1 around (x, y).
    landmarks = torch.full((1, VERTICES, 2), -5.0)
    landmarks[:, [33, 133]] = torch.tensor([[x - 0.1, y], [x + 0.1, y]])
    for point in (246, 161, 160, 159, 158, 157, 173, 7, 163, 144, 145, 153, 154, 155, *BROWS[0]):
        landmarks[:, point] = torch.tensor([x, y])
    landmarks[:, 159] = torch.tensor([x, y - 0.1])
    landmarks[:, 145] = torch.tensor([x, y + 0.1])
    return landmarks


def test_an_eye_weighs_more_and_its_border_is_soft() -> None:
    weights = region_weights(eye_landmarks(0.5, 0.25), size_px=64)
    assert weights.shape == (1, 1, 64, 64)
    assert weights[0, 0, 16, 32] == REGION_WEIGHT
    assert weights[0, 0, 16, 16] == weights[0, 0, 48, 32] == 1, "y comes first in a picture"
    border = weights[0, 0, 16, 32:48]
    assert ((border > 1) & (border < REGION_WEIGHT)).sum() >= 2
    assert (border.diff() <= 0).all()


def test_regions_outside_a_crop_weigh_nothing_more() -> None:
    weights = region_weights(torch.full((2, VERTICES, 2), -5.0), size_px=32)
    assert torch.equal(weights, torch.ones(2, 1, 32, 32))


def test_equal_pictures_cost_nothing() -> None:
    images, weights = noise(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    for loss in (pixel_loss, gradient_loss, laplacian_loss):
        assert loss(images, images.clone(), weights) == 0, loss.__name__


def test_a_brighter_picture_costs_its_difference_in_pixels_and_none_in_gradients() -> None:
    images, weights = noise(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    brighter = images + 0.5
    torch.testing.assert_close(
        pixel_loss(brighter, images, weights), torch.tensor(0.5), atol=2e-3, rtol=0
    )
    assert gradient_loss(brighter, images, weights) < 1e-6
    torch.testing.assert_close(laplacian_loss(brighter, images, weights), torch.tensor(0.5))


def test_a_checkerboard_is_all_gradient_and_lies_in_the_finest_band() -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = (1.0 - 2 * ((x + y) % 2)).expand(1, 3, -1, -1)
    black, weights = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(gradient_loss(board, black, weights), torch.tensor(2.0))
    torch.testing.assert_close(laplacian_loss(board, black, weights), torch.tensor(1.0))


def test_weights_say_how_much_a_pixel_counts() -> None:
    true, weights = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    weights[..., :4] = 3
    left, right = true.clone(), true.clone()
    left[..., :4], right[..., 4:] = 1, 1
    costs = [float(pixel_loss(each, true, weights)) for each in (left, right)]
    assert costs[0] == pytest.approx(3 * costs[1])
    assert sum(costs) == pytest.approx(1, abs=2e-3)


def test_perception_is_not_trained_by_its_own_loss() -> None:
    encoder = PatchEncoder(SMALL.encoder).requires_grad_(requires_grad=False).eval()
    images, target = noise(2, 3, 32, 32).requires_grad_(), noise(2, 3, 32, 32, seed=1)
    loss = perceptual_loss(images, target, encoder.convolutions)
    loss.backward()
    assert loss > 0
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert perceptual_loss(target, target, encoder.convolutions) == 0


def test_changes_count_and_not_what_changes() -> None:
    target, weights = noise(2, 3, 3, 8, 8), torch.ones(2, 2, 1, 8, 8)
    assert temporal_loss(target + 1, target, weights) < 1e-6
    flickering = target.clone()
    flickering[:, 1] += 1
    torch.testing.assert_close(temporal_loss(flickering, target, weights), torch.tensor(1.0))
    weights[1] = 0
    flickering[0] = target[0]
    assert temporal_loss(flickering, target, weights) == 0, "that row's past does not count"


def test_people_are_told_apart_and_one_person_is_not() -> None:
    tokens, person = torch.eye(4), torch.arange(4)
    nobody = IdentityBank.empty(4)
    alike = identity_loss(tokens, tokens, person, nobody)
    mixed_up = identity_loss(tokens, tokens.roll(1, 0), person, nobody)
    assert alike < 1e-3
    assert mixed_up > 5
    # The same person twice in a batch is no negative.
    twice = identity_loss(tokens, torch.ones(4, 4), torch.zeros(4, dtype=torch.long), nobody)
    assert twice == 0


def test_people_in_the_bank_are_negatives_but_the_person_itself_is_not() -> None:
    tokens, person = torch.eye(4)[:1], torch.tensor([7])
    bank = IdentityBank.empty(4).remember(torch.eye(4)[:1], torch.tensor([7]))
    assert identity_loss(tokens, tokens, person, bank) == 0
    strangers = bank.remember(torch.eye(4)[:1], torch.tensor([8]))
    torch.testing.assert_close(
        identity_loss(tokens, tokens, person, strangers), torch.tensor(2.0).log()
    )


def test_the_bank_forgets_the_oldest() -> None:
    bank = IdentityBank.empty(2)
    for person in range(5):
        bank = bank.remember(torch.full((1, 2), float(person)), torch.tensor([person]), most=3)
    assert bank.person.tolist() == [2, 3, 4]
    assert bank.tokens[:, 0].tolist() == [2, 3, 4]


def test_a_critic_that_is_sure_enough_is_left_alone() -> None:
    assert critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0])) == 0
    assert critic_loss(torch.zeros(2), torch.zeros(2)) == 1
    assert adversarial_loss(torch.tensor([2.0, 4.0])) == -3
