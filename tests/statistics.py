"""Untrained generators whose norms are not all alike."""

from __future__ import annotations

import torch

from mimaface.generator import Generator


def with_statistics(generator: Generator) -> Generator:
    """Give its BatchNorms statistics as of training, all of them different."""
    noise = torch.Generator().manual_seed(0)
    for name, buffer in generator.denoiser.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=noise)
        elif name.endswith("running_mean"):
            buffer.normal_(0.0, 0.2, generator=noise)
    return generator
