"""Make what is shipped of a trained `tiny`: python -m mimaface.training.export.

Three files: the weights in half precision and, beside them, what a processor runs
(`mimaface.frame_generator`): MIA and the denoiser as a graph in int8, and the source encoder as one
in float32. How far the denoiser's tensors reach is read off the built-in portraits, performing the
scripted motion.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from mimaface.animate import animate, encode_source
from mimaface.config import CONFIGS, to_json
from mimaface.errors import WeightsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.frame_generator import INPUTS, FrameGenerator, Inputs, Networks
from mimaface.generator import Generator
from mimaface.int8 import (
    CORRECTION,
    FRAME_SUFFIX,
    SOURCE_INPUTS,
    SOURCE_SUFFIX,
    TOKENS,
    WEIGHTS_KEY,
    Int8Networks,
    sha256,
)
from mimaface.model import Model
from mimaface.native_logs import hide_native_logs
from mimaface.photo import built_in_portraits
from mimaface.training.graphs import TorchNetworks
from mimaface.types import ClipRequest, Floats, Pixels
from mimaface.weight_notes import CONFIG_KEY, read_notes
from mimaface.weights import read, save
from mimaface.whole_file import whole_file

OPSET: Final = 18
FRAMES: Final = 24  # of each portrait, to calibrate
EVERY: Final = 5  # frames of the scripted motion, so that all of it is seen


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two models' pixels are apart, in levels of 255."""

    mean: float
    most: int


def ship(weights: Sequence[Path], output: Path, *, frames: int = FRAMES) -> None:
    """Write what is shipped of trained weights.

    The mean of several weights is as good as the best of them, and steadier where training began
    from the same ones (M. Wortsman et al., Model soups, arXiv 2203.05482).

    Args:
        weights: weight files of a model that `CONFIGS` holds; their mean is shipped.
        output: the weights in half precision; the graphs go beside it.
        frames: of each portrait, to calibrate.

    Raises:
        WeightsError: the weights cannot be read, or are of other networks than their name's.
        UnwritableMediaError: a file cannot be written there.
    """
    generators = [read(path) for path in weights]
    generator, config = generators[-1], CONFIGS[generators[-1].config.name]
    for path, each in zip(weights, generators, strict=True):
        for part in ("denoiser", "mia", "encoder", "autoencoder", "prediction"):
            if getattr(each.config, part) != getattr(config, part):
                raise WeightsError(
                    f"{path} has another {part} than the model {config.name} has now"
                )
    generator.config = config
    states = [each.state_dict() for each in generators]
    generator.load_state_dict(
        {
            name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
            for name, value in states[-1].items()
        }
    )
    save(generator, output, dtype=torch.float16, notes=read_notes(weights[-1]))
    generator = read(output)
    generator.place(torch.device("cpu"), torch.float32)
    export(generator, output, frames=frames)


def export(generator: Generator, weights: Path, *, frames: int) -> None:
    """Write the graphs of a generator beside its weights.

    Args:
        generator: its MIA must be the paper's, its denoiser residual and normalise by BatchNorm.
        weights: the file that it was read from.
        frames: of each portrait, to calibrate.
    """
    recorder = _Recorder(TorchNetworks(generator))
    for _ in roll_out(
        FrameGenerator(generator.config, recorder),
        frames=frames,
        steps=list(generator.config.samplings),
    ):
        pass
    props = {CONFIG_KEY: to_json(generator.config), WEIGHTS_KEY: sha256(weights)}
    with TemporaryDirectory() as folder:
        exact, prepared, int8 = (Path(folder) / name for name in ("exact", "prepared", "int8"))
        source = [torch.from_numpy(recorder.source)]
        _trace(recorder.networks.source, source, SOURCE_INPUTS, TOKENS, exact)
        _write(exact, weights.with_suffix(SOURCE_SUFFIX), props)
        frame = [torch.from_numpy(recorder.inputs[0][name]) for name in INPUTS]
        _trace(recorder.networks.frame, frame, INPUTS, CORRECTION, exact)
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph
        quantize_static(
            prepared,
            int8,
            _Replay(recorder.inputs),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=[*_modulations(nodes), *_attentions(nodes)],
            per_channel=True,
            reduce_range=True,  # older processors add products of whole bytes in too few bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Their outputs go into sums, norms and softmaxes of floats.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        _write(int8, weights.with_suffix(FRAME_SUFFIX), props)


def roll_out(
    generator: Generator | FrameGenerator, *, frames: int, steps: Sequence[int]
) -> Iterator[Pixels]:
    """Yield uint8 [H, W, 3], frame by frame, of the portraits performing the scripted motion.

    Each frame is carried to the next one; the numbers of steps take turns.
    """
    model = Model(config=generator.config, generator=generator)
    script = scripted_motion(EVERY * frames)[::EVERY]
    for photo in built_in_portraits():
        appearance, ica = encode_source(model, photo), None
        for row, count in zip(range(frames), cycle(steps), strict=False):
            request = ClipRequest(
                appearance=appearance, motion=script[row : row + 1], ica=ica, steps=count
            )
            [clip] = animate(model, [request])
            ica = clip.ica
            yield clip.pixels[0]


def compare(generator: Generator, networks: Networks, *, frames: int, steps: int) -> Difference:
    """Return how far a generator's roll-out is from that of networks that are like its own."""
    own, other = (
        np.stack(list(roll_out(each, frames=frames, steps=[steps])))
        for each in (generator, FrameGenerator(generator.config, networks))
    )
    apart = np.abs(own.astype(np.int16) - other)
    return Difference(mean=float(apart.mean()), most=int(apart.max()))


class _Recorder:
    # Remembers what networks are asked.
    def __init__(self, networks: TorchNetworks) -> None:
        self.networks = networks
        self.inputs: list[Inputs] = []

    def encode(self, source: Pixels) -> Floats:
        self.source = source
        return self.networks.encode(source)

    def correct(self, inputs: Inputs) -> Floats:
        self.inputs.append(inputs)
        return self.networks.correct(inputs)


def _trace(
    networks: nn.Module, example: Sequence[Tensor], inputs: Sequence[str], output: str, path: Path
) -> None:
    with warnings.catch_warnings():
        # Sizes become constants, as they should; the exporter's successor wants another package.
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)  # its one operator is unknown to ONNX
        try:
            torch.onnx.export(
                networks,
                tuple(example),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[output],
            )
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def _write(graph: Path, path: Path, props: dict[str, str]) -> None:
    model = onnx.load(graph)
    onnx.helper.set_model_props(model, props)
    with whole_file(path) as partial:
        partial.write_bytes(model.SerializeToString())


class _Replay(CalibrationDataReader):  # type: ignore[misc] # its package is not typed
    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._rest = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._rest, None)


def _modulations(graph: Any) -> list[str]:
    # MIA: it is small, and its tokens are read at every level.
    return [node.name for node in graph.node if node.name.startswith("/mia")]


def _attentions(graph: Any) -> list[str]:
    # The products without weights: queries with keys, and their softmax with values.
    weights = {each.name for each in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and weights.isdisjoint(node.input)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all files, and how far int8 is from float32 as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m mimaface.training.export", description="Make what is shipped of a model."
    )
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="what training made; the mean counts"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the .safetensors; the graphs go beside it",
    )
    args = parser.parse_args(arguments)
    ship(args.weights, args.output)
    generator = read(args.output)
    generator.place(torch.device("cpu"), torch.float32)
    networks = Int8Networks(args.output, threads=1)
    difference = compare(generator, networks, frames=FRAMES, steps=1)
    sys.stdout.write(json.dumps(asdict(difference)) + "\n")


if __name__ == "__main__":
    hide_native_logs()
    main()
