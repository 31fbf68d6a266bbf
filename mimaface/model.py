"""A model of the table, loaded: its shape and what makes its pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from mimaface.config import AUTOENCODERS, CONFIGS, AttentionKernel, Decoder, ModelConfig
from mimaface.errors import UnsupportedStepsError, WeightsError
from mimaface.frame_generator import FrameGenerator
from mimaface.weight_notes import read_config

if TYPE_CHECKING:
    from mimaface.generator import Generator

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]

ASSETS: Final = Path(__file__).parent / "assets"
MOST_THREADS: Final = 4  # of the int8 graphs; more of them wait for each other
GPU_DRIVERS: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # dxg is WSL's


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded model; it holds no state of any session.

    Attributes:
        config: its shape.
        generator: its networks, in torch or in their form for a CPU; None where only the condition
            render is drawn.
    """

    config: ModelConfig
    generator: Generator | FrameGenerator | None

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of denoising steps it can do, best first; 0 is the mesh render itself."""
        return (0,) if self.generator is None else (*self.config.samplings, 0)

    @property
    def default_steps(self) -> int:
        """The fewest denoising steps it can do, none where it has no networks."""
        return min(filter(None, self.steps), default=0)

    @property
    def precision(self) -> str | None:
        """Of what works for every clip; None without a generator."""
        if self.generator is None:
            return None
        if isinstance(self.generator, FrameGenerator):
            return "int8"
        return str(self.generator.dtype).removeprefix("torch.")

    @property
    def needs_torch(self) -> bool:
        """Whether torch makes its clips."""
        return self.generator is not None and not isinstance(self.generator, FrameGenerator)

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU makes its clips."""
        if self.generator is None or isinstance(self.generator, FrameGenerator):
            return False
        return self.generator.device.type == "cuda"

    @property
    def has_matte(self) -> bool:
        """Whether the person of every frame can be taken out of it.

        The mesh knows the outline and our generator keeps to it; one that is shown the official
        face model, without hair and shoulders, draws an outline of its own.
        """
        return self.generator is None or self.config.condition == "mesh"

    def check_steps(self, steps: int) -> None:
        """Raise an UnsupportedStepsError if the model cannot do this number of steps."""
        if steps not in self.steps:
            offered = ", ".join(str(each) for each in self.steps)
            if self.generator is None:
                reason = ": it was loaded without weights, name a file of them, or 0 steps"
            elif steps in CONFIGS[self.config.name].samplings:
                reason = ": for others its weights need a LoRA, see mimaface convert"
            else:
                reason = ""
            raise UnsupportedStepsError(
                f"model {self.config.name} does {offered} denoising steps, not {steps}{reason}"
            )


def load(
    name: str = "tiny",
    *,
    size_px: int | None = None,
    weights: Path | str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    attention: AttentionKernel = "sdpa",
    decoder: Decoder | None = None,
) -> Model:
    """Load a model.

    Args:
        name: of the model, in `CONFIGS`.
        size_px: side of the avatar, if not the model's own.
        weights: a file that `mimaface convert` or training made; None for those that come with
            the package, if the model has any there; "random" for a generator that was never
            trained. With "none" the model draws its mesh and does no denoising steps.
        device: where the generator runs; auto is the GPU if there is one.
        precision: of what works for every clip. auto is bfloat16 on a GPU, and on a CPU int8
            where graphs of the networks lie beside the weights (`mimaface.int8`), else float32.
        attention: kernel of the spatial attentions; xformers is an optional package for GPUs.
        decoder: of a generator that was never trained; files hold their own.

    Raises:
        ValueError: an argument is not one of its choices, or does not go with the others or with
            this machine.
        WeightsError: the weights cannot be read, are another model's or do not fit into memory.
    """
    _check_choice("model", name, tuple(CONFIGS))
    _check_choice("device", device, get_args(Device))
    _check_choice("precision", precision, get_args(Precision))
    _check_choice("attention", attention, get_args(AttentionKernel))
    config = _resized(CONFIGS[name], size_px)
    if decoder is not None:
        _check_choice("decoder", decoder, tuple(AUTOENCODERS))
        if weights != "random" or config.autoencoder.kind not in AUTOENCODERS:
            raise ValueError("decoder is for untrained weights of a model of latents")
        config = replace(config, autoencoder=AUTOENCODERS[decoder])
    if weights is None:
        weights = built_in_weights(name) or "none"
    file = None if weights in ("random", "none") else Path(weights)
    if weights == "none" and device != "cuda":
        return Model(config=config, generator=None)
    if device == "auto":
        device = "cuda" if _find_gpu() else "cpu"
    elif device == "cuda" and not _find_gpu():
        raise ValueError("there is no GPU that this torch can use: choose device 'cpu'")
    if device == "cpu" and attention == "xformers":
        raise ValueError("xformers has kernels for GPUs only: choose attention 'sdpa'")
    if weights == "none":
        return Model(config=config, generator=None)
    if precision == "int8" and (device != "cpu" or weights == "random"):
        raise ValueError("int8 is a form of trained weights for the CPU: choose float32")
    if file is not None:
        config = _resized(read_config(file), size_px)
        if config.name != name:
            raise WeightsError(f"{file} holds the model {config.name}, not {name}")
        if device == "cpu" and precision in ("auto", "int8"):
            in_int8 = _read_int8(config, file, is_wanted=precision == "int8")
            if in_int8 is not None:
                return Model(config=config, generator=in_int8)
    return Model(config=config, generator=_read_torch(config, file, device, precision, attention))


def built_in_weights(name: str) -> Path | None:
    """Return the weights of a model that come with the package, None if it has none there."""
    path = ASSETS / f"{name}.safetensors"
    return path if path.is_file() else None


def _find_gpu() -> bool:
    # To import torch takes seconds: it is asked only where there is a GPU's driver.
    if sys.platform == "linux" and not any(path.exists() for path in GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def _read_int8(config: ModelConfig, weights: Path, *, is_wanted: bool) -> FrameGenerator | None:
    # With the graphs beside the weights, where they fit the size of the pictures.
    from mimaface.int8 import FRAME_SUFFIX, Int8Networks

    if not is_wanted and not weights.with_suffix(FRAME_SUFFIX).is_file():
        return None
    # A core stays free for tracking and encoding.
    threads = max((os.cpu_count() or 1) - 1, 1)
    networks = Int8Networks(weights, threads=min(threads, MOST_THREADS))
    if networks.side_px == config.square_px:
        return FrameGenerator(config, networks)
    if is_wanted:
        raise ValueError(
            f"the int8 graph works on {networks.side_px} pixels: choose precision 'float32' for an "
            f"avatar of {config.size_px}"
        )
    return None


def _read_torch(
    config: ModelConfig,
    weights: Path | None,
    device: Device,
    precision: Precision,
    attention: AttentionKernel,
) -> Generator:
    # torch and diffusers take seconds to import; neither a mesh nor int8 needs them.
    import torch

    from mimaface.weights import randomize, read

    if weights is None:  # never trained
        generator = randomize(config, attention=attention)
    else:
        generator = read(weights, attention=attention)
        generator.config = config
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if precision != "auto":
        dtype = getattr(torch, precision)
    try:
        generator.place(torch.device(device), dtype)
    except torch.OutOfMemoryError as error:
        raise WeightsError(
            f"model {config.name} does not fit into the GPU's memory: choose a lower precision, or "
            "device 'cpu'"
        ) from error
    return generator


def _check_choice(what: str, found: str, choices: Sequence[str]) -> None:
    if found not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, found {found!r}")


def _resized(config: ModelConfig, size_px: int | None) -> ModelConfig:
    return config if size_px is None else replace(config, size_px=size_px)
