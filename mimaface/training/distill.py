"""Student: few steps, on its own past.

A sample is a roll-out of clips. The first starts from nothing or from the true previous frame,
each later one from the student's own last latents, as when it is shown; sometimes these are spoilt,
so that it learns to recover. Some roll-outs are one clip of as many frames. Only the last step of
a walk, and no earlier clip, gets a gradient.
Statistics of the norms stay the teacher's, so that a clip is made here as it is made later.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor

from mimaface.denoiser import Predicted
from mimaface.generator import Generator
from mimaface.training.batches import Batch, Batches, BatchOptions
from mimaface.training.carried import Past, carry_rows, first_past, spoil, warm_rows
from mimaface.training.checkpoint import META, Learner, read_average
from mimaface.training.critic import Critic, new_critic
from mimaface.training.loop import (
    Losses,
    fit,
    make_average,
    make_optimizer,
    rate_at,
    seeded,
    step_optimizer,
)
from mimaface.training.losses import (
    IdentityBank,
    added_loss,
    adversarial_loss,
    critic_loss,
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
    picture_losses,
    source_tokens,
    walk,
)
from mimaface.training.options import LoopOptions
from mimaface.training.train import notes_of, sheet_maker, split_clips
from mimaface.weights import read

CRITIC_BETAS: Final = (0.0, 0.99)
STUDENT_STEPS: Final = (1, 2)
NOISE, ROWS = range(2)  # what a step's generators are for


@dataclass(frozen=True, kw_only=True)
class DistillOptions(LoopOptions):
    """Options of the student.

    Attributes:
        teacher: weight file, or folder of a checkpoint.
        clips: R of a roll-out, of one frame each.
        clip_share: how often a roll-out is one clip of R frames instead.
        nothing_share: how often a roll-out starts from nothing.
        spoilt_share: how often what is carried is spoilt.
        critic_share: share of the steps, the first ones, without the critic.
        critic_rate: its learning rate over the student's.
        weights: of the losses.
    """

    teacher: Path
    clips: int = 3
    clip_share: float = 0.25
    nothing_share: float = 0.5
    spoilt_share: float = 0.2
    critic_share: float = 0.4
    critic_rate: float = 2.0
    weights: LossWeights = LossWeights()  # noqa: RUF009, it is frozen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips < 1:
            raise ValueError(f"clips must be at least 1, found {self.clips}")
        for name in ("clip_share", "nothing_share", "spoilt_share", "critic_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A batch as a roll-out reads it.

    Attributes:
        source: [B, C, h, w], latents of the source.
        render: [B, T, C, h, w], latents of the renders; the first frame is not made.
        target: [B, T, 3, P, P].
        counts: [B, T, 1, P, P], how much its pixels count.
        tokens: [B, T, L, D], the context.
    """

    source: Tensor
    render: Tensor
    target: Tensor
    counts: Tensor
    tokens: Tensor


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Distil a teacher as the command line says."""
    names = {field.name for field in fields(DistillOptions)}
    try:
        options = DistillOptions(**{k: v for k, v in vars(args).items() if k in names})
    except ValueError as error:
        args.usage_error(str(error))
        raise
    return distill(options)


def distill(options: DistillOptions) -> dict[str, Any]:
    """Train a student from its teacher, or from the output folder's newest checkpoint.

    Raises:
        UnreadableMediaError: the data are missing or damaged.
        WeightsError: the teacher is.
        UntrainableError: this kind of model cannot be trained here, or the data do not fit it.
    """
    teacher = options.teacher
    student = read_average(teacher) if (teacher / META).exists() else read(teacher)
    check_trainable(student.config)
    places, shown = split_clips(options.data, student.config)
    accelerator = Accelerator(mixed_precision=options.precision)
    learner = new_student(student, options, accelerator.device)
    batches = Batches(
        places,
        BatchOptions(
            size=options.batch,
            frames=options.clips + 1,
            seed=options.seed,
            crop_px=student.config.square_px,
        ),
    )

    def step(number: int) -> Losses:
        batch = batches[number].to(accelerator.device)
        return take_step(learner, options, accelerator, batch, number)

    try:
        sheet = sheet_maker(learner, shown, accelerator.device)
        return fit(learner, options, accelerator, step, sheet, data=notes_of(places))
    finally:
        batches.close()


def new_student(student: Generator, options: DistillOptions, device: torch.device) -> Learner:
    """Return a learner of a generator that was taught already, and its critic."""
    student.to(device).requires_grad_().eval()
    critic = new_critic(seed=options.seed).to(device)
    return Learner(
        generator=student,
        average=make_average(student, options.decay),
        optimizer=make_optimizer(student, options),
        bank=IdentityBank.empty(student.config.mia.width),
        critic=critic,
        critic_optimizer=make_optimizer(critic, options, betas=CRITIC_BETAS),
    )


def take_step(
    learner: Learner, options: DistillOptions, accelerator: Accelerator, batch: Batch, step: int
) -> Losses:
    """Make the gradients of one roll-out, clip by clip, and train the critic on its last one."""
    generator = learner.generator.eval()
    learner.averaged.eval()
    assert learner.critic is not None, "a student has a critic"
    learner.critic.requires_grad_(requires_grad=False)
    rows, noise = (seeded(options.seed, step, purpose) for purpose in (ROWS, NOISE))
    with accelerator.autocast():
        everyone = source_tokens(generator, torch.cat([batch.source, batch.other]))
        read, others = everyone.chunk(2)
        made_tokens = context(generator, read, batch.signals)
    identity = identity_loss(read[:, 0], others[:, 0], batch.person, learner.bank)
    learner.bank = learner.bank.remember(others[:, 0], batch.person)
    # Each clip is gone through backwards on its own; what all share is gone through at the end.
    tokens = made_tokens.detach().requires_grad_()
    rollout = Rollout(
        source=encode(generator, batch.source_crop),
        render=encode(generator, batch.render),
        target=batch.target,
        counts=batch_weights(batch),
        tokens=tokens,
    )
    is_judged = step >= options.critic_share * options.steps
    previous = encode(generator, batch.target[:, :1])
    past = first_past(previous, nothing_share=options.nothing_share, rows=rows, noise=noise)
    shown = batch.target[:, :1]  # the frame before, as it was seen
    sums: dict[str, Tensor] = {}
    frames = options.clips if torch.rand((), generator=rows) < options.clip_share else 1
    clips = [slice(start, start + frames) for start in range(1, options.clips + 1, frames)]
    for clip in clips:
        steps = STUDENT_STEPS[int(torch.randint(len(STUDENT_STEPS), (), generator=rows))]
        latents, correction = make_clip(
            generator, rollout, past, clip=clip, steps=steps, noise=noise, accelerator=accelerator
        )
        assert correction is not None, "the student is residual"
        images = decode(generator, latents)
        losses = _clip_losses(learner, rollout, images, latents, shown, past, clip, accelerator)
        losses["added"] = added_loss(correction)
        if is_judged:
            losses["adversarial"] = adversarial_loss(_opinion(learner, accelerator, images))
        total = options.weights.total(losses) / len(clips)
        accelerator.backward(total)
        for name, each in {"loss": total * len(clips), **losses}.items():
            sums[name] = sums.get(name, torch.zeros(())) + each.detach().cpu() / len(clips)
        shown = images[:, -1:].detach()
        past = spoil(
            generator.autoencoder,
            latents[:, -1:].detach(),
            spoilt_share=options.spoilt_share,
            rows=rows,
            noise=noise,
        )
    assert tokens.grad is not None, "every clip reads the context"
    # The gradient of the context, given to what made it, beside the loss of the class tokens.
    carrier = (made_tokens * tokens.grad).sum() + options.weights.identity * identity
    accelerator.backward(carrier)
    if is_judged:
        sums["critic"] = _teach_critic(learner, options, accelerator, batch.target, shown, step)
    return {**sums, "identity": identity.detach()}


def make_clip(
    generator: Generator,
    rollout: Rollout,
    past: Past,
    *,
    clip: slice,
    steps: int,
    noise: torch.Generator,
    accelerator: Accelerator,
) -> Predicted:
    """Return what is made of a clip's F frames, as the generator makes them."""
    render = rollout.render[:, clip]
    carried = carry_rows(past.latents, render, given=past.given)
    return walk(
        generator,
        warm=warm_rows(past.latents, rollout.source, given=past.given, frames=render.shape[1]),
        condition=torch.cat([render, carried], dim=2),
        tokens=rollout.tokens[:, clip],
        steps=steps,
        noise=noise,
        arithmetic=accelerator.autocast,
    )


def _clip_losses(
    learner: Learner,
    rollout: Rollout,
    images: Tensor,
    latents: Tensor,
    shown: Tensor,
    past: Past,
    clip: slice,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    target, counts = (each[:, clip] for each in (rollout.target, rollout.counts))
    before = rollout.target[:, clip.start - 1 : clip.start]
    follows = counts * rearrange(past.given, "b -> b 1 1 1 1")
    return {
        "sample": sample_loss(latents, encode(learner.generator, target)),
        **picture_losses(images, target, counts, learner.averaged, accelerator),
        "temporal": temporal_loss(
            torch.cat([shown, images], dim=1),
            torch.cat([before, target], dim=1),
            torch.cat([follows[:, :1], counts[:, 1:]], dim=1),
        ),
    }


def _opinion(learner: Learner, accelerator: Accelerator, images: Tensor) -> Tensor:
    # Scores of the last of the pictures [B, F, 3, P, P] of a clip.
    assert isinstance(learner.critic, Critic), "a student has a critic"
    with accelerator.autocast():
        return learner.critic(images[:, -1]).float()


def _teach_critic(
    learner: Learner,
    options: DistillOptions,
    accelerator: Accelerator,
    true: Tensor,
    made: Tensor,
    step: int,
) -> Tensor:
    assert learner.critic is not None, "a student has a critic"
    assert learner.critic_optimizer is not None, "and trains it"
    opinion = partial(_opinion, learner, accelerator)
    learner.critic.requires_grad_()
    loss = critic_loss(opinion(true), opinion(made))
    accelerator.backward(loss)
    step_optimizer(
        learner.critic,
        learner.critic_optimizer,
        rate=options.critic_rate * rate_at(step, options),
        clip_norm=options.clip_norm,
        accelerator=accelerator,
    )
    return loss.detach().cpu()
