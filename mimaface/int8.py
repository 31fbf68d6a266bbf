"""The embedded model's networks as graphs of ONNX Runtime.

`mimaface.training.export` makes them, `mimaface.frame_generator` uses them. MIA and denoiser are in
int8: the correction that they say meets the render in float32, so that rounding touches only what
changes. The source encoder, which runs once per portrait, is in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from mimaface.errors import WeightsError
from mimaface.frame_generator import INPUTS, Inputs
from mimaface.types import Floats, Pixels

# The graphs lie beside the weights they were made from.
FRAME_SUFFIX: Final = ".frame.onnx"
SOURCE_SUFFIX: Final = ".source.onnx"
WEIGHTS_KEY: Final = "weights"  # of their sha256 in the files' metadata
SOURCE_INPUTS: Final = ("picture",)
CORRECTION: Final = "correction"
TOKENS: Final = "tokens"


class Int8Networks:
    """`mimaface.frame_generator.Networks` of weights in int8.

    Attributes:
        side_px: of the picture that the denoiser sees.
    """

    def __init__(self, weights: Path, *, threads: int) -> None:
        """Read the graphs.

        Args:
            weights: the file beside which they lie.
            threads: of the processor. They sleep while they wait, and leave it to others.

        Raises:
            WeightsError: a graph is missing, damaged or made from other weights.
        """
        made_from = sha256(weights)

        def graph(suffix: str, inputs: Sequence[str]) -> onnxruntime.InferenceSession:
            return _read(weights.with_suffix(suffix), weights, made_from, inputs, threads)

        self._frame = graph(FRAME_SUFFIX, INPUTS)
        self._source = graph(SOURCE_SUFFIX, SOURCE_INPUTS)
        self.side_px: int = self._frame.get_inputs()[INPUTS.index("render")].shape[0]

    def encode(self, source: Pixels) -> Floats:
        """Return the tokens [L, D'] of a source [H, W, 3], the class token first."""
        tokens: Floats
        [tokens] = self._source.run([TOKENS], dict(zip(SOURCE_INPUTS, [source], strict=True)))
        return tokens

    def correct(self, inputs: Inputs) -> Floats:
        """Return what MIA and denoiser say [C + 2, h, w], settled (`correction.settle`)."""
        correction: Floats
        [correction] = self._frame.run([CORRECTION], inputs)
        return correction


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(
    path: Path, weights: Path, made_from: str, inputs: Sequence[str], threads: int
) -> Any:  # onnxruntime is not typed
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors alone; they are raised as well
    if not path.is_file():
        raise WeightsError(f"there is no graph at {path}: make it with {_COMMAND}")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise WeightsError(f"{path} cannot be read as ONNX: {error}") from error
    if session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != made_from:
        raise WeightsError(f"{path} was not made from {weights}: make it with {_COMMAND}")
    if [each.name for each in session.get_inputs()] != list(inputs):
        raise WeightsError(f"{path} is of another version: make it with {_COMMAND}")
    return session


_COMMAND: Final = "python -m mimaface.training.export"
