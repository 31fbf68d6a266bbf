"""The loop that the teacher's and the student's training share.

It knows rates, averages, checkpoints, logs and time budgets, but no loss: what a step does is a
function that it is given. Everything random in a step is drawn from the seed and the step.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from math import cos, pi
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mimaface.errors import MimafaceError, UnwritableMediaError
from mimaface.training.checkpoint import Learner, checkpoints, resume, save_checkpoint
from mimaface.training.options import LoopOptions
from mimaface.weights import save

LOG: Final = "log.jsonl"
WEIGHTS: Final = "weights.safetensors"
ADAM_BETAS: Final = (0.9, 0.99)
LEAST_RATE: Final = 0.02  # of the highest, at the end of the cosine

Losses = Mapping[str, Tensor]
TakeStep = Callable[[int], Losses]  # step -> what is logged; it makes the gradients
MakeSheet = Callable[[Path], Mapping[str, float]]  # file -> what is logged


def make_optimizer(
    module: nn.Module, options: LoopOptions, *, betas: tuple[float, float] = ADAM_BETAS
) -> torch.optim.Optimizer:
    """Return AdamW; vectors, as norms and biases, do not decay."""
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [each for each in parameters if each.ndim > 1]},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=options.rate,
        betas=betas,
        weight_decay=options.weight_decay,
        fused=True,
    )


def make_average(module: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential average that forgets its first steps sooner; buffers are copied."""

    @torch.no_grad()
    def average(averaged: Any, current: Any, count: Tensor | int) -> None:
        done = float(count)
        warm = min(decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(averaged, current, 1 - warm)

    return AveragedModel(module, multi_avg_fn=average)


def rate_at(step: int, options: LoopOptions) -> float:
    """Return the learning rate of a step: it rises evenly, then falls along a cosine."""
    rising = max(round(options.warm_up * options.steps), 1)
    if step < rising:
        return options.rate * (step + 1) / rising
    share = (step - rising) / max(options.steps - rising, 1)
    return options.rate * (LEAST_RATE + (1 - LEAST_RATE) * (1 + cos(pi * min(share, 1))) / 2)


def seeded(seed: int, step: int, *purpose: int) -> torch.Generator:
    """Return a generator for one purpose of one step."""
    generator = torch.Generator()
    words = np.random.SeedSequence([seed, step, *purpose]).generate_state(2)
    return generator.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def fit(
    learner: Learner,
    options: LoopOptions,
    accelerator: Accelerator,
    take_step: TakeStep,
    make_sheet: MakeSheet,
    *,
    data: Mapping[str, str],
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """Train from the newest checkpoint of the output folder, if there is one; return a summary.

    It ends with a checkpoint and the average's weights, after all steps or the minutes. Their notes
    are what `data` says, the seed, the steps and the commit.
    """
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableMediaError(f"{options.output} cannot be made: {error}") from error
    if done := checkpoints(options.output):
        resume(learner, done[-1])
    first, start_s, commit = learner.step, clock(), _commit()
    sums: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        log = stack.enter_context((options.output / LOG).open("a"))
        board = (
            stack.enter_context(closing(_board(options.output))) if options.tensorboard else None
        )

        def write(line: Mapping[str, Any]) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()
            if board is not None:
                for name, value in line.items():
                    if isinstance(value, float):
                        board.add_scalar(name, value, line["step"])

        write({"step": first, "options": {k: str(v) for k, v in asdict(options).items()}})
        progress = stack.enter_context(_progress())
        task = progress.add_task("train", total=options.steps, completed=first, loss="")
        mark_s, mark = clock(), first
        while learner.step < options.steps:
            losses = _one_step(learner, options, accelerator, take_step)
            for name, value in losses.items():
                sums[name] += float(value)
            step, now_s = learner.step, clock()
            is_over = bool(options.minutes) and now_s - start_s >= 60 * options.minutes
            if step % options.log_every == 0 or step == options.steps or is_over:
                count = step - mark
                means = {name: value / count for name, value in sums.items()}
                ms = 1000 * (now_s - mark_s) / count / options.batch
                rate = rate_at(step - 1, options)
                write({"step": step, **means, "rate": rate, "ms_per_sample": round(ms, 2)})
                progress.update(task, completed=step, loss=f"{means['loss']:.4f} {ms:.0f} ms")
                sums.clear()
                mark_s, mark = now_s, step
            if step % options.sheet_every == 0 or step == options.steps or is_over:
                found = make_sheet(options.output / f"sheet-{step:07d}.png")
                write({"step": step, **found})
            if step % options.save_every == 0 or step == options.steps or is_over:
                save_checkpoint(learner, options.output)
            mark_s += clock() - now_s  # what sheets and checkpoints take is no step's
            if is_over:
                break
    weights = options.output / WEIGHTS
    notes = {**data, "seed": str(options.seed), "steps": str(learner.step), "commit": commit}
    save(learner.averaged, weights, dtype=torch.float16, notes=notes)
    return {
        "step": learner.step,
        "steps": options.steps,
        "seconds": round(clock() - start_s, 1),
        "weights": str(weights),
        "complete": learner.step >= options.steps,
    }


def step_optimizer(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rate: float,
    clip_norm: float,
    accelerator: Accelerator,
) -> Tensor:
    """Make one step along gradients no longer than `clip_norm`; return how long they were []."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm: Tensor = accelerator.clip_grad_norm_(module.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _one_step(
    learner: Learner, options: LoopOptions, accelerator: Accelerator, take_step: TakeStep
) -> Losses:
    losses = take_step(learner.step)
    norm = step_optimizer(
        learner.generator,
        learner.optimizer,
        rate=rate_at(learner.step, options),
        clip_norm=options.clip_norm,
        accelerator=accelerator,
    )
    if not torch.isfinite(norm):
        raise MimafaceError(
            f"the gradient of step {learner.step} is no number: go on from the last checkpoint "
            "with a lower rate"
        )
    learner.average.update_parameters(learner.generator)
    learner.step += 1
    return {**losses, "gradient_norm": norm}


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MimafaceError("--tensorboard needs its package: pip install tensorboard") from error
    return SummaryWriter(str(folder))


def _commit() -> str:
    # Of the code that is running, if it lies in a repository.
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
