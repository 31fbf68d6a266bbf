"""MIA and denoiser as a graph of ONNX Runtime, in int8 twice as fast on a CPU as in float32.

`mimaface.training.export` makes it of a residual denoiser, for clips of one frame. The correction
that it says meets the render in float32, so that rounding touches only what changes. Being one call
it needs the interpreter once, where other threads want it too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
from torch import Tensor

from mimaface.errors import WeightsError

SUFFIX: Final = ".onnx"  # the graph lies beside the weights it was made from
WEIGHTS_KEY: Final = "weights"  # of their sha256 in the file's metadata
INPUTS: Final = ("noisy", "timestep", "source", "signals")
OUTPUT: Final = "correction"


class Int8Denoiser:
    """Called as `mimaface.denoiser.Denoiser` is, with clips of one frame, but modulates itself."""

    def __init__(self, path: Path, *, weights: Path, threads: int) -> None:
        """Read a graph.

        Args:
            path: the graph.
            weights: the file that it must have been made from.
            threads: of the processor. They sleep while they wait, and leave it to others.

        Raises:
            WeightsError: it is missing, damaged or made from other weights.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors alone; they are raised as well
        if not path.is_file():
            raise WeightsError(f"there is no int8 denoiser at {path}: make it with {_COMMAND}")
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise WeightsError(f"{path} cannot be read as ONNX: {error}") from error
        made_from = self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY)
        if made_from != sha256(weights):
            raise WeightsError(f"{path} was not made from {weights}: make it with {_COMMAND}")
        noisy, *_ = self._session.get_inputs()
        self.cells: int = noisy.shape[-1]

    def __call__(
        self, noisy: Tensor, timestep: Tensor, source: Tensor, *, signals: Tensor
    ) -> Tensor:
        """Predict what corrects the render.

        Args:
            noisy: [B, 3C+1, 1, h, w]: noisy, render and carried latents, and the mask.
            timestep: [B].
            source: [B, L, D'], the source's tokens, of which MIA makes the context.
            signals: [B, 1, M], of the motion.

        Returns:
            [B, C+2, 1, h, w].
        """
        assert noisy.shape[2] == 1, "the graph has one frame"
        rows = zip(noisy[:, :, 0], timestep.float(), source, signals[:, 0], strict=True)
        corrections = [
            self._session.run(
                [OUTPUT], {name: each[None].numpy() for name, each in zip(INPUTS, row, strict=True)}
            )[0]
            for row in rows
        ]
        return torch.cat([torch.from_numpy(each) for each in corrections])[:, :, None]


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_COMMAND: Final = "python -m mimaface.training.export"
