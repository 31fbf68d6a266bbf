"""Teacher: the generator learns to see through noise of every level, from single frames to clips.

A row of a batch is the true frame with noise, or, at the levels where the few-step walks start, the
frame that such a walk would start from: the source or the previous frame. With half of the later
rows the previous frame is carried. Whoever runs it names the data; nothing here makes any.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor

from mimaface.config import CONFIGS, TRAIN_TIMESTEPS, ModelConfig, trailing_timesteps
from mimaface.denoiser import predict
from mimaface.errors import UntrainableError
from mimaface.schedule import add_noise
from mimaface.training.batches import Batch, Batches, BatchOptions, Curriculum
from mimaface.training.carried import CARRY_NOISE, carry_rows, draw, warm_rows
from mimaface.training.checkpoint import Learner
from mimaface.training.data import ClipPlace, index_clips, read_clip
from mimaface.training.loop import Losses, MakeSheet, fit, make_average, make_optimizer, seeded
from mimaface.training.losses import (
    IdentityBank,
    added_loss,
    identity_loss,
    sample_loss,
    temporal_loss,
)
from mimaface.training.networks import (
    LossWeights,
    batch_weights,
    check_trainable,
    context,
    decode,
    encode,
    make_sheet,
    picture_losses,
    source_tokens,
    zero_output,
)
from mimaface.training.options import LoopOptions
from mimaface.weights import randomize

HELD_OUT: Final = 8  # clips that are only looked at, where there are four times as many
SHEET_FRAMES: Final = 4  # of a roll-out on the sample sheet
NOISE, ROWS = range(2)  # what a step's generators are for


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LoopOptions):
    """Options of the teacher.

    Attributes:
        image_share: share of the steps, the first ones, with single frames and nothing carried.
        carry_share: how often a row of a clip is given the previous frame.
        walk_share: how often a row is at a level of the few-step walks, not at any.
        warm_share: how often a row at a walk's first level starts where the walk would. The true
            frame with noise there, which no walk ever has, teaches to copy what ought not to be.
        weights: of the losses.
    """

    image_share: float = 0.4
    carry_share: float = 0.5
    walk_share: float = 0.8
    warm_share: float = 0.9
    weights: LossWeights = LossWeights()  # noqa: RUF009, it is frozen

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_share", "carry_share", "walk_share", "warm_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, found {getattr(self, name)}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train the embedded model as the command line says."""
    names = {field.name for field in fields(TrainOptions)}
    try:
        options = TrainOptions(**{k: v for k, v in vars(args).items() if k in names})
    except ValueError as error:
        args.usage_error(str(error))
        raise
    return train(CONFIGS["tiny"], options)


def train(config: ModelConfig, options: TrainOptions) -> dict[str, Any]:
    """Train a model from nothing, or from the output folder's newest checkpoint.

    Raises:
        UnreadableMediaError: the data are missing or damaged.
        UntrainableError: this kind of model cannot be trained here, or the data do not fit it.
    """
    check_trainable(config)
    places, shown = split_clips(options.data, config)
    accelerator = Accelerator(mixed_precision=options.precision)
    learner = new_learner(config, options, accelerator.device)
    image_steps = round(options.image_share * options.steps)
    images = BatchOptions(size=options.batch, frames=1, seed=options.seed, crop_px=config.square_px)
    batches = Curriculum(
        places, [(image_steps, images), (options.steps, replace(images, frames=2))]
    )

    def step(number: int) -> Losses:
        batch = batches[number].to(accelerator.device)
        return take_step(learner, options, accelerator, batch, number)

    try:
        sheet = sheet_maker(learner, shown, accelerator.device)
        return fit(learner, options, accelerator, step, sheet, data=notes_of(places))
    finally:
        batches.close()


def take_step(
    learner: Learner, options: TrainOptions, accelerator: Accelerator, batch: Batch, step: int
) -> Losses:
    """Make the gradients of one step of the teacher, and remember its people."""
    generator = learner.generator.train()
    learner.averaged.eval()
    rows, noise = (seeded(options.seed, step, purpose) for purpose in (ROWS, NOISE))
    source, latents = encode(generator, batch.source_crop), encode(generator, batch.target)
    render = encode(generator, batch.render)[:, -1:]
    clean, previous = latents[:, -1:], latents[:, :1]  # [B, 1, C, h, w]; the same in single frames
    is_clip = latents.shape[1] > 1

    count = len(clean)
    given = (torch.rand(count, generator=rows) < (options.carry_share if is_clip else 0)).to(
        clean.device
    )
    carried = previous + CARRY_NOISE * draw(noise, like=previous)
    timestep, is_start = draw_timesteps(
        generator.config, count, rows, walk_share=options.walk_share
    )
    is_warm = is_start & (torch.rand(count, generator=rows) < options.warm_share)
    start = torch.where(
        rearrange(is_warm.to(clean.device), "b -> b 1 1 1 1"),
        warm_rows(carried, source, given=given, frames=1),
        clean,
    )
    timestep = timestep.to(clean.device)
    noisy = add_noise(start, draw(noise, like=clean), timestep)

    with accelerator.autocast():
        everyone = source_tokens(generator, torch.cat([batch.source, batch.other]))
        tokens, others = everyone.chunk(2)
        made, correction = predict(
            generator.denoiser,
            noisy,
            timestep,
            condition=torch.cat([render, carry_rows(carried, render, given=given)], dim=2),
            tokens=context(generator, tokens, batch.signals[:, -1:]),
            guidance=1.0,
        )
    assert correction is not None, "the teacher is residual"
    images, target = decode(generator, made.float()), batch.target[:, -1:]
    counts = batch_weights(batch)[:, -1:]
    losses = {
        "sample": sample_loss(made.float(), clean),
        "added": added_loss(correction),
        **picture_losses(images, target, counts, learner.averaged, accelerator),
        "identity": identity_loss(tokens[:, 0], others[:, 0], batch.person, learner.bank),
    }
    if is_clip:
        before = batch.target[:, :1]
        losses["temporal"] = temporal_loss(
            torch.cat([before, images], dim=1),
            torch.cat([before, target], dim=1),
            counts * rearrange(given, "b -> b 1 1 1 1"),
        )
    total = options.weights.total(losses)
    accelerator.backward(total)
    learner.bank = learner.bank.remember(others[:, 0], batch.person)
    return {"loss": total.detach(), **{name: each.detach() for name, each in losses.items()}}


def draw_timesteps(
    config: ModelConfig, count: int, rows: torch.Generator, *, walk_share: float
) -> tuple[Tensor, Tensor]:
    """Return timesteps [count], a share of them from the few-step walks, and where one starts."""
    walks = [
        torch.from_numpy(trailing_timesteps(steps, first=sampling.first_timestep))
        for steps, sampling in config.samplings.items()
    ]
    deployed = torch.cat(walks)
    starts = torch.cat([torch.arange(len(each)) == 0 for each in walks])
    chosen = torch.randint(len(deployed), (count,), generator=rows)
    anywhere = torch.randint(TRAIN_TIMESTEPS, (count,), generator=rows)
    is_deployed = torch.rand(count, generator=rows) < walk_share
    timestep = torch.where(is_deployed, deployed[chosen].long(), anywhere)
    return timestep, is_deployed & starts[chosen]


def split_clips(
    folder: Path, config: ModelConfig
) -> tuple[Sequence[ClipPlace], Sequence[ClipPlace]]:
    """Find the clips to train on and those to show on sample sheets.

    Raises:
        UnreadableMediaError: the data are missing or damaged.
        UntrainableError: their pictures are not of the model's size.
    """
    places = index_clips(folder)
    if places[0].size_px != config.working_px:
        raise UntrainableError(
            f"{folder} has pictures of {places[0].size_px} pixels, "
            f"{config.name} works on {config.working_px}"
        )
    if len(places) < 4 * HELD_OUT:
        return places, places
    return places[:-HELD_OUT], places[-HELD_OUT:]


def notes_of(places: Sequence[ClipPlace]) -> dict[str, str]:
    """Return what weight files say about the clips they were trained on."""
    return {"data_seed": str(read_clip(places[0]).seed), "clips": str(len(places))}


def new_learner(config: ModelConfig, options: LoopOptions, device: torch.device) -> Learner:
    """Return a learner that has not learnt: its generator gives the condition's render back."""
    generator = randomize(config, seed=options.seed)
    zero_output(generator)
    generator.to(device)
    return Learner(
        generator=generator,
        average=make_average(generator, options.decay),
        optimizer=make_optimizer(generator, options),
        bank=IdentityBank.empty(config.mia.width),
    )


def sheet_maker(learner: Learner, shown: Sequence[ClipPlace], device: torch.device) -> MakeSheet:
    """Return what writes sample sheets of the averaged generator, always of the same windows.

    They show pictures made in one step.
    """
    frames = min(SHEET_FRAMES, *(place.frames for place in shown))
    count = min(len(shown), HELD_OUT)
    options = BatchOptions(
        size=count,
        frames=frames,
        seed=0,
        most_stride=1,
        colours=0.0,
        clips_held=count,
        windows_per_clip=1,
        crop_px=learner.generator.config.square_px,
    )
    batches = Batches(shown, options)
    batch = batches[0].to(device)
    batches.close()

    def write(path: Path) -> dict[str, float]:
        noise = torch.Generator().manual_seed(0)
        return make_sheet(learner.averaged, batch, path, steps=1, noise=noise)

    return write
