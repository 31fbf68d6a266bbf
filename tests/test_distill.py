"""The student's training: few steps, on its own past."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mimaface import weights
from mimaface.denoiser import Predicted
from mimaface.errors import WeightsError
from mimaface.training import distill as distillation
from mimaface.training.batches import Batch, Batches, BatchOptions
from mimaface.training.carried import Past, carry_rows, first_past, spoil, warm_rows
from mimaface.training.checkpoint import checkpoints
from mimaface.training.critic import Critic
from mimaface.training.data import index_clips
from mimaface.training.distill import DistillOptions, distill, new_student, take_step
from mimaface.training.loop import step_optimizer
from mimaface.training.networks import walk
from tests.learning import SMALL, log_lines, random_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_shards(tmp_path_factory.mktemp("distill") / "data")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    weights.save(weights.randomize(SMALL), path)
    return path


@pytest.fixture
def options(data: Path, teacher: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(
        data=data,
        teacher=teacher,
        output=tmp_path / "run",
        steps=4,
        batch=2,
        rate=1e-3,
        precision="no",
        log_every=1,
        sheet_every=100,
        save_every=1,
        critic_share=0.5,
    )


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(mixed_precision="no", cpu=True)


def one_batch(options: DistillOptions) -> Batch:
    wanted = BatchOptions(size=2, frames=options.clips + 1, seed=0)
    return Batches(index_clips(options.data), wanted)[0]


def figures(folder: Path, name: str) -> list[float]:
    return [line[name] for line in log_lines(folder, having=name)]


def test_distilling_goes_on_as_if_it_had_not_stopped(
    options: DistillOptions, tmp_path: Path
) -> None:
    distill(options)
    pieces = replace(options, output=tmp_path / "pieces", minutes=1e-9)
    for step in range(1, 5):
        assert distill(pieces)["step"] == step
    for name in ("loss", "critic", "identity", "gradient_norm"):
        assert figures(pieces.output, name) == figures(options.output, name), name
    assert len(figures(options.output, "critic")) == 2, "it joins after half of the steps"


def test_a_roll_out_goes_on_from_its_own_latents(
    options: DistillOptions, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Predicted] = []
    pasts: list[Past] = []
    make_clip = distillation.make_clip

    def watched(*args: Any, **keywords: Any) -> Predicted:
        pasts.append(args[2])
        made.append(make_clip(*args, **keywords))
        return made[-1]

    monkeypatch.setattr(distillation, "make_clip", watched)
    pure = replace(options, spoilt_share=0.0, nothing_share=1.0, clip_share=0.0)
    learner = new_student(weights.read(options.teacher), pure, accelerator.device)
    take_step(learner, pure, accelerator, one_batch(pure), 0)
    assert len(made) == pure.clips
    assert not pasts[0].given.any(), "from nothing"
    for clip, past in zip(made, pasts[1:], strict=False):
        assert past.given.all()
        assert torch.equal(past.latents, clip.latents)
        assert not past.latents.requires_grad, "no gradient goes into an earlier clip"
    made.clear()
    take_step(learner, replace(pure, clip_share=1.0), accelerator, one_batch(pure), 0)
    assert [clip.latents.shape[1] for clip in made] == [pure.clips], "one clip of all frames"


def test_only_the_last_step_of_a_walk_has_a_gradient(accelerator: Accelerator) -> None:
    generator = weights.randomize(SMALL).eval()
    noise = torch.Generator().manual_seed(0)
    warm = torch.randn(1, 1, 48, 16, 16, generator=noise).requires_grad_()
    walked = {
        steps: walk(
            generator,
            warm=warm,
            condition=torch.zeros(1, 1, 97, 16, 16),
            tokens=torch.zeros(1, 1, 17, 16),
            steps=steps,
            noise=noise,
            arithmetic=accelerator.autocast,
        ).latents
        for steps in (1, 2)
    }
    assert torch.autograd.grad(walked[1].sum(), warm)[0].abs().sum() > 0
    [through] = torch.autograd.grad(walked[2].sum(), warm, allow_unused=True)
    assert through is None, "the first step is a fixed input of the second"


def test_weights_get_gradients_in_half_precision_after_a_step_without_one() -> None:
    generator = weights.randomize(SMALL).eval()
    made = walk(
        generator,
        warm=torch.zeros(1, 1, 48, 16, 16),
        condition=torch.ones(1, 1, 97, 16, 16),
        tokens=torch.ones(1, 1, 17, 16),
        steps=2,
        noise=torch.Generator().manual_seed(0),
        arithmetic=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    made.latents.sum().backward()
    lacking = [
        name
        for name, each in generator.denoiser.named_parameters()
        if each.grad is None and ".motion_modules." not in name
    ]
    assert not lacking


def test_every_part_learns_and_the_norms_stay_the_teachers(
    options: DistillOptions, accelerator: Accelerator
) -> None:
    learner = new_student(weights.read(options.teacher), options, accelerator.device)
    before = {key: each.clone() for key, each in learner.generator.state_dict().items()}
    take_step(learner, options, accelerator, one_batch(options), 0)
    for part in (learner.generator.encoder, learner.generator.mia, learner.generator.denoiser):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
    step_optimizer(
        learner.generator, learner.optimizer, rate=1e-3, clip_norm=1.0, accelerator=accelerator
    )
    after = learner.generator.state_dict()
    assert not torch.equal(
        before["denoiser.unet.conv_out.weight"], after["denoiser.unet.conv_out.weight"]
    )
    for key in (key for key in before if "running" in key):
        assert torch.equal(before[key], after[key]), key


def test_losses_fall_on_one_batch(options: DistillOptions, accelerator: Accelerator) -> None:
    longer = replace(options, critic_share=1.0, spoilt_share=0.0)
    learner = new_student(weights.read(options.teacher), longer, accelerator.device)
    batch, found = one_batch(longer), []
    for _ in range(12):
        losses = take_step(learner, longer, accelerator, batch, 0)
        found.append(float(losses["loss"]))
        step_optimizer(
            learner.generator, learner.optimizer, rate=3e-3, clip_norm=1.0, accelerator=accelerator
        )
    assert np.mean(found[-3:]) < 0.8 * found[0]


def test_the_critic_learns_only_from_its_own_loss(
    options: DistillOptions, accelerator: Accelerator
) -> None:
    learner = new_student(weights.read(options.teacher), options, accelerator.device)
    assert learner.critic is not None
    before = [each.detach().clone() for each in learner.critic.parameters()]
    take_step(learner, options, accelerator, one_batch(options), 0)
    assert all(map(torch.equal, before, learner.critic.parameters())), "it has not joined yet"
    losses = take_step(learner, options, accelerator, one_batch(options), 2)
    assert not all(map(torch.equal, before, learner.critic.parameters()))
    assert {"adversarial", "critic"} <= losses.keys()


def test_a_checkpoint_can_be_the_teacher(options: DistillOptions, tmp_path: Path) -> None:
    distill(replace(options, steps=1))
    [teacher] = checkpoints(options.output)
    again = replace(options, teacher=teacher, output=tmp_path / "again", steps=1)
    assert distill(again)["complete"]


def test_a_missing_teacher_is_one_clear_error(options: DistillOptions, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights"):
        distill(replace(options, teacher=tmp_path / "none.safetensors"))


def test_a_first_clip_starts_from_nothing_or_from_the_true_frame() -> None:
    rows, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    true = torch.ones(400, 1, 3, 2, 2)
    past = first_past(true, nothing_share=0.5, rows=rows, noise=noise)
    assert 0.4 < past.given.float().mean() < 0.6
    assert (past.latents - true).std() == pytest.approx(0.1, rel=0.1)


def test_a_fifth_of_what_is_carried_is_spoilt_in_every_way() -> None:
    generator = weights.randomize(SMALL)
    rows, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    latents = torch.randn(500, 1, 48, 4, 4, generator=noise)
    past = spoil(generator.autoencoder, latents, spoilt_share=0.2, rows=rows, noise=noise)
    changed = (past.latents != latents).flatten(1).any(1)
    lost = ~past.given
    assert not (changed & lost).any()
    assert 0.15 < (changed | lost).float().mean() < 0.25
    assert 0.02 < lost.float().mean() < 0.06
    rolled = (past.latents == latents.roll(1, 0)).flatten(1).all(1)
    assert rolled.any(), "another person's frame"
    untouched = spoil(generator.autoencoder, latents, spoilt_share=0.0, rows=rows, noise=noise)
    assert torch.equal(untouched.latents, latents)
    assert untouched.given.all()


def test_rows_without_a_past_have_no_carried_frame_and_start_at_the_source() -> None:
    previous, source = torch.full((2, 1, 3, 2, 2), 2.0), torch.full((2, 3, 2, 2), 5.0)
    given = torch.tensor([True, False])
    carried = carry_rows(previous, torch.zeros(2, 1, 3, 2, 2), given=given)
    assert torch.equal(carried[0, 0, :, 0, 0], torch.tensor([2.0, 2.0, 2.0, 1.0]))
    assert not carried[1].any()
    warm = warm_rows(previous, source, given=given, frames=1)
    assert warm[:, 0, 0, 0, 0].tolist() == [2.0, 5.0]


def test_the_critic_is_small_and_judges_patches() -> None:
    critic = Critic().eval()
    assert sum(each.numel() for each in critic.parameters()) < 400_000
    picture = torch.zeros(1, 3, 96, 96, requires_grad=True)
    scores = critic(picture)
    assert scores.shape == (1, 1, 12, 12)
    scores[0, 0, 6, 6].backward()
    assert picture.grad is not None
    seen = picture.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [54, 54]


def test_it_runs_from_the_command_line_in_half_precision(
    options: DistillOptions, tmp_path: Path
) -> None:
    flags = {
        "--teacher": options.teacher,
        "--data": options.data,
        "--output": tmp_path / "run",
        "--steps": 1,
        "--batch": 1,
        "--clips": 1,
        "--critic-share": 0.0,
    }
    command = [sys.executable, "-W", "error", "-m", "mimaface", "distill"]
    words = [str(word) for pair in flags.items() for word in pair]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"complete": true' in done.stdout
    assert (tmp_path / "run" / "sheet-0000001.png").exists()
