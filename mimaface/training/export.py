"""Make what is shipped of a trained `tiny`: python -m mimaface.training.export.

Two files: the weights in half precision and, beside them, MIA and the denoiser as an int8 graph for
a CPU (`mimaface.one_frame`). The graph takes one frame of one session. Its norms are folded into
the layers beside them, and the attention over frames, of which there is one, becomes a linear
layer. How far its tensors reach is read off the built-in portraits, performing the scripted motion.
"""

from __future__ import annotations

import argparse
import copy
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
from einops import rearrange
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from mimaface.animate import Model, animate, encode_source
from mimaface.config import CONFIGS, to_json
from mimaface.correction import settle
from mimaface.denoiser import ClipBatchNorm
from mimaface.errors import WeightsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.generator import Generator
from mimaface.int8 import OUTPUT, SUFFIX, WEIGHTS_KEY, Int8Graph, sha256
from mimaface.native_logs import hide_native_logs
from mimaface.one_frame import INPUTS, Inputs, Networks, OneFrame
from mimaface.photo import built_in_portraits
from mimaface.schedule import add_noise
from mimaface.types import ClipRequest, Floats, Pixels
from mimaface.video import whole_file
from mimaface.weights import CONFIG_KEY, read, read_notes, save

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
        output: the weights in half precision; the graph goes beside it.
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
    export(generator, output.with_suffix(SUFFIX), frames=frames, weights=output)


def export(generator: Generator, path: Path, *, frames: int, weights: Path) -> None:
    """Write the int8 graph of a generator's MIA and denoiser.

    Args:
        generator: its MIA must be the paper's, its denoiser residual and normalise by BatchNorm.
        path: the file.
        frames: of each portrait, to calibrate.
        weights: the file that the generator was read from.
    """
    networks = OneFrameNetworks(generator)
    inputs = record(generator, networks, frames=frames)
    example = tuple(torch.from_numpy(inputs[0][name]) for name in INPUTS)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        exact, prepared, int8 = (Path(folder) / name for name in ("exact", "prepared", "int8"))
        # Sizes become constants, as they should; the exporter's successor wants another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            networks,
            example,
            exact,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
        )
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph
        quantize_static(
            prepared,
            int8,
            _Replay(inputs),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=[*_modulations(nodes), *_attentions(nodes)],
            per_channel=True,
            reduce_range=True,  # older processors add products of whole bytes in too few bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Their outputs go into sums, norms and softmaxes of floats.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        graph = onnx.load(int8)
    onnx.helper.set_model_props(
        graph, {CONFIG_KEY: to_json(generator.config), WEIGHTS_KEY: sha256(weights)}
    )
    with whole_file(path) as partial:
        partial.write_bytes(graph.SerializeToString())


def record(generator: Generator, networks: nn.Module, *, frames: int) -> list[Inputs]:
    """Return what `OneFrameNetworks` read while the portraits perform the scripted motion."""
    recorded: list[Inputs] = []

    def run(inputs: Inputs) -> Floats:
        recorded.append(inputs)
        return run_in_torch(networks, inputs)

    for _ in roll_out(generator, run, frames=frames, steps=list(generator.config.samplings)):
        pass
    return recorded


@torch.inference_mode()
def run_in_torch(networks: nn.Module, inputs: Inputs) -> Floats:
    """Return what `OneFrameNetworks` say, as `mimaface.one_frame` asks them."""
    correction: Floats = networks(*(torch.from_numpy(inputs[name]) for name in INPUTS)).numpy()
    return correction


def roll_out(
    generator: Generator, networks: Networks | None, *, frames: int, steps: Sequence[int]
) -> Iterator[Pixels]:
    """Yield uint8 [H, W, 3], frame by frame, of the portraits performing the scripted motion.

    Each frame is carried to the next one; the numbers of steps take turns. With networks they make
    the clips, and without the generator's own.
    """
    config = generator.config
    one_frame = None if networks is None else OneFrame(config, networks)
    model = Model(config=config, generator=generator, one_frame=one_frame)
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
    """Return how far the roll-out of networks is from that of the generator's own."""
    own, other = (
        np.stack(list(roll_out(generator, each, frames=frames, steps=[steps])))
        for each in (None, networks)
    )
    apart = np.abs(own.astype(np.int16) - other)
    return Difference(mean=float(apart.mean()), most=int(apart.max()))


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


class OneFrameNetworks(nn.Module):
    """A generator's MIA and denoiser for one frame of one session, folded."""

    def __init__(self, generator: Generator) -> None:
        """Copy those of a generator whose denoiser's norms are BatchNorms."""
        super().__init__()
        self.mia = copy.deepcopy(generator.mia)
        self.unet = fold(copy.deepcopy(generator.denoiser.unet))
        self.autoencoder = generator.autoencoder

    def forward(
        self,
        render: Tensor,
        guess: Tensor,
        previous: Tensor,
        has_previous: Tensor,
        timestep: Tensor,
        source: Tensor,
        signals: Tensor,
    ) -> Tensor:
        """Return the correction [C+2, h, w] (`mimaface.one_frame.INPUTS` says of what)."""
        images = rearrange(render.float(), "h w c -> 1 c h w") / 127.5 - 1
        latents = self.autoencoder.encode(images)
        noisy = add_noise(guess[None], torch.zeros_like(latents), timestep)
        mask = torch.ones_like(latents[:, :1]) * has_previous
        channels = torch.cat([noisy, latents, previous[None], mask], dim=1)
        nothing = signals[:0]  # the paper's form reads no more
        [tokens] = self.mia(source[None], nothing, nothing, signals[None, None])
        [said] = self.unet(channels[:, :, None], timestep, tokens, return_dict=False)
        return settle(rearrange(said, "b c f h w -> b f c h w"))[0, 0]


class OneFrameAttention(nn.Module):
    """Attention over one frame: the weight of its only value is 1, so two products are one."""

    def __init__(self, attention: Any) -> None:
        """Join the layers that make the value and the output."""
        super().__init__()
        value, out = attention.to_v, attention.to_out[0]
        assert value.bias is None, "diffusers gives values no bias"
        self.layer = nn.Linear(value.in_features, out.out_features)
        self.layer.weight.data = out.weight.data @ value.weight.data
        self.layer.bias.data = out.bias.data

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Return [h w, 1, C] of the same shape."""
        return self.layer(hidden_states)


@torch.no_grad()
def fold(unet: Any) -> nn.Module:
    """Change a network into its form for one frame, which computes the same."""
    for module in list(unet.modules()):
        name = type(module).__name__
        if name == "ResnetBlock2D":
            # The second norm follows the sum of a convolution and the embedded timestep.
            scale, shift = _affine(module.norm2)
            _scale_rows(module.conv1, scale, shift)
            _scale_rows(module.time_emb_proj, scale, torch.zeros_like(shift))
            module.norm2 = nn.Identity()
        elif name in ("Transformer2DModel", "AnimateDiffTransformer3D"):
            # Their norm precedes a linear layer, which is linear in the norm's scale and shift.
            scale, shift = _affine(module.norm)
            weight = module.proj_in.weight
            weight_rows = weight.flatten(1)
            module.proj_in.bias += weight_rows @ shift
            weight.copy_((weight_rows * scale).reshape(weight.shape))
            module.norm = nn.Identity()
        elif name == "BasicTransformerBlock" and module.pos_embed is not None:
            module.attn1 = OneFrameAttention(module.attn1)
            module.attn2 = OneFrameAttention(module.attn2)
    for name, module in list(unet.named_modules()):
        if isinstance(module, ClipBatchNorm):
            plain = nn.BatchNorm2d(module.num_features, eps=module.eps)
            plain.load_state_dict(module.state_dict())
            unet.set_submodule(name, plain)
    folded: nn.Module = unet.eval()
    return folded


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    # What a BatchNorm multiplies by and adds, [C] each.
    assert isinstance(norm, ClipBatchNorm), "only BatchNorm folds"
    assert norm.running_mean is not None, "it has statistics"
    assert norm.running_var is not None, "it has statistics"
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _scale_rows(layer: Any, scale: Tensor, shift: Tensor) -> None:
    rows = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.weight.mul_(rows)
    layer.bias.copy_(layer.bias * scale + shift)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files, and how far int8 is from float32 as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m mimaface.training.export", description="Make what is shipped of a model."
    )
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="what training made; the mean counts"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the .safetensors to ship; .onnx goes beside it"
    )
    args = parser.parse_args(arguments)
    ship(args.weights, args.output)
    generator = read(args.output)
    generator.place(torch.device("cpu"), torch.float32)
    graph = Int8Graph(args.output.with_suffix(SUFFIX), weights=args.output, threads=1)
    difference = compare(generator, graph, frames=FRAMES, steps=1)
    sys.stdout.write(json.dumps(asdict(difference)) + "\n")


if __name__ == "__main__":
    hide_native_logs()
    main()
