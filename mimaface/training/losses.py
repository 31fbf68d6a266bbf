"""What training minimises. Nothing here knows where pictures come from or how they were made.

Pictures are [N, 3, H, W] in [-1, 1]; N may be frames of several clips. Weights [N, 1, H, W] say
how much a pixel counts, and every weighted loss is a mean, so that terms can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from einops import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mimaface.correction import DISPLACEMENT
from mimaface.face_mesh import EYES, INNER_LIPS, OUTER_LIPS
from mimaface.schedule import snr

SNR_GAMMA: Final = 5.0  # T. Hang et al., Min-SNR weighting, arXiv 2303.09556
REGION_WEIGHT: Final = 4.0  # of eyes, brows and mouth; everything else counts 1,
INSIDE_WEIGHT: Final = 12.0  # but the opening of the mouth is small and says most
REGION_MARGIN: Final = 0.25  # of a region's width, around its points
CHARBONNIER: Final = 1e-3  # below this an error counts with its square
PYRAMID_LEVELS: Final = 3
TEMPERATURE: Final = 0.1  # of the contrast between people
BROWS: Final = (
    (46, 52, 53, 55, 63, 65, 66, 70, 105, 107),
    (276, 282, 283, 285, 293, 295, 296, 300, 334, 336),
)
REGIONS: Final = (
    *(((*chain(*eye), *brow), REGION_WEIGHT) for eye, brow in zip(EYES, BROWS, strict=True)),
    (tuple(chain(*OUTER_LIPS)), REGION_WEIGHT),
    (tuple(chain(*INNER_LIPS)), INSIDE_WEIGHT),
)


def min_snr_weights(timestep: Tensor) -> Tensor:
    """Return weights [B] of errors in predicted noise: 1 where noise is strong, less where weak."""
    ratio = snr(timestep)
    return ratio.clamp(max=SNR_GAMMA) / ratio


def denoising_loss(epsilon: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return the weighted mean square error [] of predicted noise.

    Args:
        epsilon: [B, F, C, h, w], predicted.
        noise: the same shape, what was added.
        timestep: [B], where.
    """
    error = reduce((epsilon - noise) ** 2, "b f c h w -> b", "mean")
    return (error * min_snr_weights(timestep)).mean()


def sample_loss(clean: Tensor, latents: Tensor) -> Tensor:
    """Return the mean square error [] of the predicted clean sample, the same at every timestep.

    In terms of predicted noise that weighs a timestep by its signal-to-noise ratio, which suits
    a walk of few steps: each ends in the picture that is shown or carried.
    """
    return F.mse_loss(clean, latents)


def added_loss(correction: Tensor) -> Tensor:
    """Return the mean absolute value [] of what a correction [B, F, C+2, h, w] adds to a render."""
    return correction[:, :, :-DISPLACEMENT].abs().mean()


def region_weights(landmarks: Tensor, *, size_px: int) -> Tensor:
    """Return how much each pixel counts, [N, 1, size_px, size_px]: eyes with brows, and the mouth.

    Args:
        landmarks: [N, V, 2], in sides of the picture; regions may lie partly or wholly outside.
        size_px: side of the picture.
    """
    centres = (torch.arange(size_px, device=landmarks.device) + 0.5) / size_px
    strongest = torch.ones(len(landmarks), size_px, size_px, device=landmarks.device)
    for region, weight in REGIONS:
        points = landmarks[:, list(region)]
        low, high = points.amin(1), points.amax(1)  # [N, 2]
        margin = REGION_MARGIN * (high - low).amax(1).clamp(min=1 / size_px)
        x, y = (
            ((centres - low[:, axis, None]) / margin[:, None] + 1).clamp(0, 1)
            * ((high[:, axis, None] - centres) / margin[:, None] + 1).clamp(0, 1)
            for axis in range(2)
        )
        strongest = torch.maximum(strongest, 1 + (weight - 1) * y[:, :, None] * x[:, None, :])
    return strongest[:, None]


def pixel_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean absolute error [], rounded off near zero so that it has a slope there."""
    distance = ((images - target) ** 2 + CHARBONNIER**2).sqrt() - CHARBONNIER
    return _mean(distance, weights)


def square_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean square error []; least at the mean of all that may be there."""
    return _mean((images - target) ** 2, weights)


def gradient_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean absolute error [] of the steps from pixel to pixel, across and down."""
    error = images - target
    return sum_of(
        _mean(error.diff(dim=axis).abs(), weights.narrow(axis, 1, weights.shape[axis] - 1)) / 2
        for axis in (2, 3)
    )


def laplacian_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean absolute error [] of the bands of a Laplacian pyramid, each counted once."""
    error, losses = images - target, []
    for _ in range(PYRAMID_LEVELS):
        coarse = F.avg_pool2d(error, 2)
        band = error - F.interpolate(coarse, scale_factor=2, mode="nearest")
        losses.append(_mean(band.abs(), weights))
        error, weights = coarse, F.avg_pool2d(weights, 2)
    return sum_of([*losses, _mean(error.abs(), weights)])


def perceptual_loss(images: Tensor, target: Tensor, convolutions: nn.Sequential) -> Tensor:
    """Return the mean distance [] of what a source encoder's convolutions see, over their stages.

    Args:
        images: [N, 3, H, W].
        target: the same shape.
        convolutions: of a `PatchEncoder`, an average that is not trained by this loss.
    """
    with torch.no_grad():
        wanted = _features(target, convolutions)
    found = _features(images, convolutions)
    return sum_of(
        (a.float() - b.float()).abs().mean() / b.float().abs().mean().clamp(min=1e-3)
        for a, b in zip(found, wanted, strict=True)
    ) / len(found)


def temporal_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean absolute error [] of the changes from frame to frame.

    Args:
        images: [B, T, 3, H, W], consecutive frames; the first may be fixed.
        target: the same shape.
        weights: [B, T - 1, 1, H, W], zero where a frame's predecessor does not count.
    """
    return _mean((images.diff(dim=1) - target.diff(dim=1)).abs(), weights)


@dataclass(frozen=True, kw_only=True)
class IdentityBank:
    """Who was seen lately: class tokens [R, D'] of people [R], the newest last."""

    tokens: Tensor
    person: Tensor

    @staticmethod
    def empty(width: int) -> IdentityBank:
        """Return a bank of nobody."""
        return IdentityBank(tokens=torch.zeros(0, width), person=torch.zeros(0, dtype=torch.long))

    def remember(self, tokens: Tensor, person: Tensor, *, most: int = 256) -> IdentityBank:
        """Return the bank with more tokens [B, D'], without the oldest beyond `most`."""
        return IdentityBank(
            tokens=torch.cat([self.tokens, tokens.detach().float().cpu()])[-most:],
            person=torch.cat([self.person, person.cpu()])[-most:],
        )


def identity_loss(source: Tensor, other: Tensor, person: Tensor, bank: IdentityBank) -> Tensor:
    """Return the InfoNCE loss []: a person's two pictures are alike, other people's are not.

    Args:
        source: [B, D'], class tokens of the source images.
        other: [B, D'], of another picture of each person.
        person: [B], who they are; pictures of the same person are never told apart.
        bank: earlier pictures, of which those of other people count.
    """
    queries = F.normalize(source.float(), dim=1)
    keys = F.normalize(torch.cat([other.float(), bank.tokens.to(other.device)]), dim=1)
    people = torch.cat([person, bank.person.to(person.device)])
    similarity = queries @ keys.T / TEMPERATURE  # [B, B + R]
    own = torch.arange(len(source), device=source.device)
    is_same = person[:, None] == people[None]
    is_same[own, own] = False  # the positive itself
    return F.cross_entropy(similarity.masked_fill(is_same, -torch.inf), own)


def critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss [] of a critic's scores of real and of made pictures, any shapes."""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def adversarial_loss(made: Tensor) -> Tensor:
    """Return what the maker of the pictures with these scores, of any shape, minimises []."""
    return -made.mean()


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum [] of scalars []."""
    return torch.stack(list(terms)).sum()


def _mean(error: Tensor, weights: Tensor) -> Tensor:
    channels = error.shape[-3]
    return (error * weights).sum() / (weights.sum() * channels).clamp(min=1)


def _features(images: Tensor, convolutions: nn.Sequential) -> list[Tensor]:
    stages, features = images, []
    for layer in convolutions:
        stages = layer(stages)
        if isinstance(layer, nn.SiLU):
            features.append(stages)
    return features
