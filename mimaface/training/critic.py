"""A small critic of faces: patches of a picture are scored as true or made.

P. Isola et al., arXiv 1611.07004 (patches); T. Miyato et al., arXiv 1802.05957 (spectral norms,
which keep its slopes bounded without a second pass).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS: Final = (32, 64, 128)  # of the convolutions that halve the picture
SLOPE: Final = 0.2  # of a negative value


class Critic(nn.Module):
    """Scores [N, 1, h, w] of pictures [N, 3, H, W] in [-1, 1], one for each patch of 54 pixels."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        self.layers = nn.Sequential()
        for width_in, width_out in pairwise((3, *WIDTHS)):
            self.layers.append(spectral_norm(nn.Conv2d(width_in, width_out, 4, 2, padding=1)))
            self.layers.append(nn.LeakyReLU(SLOPE))
        self.layers.append(spectral_norm(nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1)))
        self.layers.append(nn.LeakyReLU(SLOPE))
        self.layers.append(spectral_norm(nn.Conv2d(WIDTHS[-1], 1, 3, padding=1)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers(pictures)
        return scores


def new_critic(*, seed: int) -> Critic:
    """Return a critic that has not learnt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Critic()
