"""The networks of a clip of one frame as a graph of ONNX Runtime, in int8.

`mimaface.training.export` makes it, `mimaface.one_frame` uses it. The correction that it says meets
the render in float32, so that rounding touches only what changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from mimaface.errors import WeightsError
from mimaface.one_frame import INPUTS, Inputs
from mimaface.types import Floats

SUFFIX: Final = ".onnx"  # the graph lies beside the weights it was made from
WEIGHTS_KEY: Final = "weights"  # of their sha256 in the file's metadata
OUTPUT: Final = "correction"


class Int8Graph:
    """Networks of `mimaface.one_frame.OneFrame`.

    Attributes:
        side_px: of the picture that they see.
    """

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
            raise WeightsError(f"there is no int8 graph at {path}: make it with {_COMMAND}")
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise WeightsError(f"{path} cannot be read as ONNX: {error}") from error
        made_from = self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY)
        if made_from != sha256(weights):
            raise WeightsError(f"{path} was not made from {weights}: make it with {_COMMAND}")
        by_name = {each.name: each for each in self._session.get_inputs()}
        if tuple(by_name) != INPUTS:
            raise WeightsError(f"{path} is of another version: make it with {_COMMAND}")
        self.side_px: int = by_name["render"].shape[0]

    def __call__(self, inputs: Inputs) -> Floats:
        """Return the correction [C + 2, h, w]."""
        correction: Floats
        [correction] = self._session.run([OUTPUT], inputs)
        return correction


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_COMMAND: Final = "python -m mimaface.training.export"
