"""Noise levels, and how they are walked down in a few steps, as pure functions.

A timestep is a level of training noise, 0..999, and may be fractional. Rows of a batch may be at
different levels: timesteps are vectors [B]. Nothing here holds state or draws noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mimaface.config import TRAIN_TIMESTEPS, Prediction, Sampling, trailing_timesteps

BETA_RANGE: Final = (0.00085, 0.012)  # Stable Diffusion's "scaled linear" noise
SIGMA_DATA: Final = 0.5  # of the consistency step's boundary, S. Luo et al., arXiv 2310.04378
TIMESTEP_SCALING: Final = 10.0

Predict = Callable[[Tensor, Tensor], Tensor]  # latents [B, ...], timestep [B] -> prediction
DrawNoise = Callable[[int], Tensor]  # index of the draw -> unit normal [B, ...]


@cache
def alphas_cumprod() -> Tensor:
    """Return the share of signal power that is left at each timestep, float32 [1000]."""
    start, end = BETA_RANGE
    betas = torch.linspace(start**0.5, end**0.5, TRAIN_TIMESTEPS, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def euler_table(steps: int) -> tuple[Tensor, Tensor]:
    """Return linearly spaced timesteps [steps], 999 to 0, and noise scales [steps + 1], the last 0.

    A scale is the standard deviation of the noise over that of the signal, interpolated between
    the training levels: Euler's method as the release builds it (T. Karras et al., arXiv
    2206.00364, in the discrete form of Stable Diffusion).
    """
    if steps < 2:
        raise ValueError(f"Euler's steps must be at least 2, found {steps}")
    levels = ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt().numpy()
    timesteps = np.linspace(0, TRAIN_TIMESTEPS - 1, steps)[::-1]
    sigmas = np.interp(timesteps, np.arange(TRAIN_TIMESTEPS), levels)
    return (
        torch.from_numpy(timesteps.astype(np.float32)),
        torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32)),
    )


def scale_input(latents: Tensor, sigma: Tensor) -> Tensor:
    """Return latents of noise scale `sigma` [] brought to unit variance, as the network wants."""
    return latents / (sigma**2 + 1).sqrt()


def euler_step(latents: Tensor, epsilon: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the latents at noise scale `sigma_next`, one step along the probability flow."""
    return latents + epsilon * (sigma_next - sigma)


def add_noise(clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return clean latents [B, ...] noised to whole timesteps [B]."""
    signal, spread = _shares(clean, timestep)
    return signal * clean + spread * noise


def predict_clean(noisy: Tensor, prediction: Tensor, timestep: Tensor, kind: Prediction) -> Tensor:
    """Return the clean latents [B, ...] that a prediction at whole timesteps [B] means."""
    if kind == "sample":
        return prediction
    signal, spread = _shares(noisy, timestep)
    return (noisy - spread * prediction) / signal


def consistency(noisy: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
    """Return the clean latents as a consistency model says: its input itself at timestep 0.

    S. Luo et al., "Latent Consistency Models", arXiv 2310.04378, section 4.1.
    """
    scaled = _column(noisy, timestep.to(noisy) * TIMESTEP_SCALING)
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    return skip * noisy + out * clean


def snr(timestep: Tensor) -> Tensor:
    """Return the signal-to-noise ratio at whole timesteps [B]."""
    share = alphas_cumprod().to(timestep.device)[timestep.long()]
    return (share.sqrt() / (1 - share).sqrt()) ** 2


def denoise(
    predict: Predict,
    warm: Tensor,
    draw_noise: DrawNoise,
    *,
    steps: int,
    sampling: Sampling,
    prediction: Prediction,
) -> Iterator[Tensor]:
    """Walk from noise to clean latents; yield the latents after each step.

    Args:
        predict: the network.
        warm: [B, ...], a first guess of the clean latents, from which the few-step walks start;
            Euler's starts from noise alone.
        draw_noise: returns the noise of the given draw; 0 is the start's.
        steps: how many.
        sampling: how.
        prediction: what the network says.
    """

    def everywhere(timestep: Tensor) -> Tensor:
        return timestep.to(warm.device).expand(len(warm))

    if sampling.solver == "euler":
        timesteps, sigmas = euler_table(steps)
        latents = draw_noise(0) * sigmas[0]
        for index, timestep in enumerate(timesteps):
            epsilon = predict(scale_input(latents, sigmas[index]), everywhere(timestep))
            latents = euler_step(latents, epsilon, sigmas[index], sigmas[index + 1])
            yield latents
        return
    timesteps = torch.from_numpy(trailing_timesteps(steps, first=sampling.first_timestep))
    latents = add_noise(warm, draw_noise(0), everywhere(timesteps[0]))
    for index, timestep in enumerate(timesteps):
        level = everywhere(timestep)
        clean = predict_clean(latents, predict(latents, level), level, prediction)
        if sampling.solver == "consistency":
            clean = consistency(latents, clean, level)
        is_last = index + 1 == len(timesteps)
        latents = (
            clean
            if is_last
            else add_noise(clean, draw_noise(index + 1), everywhere(timesteps[index + 1]))
        )
        yield latents


def _shares(latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    share = alphas_cumprod().to(latents)[timestep.long()]
    return _column(latents, share.sqrt()), _column(latents, (1 - share).sqrt())


def _column(latents: Tensor, values: Tensor) -> Tensor:
    # A value for each row of the batch, to be spread over the row.
    return rearrange(values, f"b -> b {' '.join('1' * (latents.ndim - 1))}")
