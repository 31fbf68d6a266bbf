"""Takes a part of a model's reasons away, to see what the part is worth."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mimaface.frame_generator import FrameGenerator, Inputs, Networks
from mimaface.model import Model
from mimaface.types import Floats, Pixels

if TYPE_CHECKING:
    from mimaface.mia import PaperMIA, ReleasedMIA

Zeroed = Literal["motion", "identity"]


class ZeroedMIA(nn.Module):
    """A MIA that is told nothing of the motion, or nothing of the source."""

    def __init__(self, mia: ReleasedMIA | PaperMIA, *, zeroed: Zeroed) -> None:
        """Wrap a MIA, which stays as it is."""
        super().__init__()
        self.mia = mia
        self._zeroed = zeroed

    def forward(
        self, source: Tensor, identity: Tensor, coefficients: Tensor, signals: Tensor
    ) -> Tensor:
        """Return the context tokens [B, F, L, D]; arguments are those of the MIA."""
        if self._zeroed == "motion":
            signals = torch.zeros_like(signals)
        else:
            source, identity = torch.zeros_like(source), torch.zeros_like(identity)
        tokens: Tensor = self.mia(source, identity, coefficients, signals)
        return tokens


class ZeroedNetworks:
    """The same of the networks of a `FrameGenerator`."""

    def __init__(self, networks: Networks, *, zeroed: Zeroed) -> None:
        """Wrap networks, which stay as they are."""
        self.networks = networks
        self._zeroed = "signals" if zeroed == "motion" else "source"

    def encode(self, source: Pixels) -> Floats:
        """Return the tokens of a source."""
        return self.networks.encode(source)

    def correct(self, inputs: Inputs) -> Floats:
        """Return what MIA and denoiser say."""
        nothing = np.zeros_like(inputs[self._zeroed])
        return self.networks.correct({**inputs, self._zeroed: nothing})


def without(model: Model, zeroed: Zeroed) -> Model:
    """Return a model of the same networks whose MIA is told zeros instead.

    Args:
        model: what `load` returned; it is not changed.
        zeroed: "motion" for the motion's signals, "identity" for the source's tokens and identity.

    Raises:
        ValueError: the model has no generator.
    """
    if model.generator is None:
        raise ValueError("a model without weights has no MIA to take anything from")
    if isinstance(model.generator, FrameGenerator):
        networks = ZeroedNetworks(model.generator.networks, zeroed=zeroed)
        return replace(model, generator=FrameGenerator(model.config, networks))
    generator = copy(model.generator)
    # A shallow copy shares the table of its parts; with one of its own it can be given another.
    generator._modules = dict(generator._modules)
    generator.add_module("mia", ZeroedMIA(model.generator.mia, zeroed=zeroed).eval())
    return replace(model, generator=generator)
