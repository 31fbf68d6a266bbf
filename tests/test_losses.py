"""What training minimises, on numbers that can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from mimaface.schedule import snr
from mimaface.training.losses import denoising_loss, min_snr_weights


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
