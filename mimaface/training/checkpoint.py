"""What is being trained, and its checkpoints: folders of safetensors files of at most 16 MiB.

Noise and batches are functions of the seed and the step, so a step's number is all that is kept of
them. A checkpoint has its name only once it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mimaface.config import from_json, to_json
from mimaface.errors import UnwritableMediaError, WeightsError
from mimaface.generator import Generator
from mimaface.training.losses import IdentityBank
from mimaface.weights import fill, on_meta, refuse

MOST_TENSOR_BYTES: Final = 15 << 20  # of a file of 16 MiB; the rest is for its tensors' names
CHECKPOINT: Final = "step-{:07d}"
META: Final = "checkpoint.json"
KEPT: Final = 2  # checkpoints of a run; older ones are removed


@dataclass(kw_only=True)
class Learner:
    """All that training changes. One per run; it is changed in place.

    Attributes:
        generator: what is trained.
        average: the exponential average of its weights, with its own newest buffers.
        optimizer: of the generator.
        bank: people seen lately.
        critic: tells targets from outputs; None where nothing is trained against one.
        critic_optimizer: of the critic.
        step: how many steps were made, and batches taken.
    """

    generator: Generator
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    bank: IdentityBank
    critic: nn.Module | None = None
    critic_optimizer: torch.optim.Optimizer | None = None
    step: int = 0

    @property
    def averaged(self) -> Generator:
        """The average as a generator."""
        generator = self.average.module
        assert isinstance(generator, Generator), "it averages a generator"
        return generator


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint as it lies in its files."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors under a name, without it."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): each
            for key, each in self.tensors.items()
            if key.startswith(prefix)
        }


def save_checkpoint(learner: Learner, folder: Path) -> Path:
    """Write a checkpoint into a folder of them, and remove those before the last ones.

    Raises:
        UnwritableMediaError: it cannot be written.
    """
    path = folder / CHECKPOINT.format(learner.step)
    partial = path.with_name(f".{path.name}.partial")
    tensors = {
        **_under("model", learner.generator.state_dict()),
        **_under("average", learner.averaged.state_dict()),
        **_optimizer_tensors("optimizer", learner.optimizer),
        "bank.tokens": learner.bank.tokens,
        "bank.person": learner.bank.person,
    }
    if learner.critic is not None and learner.critic_optimizer is not None:
        tensors |= _under("critic", learner.critic.state_dict())
        tensors |= _optimizer_tensors("critic_optimizer", learner.critic_optimizer)
    meta = {
        "step": learner.step,
        "averaged": int(learner.average.n_averaged),
        "config": to_json(learner.generator.config),
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # Cloned, since an empty tensor or a view would be taken for another one's memory.
        save_torch_state_dict(
            {key: each.detach().cpu().clone() for key, each in tensors.items()},
            partial,
            filename_pattern="state{suffix}.safetensors",
            max_shard_size=MOST_TENSOR_BYTES,
        )
        (partial / META).write_text(json.dumps(meta))
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        for old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        raise UnwritableMediaError(f"{path} cannot be written: {error}") from error
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    return sorted(path.parent for path in folder.glob(f"step-*/{META}"))


def read_checkpoint(path: Path) -> Saved:
    """Read a checkpoint.

    Raises:
        WeightsError: it is missing or damaged.
    """
    try:
        meta = json.loads((path / META).read_text())
        tensors: dict[str, Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            tensors |= load_file(file)
        if not isinstance(meta, dict) or not {"step", "averaged", "config"} <= meta.keys():
            raise ValueError(f"{META} lacks the step, the average's or the configuration")
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a checkpoint that can be read: {error}") from error
    return Saved(tensors=tensors, meta=meta)


def resume(learner: Learner, path: Path) -> None:
    """Bring a learner to where a checkpoint was written.

    Raises:
        WeightsError: the checkpoint is missing, damaged or another model's.
    """
    saved = read_checkpoint(path)
    problems = [
        *_copy("the model", learner.generator, saved.part("model")),
        *_copy("the average", learner.averaged, saved.part("average")),
    ]
    if learner.critic is not None:
        problems += _copy("the critic", learner.critic, saved.part("critic"))
    refuse(problems, path)
    learner.average.n_averaged.fill_(int(saved.meta["averaged"]))
    _fill_optimizer(learner.optimizer, saved.part("optimizer"))
    if learner.critic_optimizer is not None:
        _fill_optimizer(learner.critic_optimizer, saved.part("critic_optimizer"))
    learner.bank = IdentityBank(**saved.part("bank"))
    learner.step = int(saved.meta["step"])


def read_average(path: Path) -> Generator:
    """Return the averaged generator of a checkpoint.

    Raises:
        WeightsError: the checkpoint is missing or damaged.
    """
    saved = read_checkpoint(path)
    generator = on_meta(from_json(saved.meta["config"]))
    refuse(fill(generator, saved.part("average"), name="the average"), path)
    return generator


def _copy(name: str, module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    # In place: the optimizer holds the module's own tensors.
    wanted = module.state_dict()
    if wanted.keys() != state.keys():
        return [f"{name} differs in {', '.join(sorted(wanted.keys() ^ state.keys()))}"]
    misshaped = sorted(key for key in wanted if wanted[key].shape != state[key].shape)
    if misshaped:
        return [f"{name} has of a wrong shape {', '.join(misshaped)}"]
    module.load_state_dict(dict(state))
    return []


def _under(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for key, tensor in state.items()}


def _optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{index}.{key}": torch.as_tensor(each)
        for index, values in optimizer.state_dict()["state"].items()
        for key, each in values.items()
    }


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
