"""Weight files: safetensors with the model's configuration in the metadata.

A file holds everything its model needs. Loading is strict: every tensor lands, or one error names
all that do not. Files of the official release are read by `mimaface.official`, to be stored here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mimaface.bfm import BfmModel
from mimaface.config import AttentionKernel, ModelConfig, to_json
from mimaface.errors import UnwritableMediaError, WeightsError
from mimaface.generator import Generator
from mimaface.stand_in_face import stand_in
from mimaface.weight_notes import CONFIG_KEY, read_config
from mimaface.whole_file import naming_errors, whole_file

State = Mapping[str, Tensor]

FACE_MODEL: Final = "face_model."  # prefix of the face model's arrays


def save(
    generator: Generator,
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a weight file, whole or not at all.

    Args:
        generator: what is written.
        path: where; a file there is replaced.
        dtype: the precision of the networks in the file, if not their own. The face model keeps
            its own, and `read` brings all back to float32.
        notes: further metadata, as how the weights were made; `read` does not look at it.

    Raises:
        UnwritableMediaError: it cannot be written there.
        WeightsError: some weights are too large for the precision; it names all of them.
    """
    state, too_large = {}, []
    for key, tensor in generator.state_dict().items():
        stored = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        if stored is not tensor and not torch.equal(stored.isfinite(), tensor.isfinite()):
            too_large.append(key)
        state[key] = stored.contiguous()
    if too_large:
        raise WeightsError(
            f"{path} cannot hold {', '.join(too_large)} in {str(dtype).removeprefix('torch.')}: "
            "choose bfloat16 or float32"
        )
    if generator.face_model is not None:
        for field in fields(generator.face_model):
            array = np.ascontiguousarray(getattr(generator.face_model, field.name))
            state[FACE_MODEL + field.name] = torch.from_numpy(array)
    with whole_file(path) as partial, naming_errors(path):
        try:
            metadata = {**(notes or {}), CONFIG_KEY: to_json(generator.config)}
            save_file(state, partial, metadata=metadata)
        except SafetensorError as error:  # of a full disk, too
            raise UnwritableMediaError(f"{path} cannot be written: {error}") from error


def read(path: Path, *, attention: AttentionKernel = "sdpa") -> Generator:
    """Read a weight file.

    Raises:
        WeightsError: it is missing, damaged, not ours or does not fit its own configuration.
    """
    config = read_config(path)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    face_model = {
        key.removeprefix(FACE_MODEL): state.pop(key).numpy()
        for key in list(state)
        if key.startswith(FACE_MODEL)
    }
    generator = on_meta(config, attention=attention)
    problems = fill(generator, state, name="it")
    if config.condition == "bfm":
        lacking = {field.name for field in fields(BfmModel)} - face_model.keys()
        problems += problem("it", "lacks of the face model", lacking)
    refuse(problems, path)
    if face_model:
        try:
            generator.face_model = BfmModel(**face_model)
        except ValueError as error:
            raise WeightsError(f"{path} holds a damaged face model: {error}") from error
    return generator


def randomize(
    config: ModelConfig, *, seed: int = 0, attention: AttentionKernel = "sdpa"
) -> Generator:
    """Return a generator that was never trained, to measure speed and to test.

    Where the condition is the official face model's render, a stand-in of its size is rendered.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(config, attention=attention)
    if config.condition == "bfm":
        generator.face_model = stand_in(subdivisions=3)
    return generator


def on_meta(config: ModelConfig, *, attention: AttentionKernel = "sdpa") -> Generator:
    """Return a generator without memory for its weights, to be filled."""
    with torch.device("meta"):
        return Generator(config, attention=attention)


def fill(part: nn.Module, state: State, *, name: str) -> list[str]:
    """Give a module its tensors, without a copy; return what does not fit, nothing if all does.

    A module on the meta device becomes real. Tensors take the module's precision.
    """
    wanted = part.state_dict()
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems = [
        *problem(name, "lacks", wanted.keys() - state.keys()),
        *problem(name, "has no place for", state.keys() - wanted.keys()),
        *problem(name, "has of a wrong shape", misshaped),
    ]
    if not problems:
        typed = {key: tensor.to(wanted[key].dtype) for key, tensor in state.items()}
        part.load_state_dict(typed, strict=True, assign=True)
    return problems


def problem(name: str, what: str, tensors: Iterable[str]) -> list[str]:
    """Return what is wrong with some tensors, in words; nothing if there are none."""
    listed = sorted(tensors)
    return [f"{name} {what} {', '.join(listed)}"] if listed else []


def refuse(problems: Sequence[str], path: Path) -> None:
    """Raise all problems as one WeightsError, if there are any."""
    if problems:
        raise WeightsError(f"{path} does not fit: {'; '.join(problems)}")
