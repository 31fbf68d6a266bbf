"""Noise levels and the walks down them, checked by a network that knows the answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mimaface.config import Sampling, trailing_timesteps
from mimaface.schedule import (
    DrawNoise,
    Predict,
    Prediction,
    add_noise,
    alphas_cumprod,
    consistency,
    denoise,
    euler_table,
    predict_clean,
    snr,
)

SHAPE = (2, 3, 4, 5, 6)  # [B, F, C, h, w]
EULER = Sampling(solver="euler")
FEW_STEPS = [Sampling(solver="consistency"), Sampling(solver="clean", first_timestep=749)]
WALKS = [(EULER, "epsilon")] + [
    (each, kind) for each in FEW_STEPS for kind in ("epsilon", "sample")
]


def noise(index: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(index))


CLEAN, WARM = noise(100), noise(101)

every_walk = pytest.mark.parametrize(
    ("sampling", "prediction"),
    WALKS,
    ids=[f"{sampling.solver}-{kind}" for sampling, kind in WALKS],
)
every_few_step_walk = pytest.mark.parametrize(
    "sampling", FEW_STEPS, ids=[each.solver for each in FEW_STEPS]
)
every_number_of_steps = pytest.mark.parametrize("steps", [1, 2, 4, 25])


def share(timestep: Tensor) -> Tensor:
    """Return the share of signal power at timesteps, from its definition in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.from_numpy(np.cumprod(1 - betas)[timestep.long().numpy()])


def scale(timestep: Tensor) -> Tensor:
    """Return the noise scale [..., 1, 1, 1, 1] of timesteps, which may be fractional."""
    levels = ((1 - share(torch.arange(1000))) / share(torch.arange(1000))) ** 0.5
    between = np.interp(timestep.numpy(), np.arange(1000), levels.numpy())
    return torch.from_numpy(np.asarray(between))[..., None, None, None, None]


class Oracle:
    """A network that knows the clean latents; it keeps what it was asked."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self.seen: list[Tensor] = []
        self.timesteps: list[Tensor] = []

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        self.seen.append(latents)
        self.timesteps.append(timestep)
        if self.prediction == "sample":
            return CLEAN
        sigma = scale(timestep)
        return ((latents * (sigma**2 + 1).sqrt() - CLEAN) / sigma).float()


def walk(
    predict: Predict,
    *,
    sampling: Sampling,
    prediction: Prediction,
    steps: int,
    warm: Tensor = WARM,
    draw_noise: DrawNoise = noise,
) -> list[Tensor]:
    return list(
        denoise(predict, warm, draw_noise, steps=steps, sampling=sampling, prediction=prediction)
    )


def test_signal_fades_as_in_stable_diffusion() -> None:
    torch.testing.assert_close(
        alphas_cumprod(), share(torch.arange(1000)).float(), rtol=1e-4, atol=0
    )
    ratios = snr(torch.arange(1000))
    assert (ratios.diff() < 0).all()
    expected = scale(torch.arange(1000)).flatten().float() ** -2
    torch.testing.assert_close(ratios, expected, rtol=1e-4, atol=0)


def test_eulers_table_runs_from_the_last_level_to_no_noise() -> None:
    timesteps, sigmas = euler_table(25)
    assert timesteps.shape == (25,)
    assert sigmas.shape == (26,)
    assert timesteps[:3].tolist() == [999, 957.375, 915.75]
    assert timesteps[-1] == 0
    assert sigmas[0] == pytest.approx(14.6146, abs=1e-4)
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1], scale(timesteps).flatten().float())


@pytest.mark.parametrize(
    ("steps", "first", "expected"),
    [(4, 999, [999, 749, 499, 249]), (2, 749, [749, 374]), (1, 499, [499]), (3, 2, [2, 1, 0])],
)
def test_trailing_timesteps_end_a_step_before_zero(
    steps: int, first: int, expected: list[float]
) -> None:
    assert trailing_timesteps(steps, first=first).tolist() == expected


def test_trailing_timesteps_start_where_training_ends() -> None:
    assert trailing_timesteps(4).tolist() == trailing_timesteps(4, first=999).tolist()


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (trailing_timesteps, 0),
        (trailing_timesteps, -1),
        (trailing_timesteps, 1001),
        (euler_table, 1),
        (euler_table, 0),
    ],
)
def test_a_walk_of_no_steps_or_of_too_many_is_refused(
    make: Callable[[int], object], steps: int
) -> None:
    with pytest.raises(ValueError, match=f"found {steps}"):
        make(steps)


def test_noise_is_added_without_changing_the_power() -> None:
    timestep = torch.tensor([20, 800])
    noisy = add_noise(CLEAN, noise(), timestep)
    for row, kept in enumerate(share(timestep)):
        expected = kept.sqrt() * CLEAN[row].double() + (1 - kept).sqrt() * noise()[row].double()
        torch.testing.assert_close(noisy[row], expected.float(), rtol=1e-4, atol=1e-5)


def test_the_true_noise_gives_the_clean_latents_back() -> None:
    timestep = torch.tensor([0, 999])
    noisy = add_noise(CLEAN, noise(), timestep)
    found = predict_clean(noisy, noise(), timestep, "epsilon")
    torch.testing.assert_close(found, CLEAN, rtol=0, atol=1e-4)


def test_a_predicted_sample_is_taken_as_it_is() -> None:
    timestep = torch.tensor([0, 999])
    assert torch.equal(predict_clean(noise(), CLEAN, timestep, "sample"), CLEAN)


@pytest.mark.parametrize(
    "step",
    [
        lambda clean, other, timestep: add_noise(clean, other, timestep),
        lambda clean, other, timestep: predict_clean(clean, other, timestep, "epsilon"),
        lambda clean, other, timestep: consistency(clean, other, timestep),
    ],
    ids=["add_noise", "predict_clean", "consistency"],
)
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:-1]])
def test_each_row_is_treated_as_if_alone(
    step: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    clean, other = (each.flatten()[: np.prod(shape)].reshape(shape) for each in (CLEAN, noise()))
    timestep = torch.tensor([3, 700])
    rows = [
        step(clean[row : row + 1], other[row : row + 1], timestep[row : row + 1])
        for row in range(2)
    ]
    assert torch.equal(step(clean, other, timestep), torch.cat(rows))
    assert not torch.equal(step(clean, other, timestep), step(clean, other, timestep.flip(0)))


def test_a_consistency_step_is_its_input_without_noise_and_the_prediction_with_much() -> None:
    noisy, timestep = noise(), torch.tensor([0, 999])
    found = consistency(noisy, CLEAN, timestep)
    assert torch.equal(found[0], noisy[0])
    torch.testing.assert_close(found[1], CLEAN[1], rtol=0, atol=1e-4)


def test_a_consistency_step_at_timestep_1_is_as_published() -> None:
    noisy, timestep = noise(), torch.tensor([1, 1])
    expected = 0.25 / 100.25 * noisy + 10 / 100.25**0.5 * CLEAN
    torch.testing.assert_close(consistency(noisy, CLEAN, timestep), expected)


@every_walk
@every_number_of_steps
def test_a_network_that_knows_the_clean_latents_brings_them_back(
    sampling: Sampling, prediction: Prediction, steps: int
) -> None:
    if sampling.solver == "euler":
        steps += 1  # it needs two
    oracle = Oracle(prediction)
    latents = walk(oracle, sampling=sampling, prediction=prediction, steps=steps)
    torch.testing.assert_close(latents[-1], CLEAN, rtol=0, atol=1e-3)
    assert len(latents) == steps
    assert len(oracle.seen) == steps
    assert all(timestep.shape == (2,) for timestep in oracle.timesteps)


@every_walk
def test_the_network_is_asked_only_when_the_next_step_is_wanted(
    sampling: Sampling, prediction: Prediction
) -> None:
    oracle = Oracle(prediction)
    steps = denoise(oracle, WARM, noise, steps=4, sampling=sampling, prediction=prediction)
    for asked in range(1, 5):
        next(steps)
        assert len(oracle.seen) == asked


def test_eulers_walk_is_straight_from_the_noise_to_the_clean_latents() -> None:
    _, sigmas = euler_table(25)
    latents = walk(Oracle("epsilon"), sampling=EULER, prediction="epsilon", steps=25)
    for after, each in enumerate(latents, start=1):
        way_left = sigmas[after] / sigmas[0]
        expected = way_left * (noise() * sigmas[0]) + (1 - way_left) * CLEAN
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-3)


def test_eulers_network_sees_unit_variance_at_the_timesteps_of_the_table() -> None:
    timesteps, sigmas = euler_table(25)
    oracle = Oracle("epsilon")
    latents = walk(oracle, sampling=EULER, prediction="epsilon", steps=25)
    assert [each.tolist() for each in oracle.timesteps] == [[t, t] for t in timesteps.tolist()]
    for before, sigma, seen in zip(
        [noise() * sigmas[0], *latents], sigmas, oracle.seen, strict=False
    ):
        torch.testing.assert_close(seen, before / (sigma**2 + 1).sqrt())


@every_few_step_walk
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_each_few_step_goes_to_the_clean_latents_and_back_to_the_next_level(
    sampling: Sampling, prediction: Prediction
) -> None:
    oracle = Oracle(prediction)
    latents = walk(oracle, sampling=sampling, prediction=prediction, steps=4)
    timesteps = torch.from_numpy(trailing_timesteps(4, first=sampling.first_timestep))
    assert [each.tolist() for each in oracle.timesteps] == [[t, t] for t in timesteps.tolist()]
    starts = [add_noise(WARM, noise(0), timesteps[:1].expand(2))] + [
        add_noise(CLEAN, noise(draw), timesteps[draw : draw + 1].expand(2)) for draw in (1, 2, 3)
    ]
    for expected, seen in zip(starts, oracle.seen, strict=True):
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)
    for yielded, seen in zip(latents, oracle.seen[1:], strict=False):
        assert torch.equal(yielded, seen)


def test_a_consistency_step_keeps_a_little_of_its_input_near_the_end() -> None:
    last = {}
    for solver in ("consistency", "clean"):
        sampling = Sampling(solver=solver, first_timestep=0)
        [last[solver]] = walk(Oracle("sample"), sampling=sampling, prediction="sample", steps=1)
    assert torch.equal(last["clean"], CLEAN)
    almost_warm = add_noise(WARM, noise(), torch.tensor([0, 0]))
    assert torch.equal(last["consistency"], almost_warm)


@every_few_step_walk
def test_few_steps_start_from_the_warm_latents(sampling: Sampling) -> None:
    oracle = Oracle("sample")
    low = Sampling(solver=sampling.solver, first_timestep=0)
    walk(
        oracle,
        sampling=low,
        prediction="sample",
        steps=1,
        draw_noise=lambda _: torch.zeros(SHAPE),
    )
    torch.testing.assert_close(oracle.seen[0], WARM, rtol=1e-3, atol=0)


def test_eulers_walk_starts_from_noise_alone() -> None:
    def network(latents: Tensor, timestep: Tensor) -> Tensor:
        return latents.tanh() * timestep[0] / 999

    walks = [
        walk(network, sampling=EULER, prediction="epsilon", steps=3, warm=warm)
        for warm in (WARM, CLEAN)
    ]
    for one, other in zip(*walks, strict=True):
        assert torch.equal(one, other)


@every_few_step_walk
@every_number_of_steps
def test_few_steps_draw_new_noise_for_each_step(sampling: Sampling, steps: int) -> None:
    drawn = []

    def draw(index: int) -> Tensor:
        drawn.append(index)
        return noise(index)

    walk(Oracle("sample"), sampling=sampling, prediction="sample", steps=steps, draw_noise=draw)
    assert drawn == list(range(steps))


def test_eulers_walk_draws_noise_once() -> None:
    drawn = []

    def draw(index: int) -> Tensor:
        drawn.append(index)
        return noise(index)

    walk(Oracle("epsilon"), sampling=EULER, prediction="epsilon", steps=4, draw_noise=draw)
    assert drawn == [0]


@pytest.mark.parametrize(("sampling", "prediction"), WALKS)
def test_warm_latents_are_left_as_they_are(sampling: Sampling, prediction: Prediction) -> None:
    warm = WARM.clone()
    walk(Oracle(prediction), sampling=sampling, prediction=prediction, steps=2, warm=warm)
    assert torch.equal(warm, WARM)
