"""The teacher's training, on a narrow model and clips of no faces."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from mimaface import weights
from mimaface.config import CONFIGS
from mimaface.errors import MimafaceError, UnreadableMediaError, UntrainableError, WeightsError
from mimaface.training import train as training
from mimaface.training.batches import Batches, BatchOptions
from mimaface.training.carried import CARRY_NOISE
from mimaface.training.checkpoint import checkpoints, read_average, save_checkpoint
from mimaface.training.data import index_clips, read_clip
from mimaface.training.loop import fit, make_average, make_optimizer, rate_at, step_optimizer
from mimaface.training.networks import encode
from mimaface.training.train import TrainOptions, draw_timesteps, new_learner, take_step, train
from tests.learning import SMALL, log_lines, random_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_shards(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture
def options(data: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        data=data,
        output=tmp_path / "run",
        steps=4,
        batch=2,
        rate=2e-3,
        precision="no",
        log_every=1,
        sheet_every=100,
        save_every=2,
    )


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(mixed_precision="no", cpu=True)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log_lines(folder, having="loss")]


def test_training_goes_on_as_if_it_had_not_stopped(options: TrainOptions, tmp_path: Path) -> None:
    whole = train(SMALL, options)
    assert whole["complete"]
    # The first piece is over before its first step ends; it has four steps and two stages in all.
    pieces = replace(options, output=tmp_path / "pieces", minutes=1e-9)
    for step in range(1, 5):
        assert train(SMALL, pieces)["step"] == step
    assert losses(pieces.output) == losses(options.output), "to the last bit"
    one, other = (read_average(checkpoints(each.output)[-1]) for each in (options, pieces))
    for (name, tensor), again in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, again), name


def test_training_starts_at_the_render_and_learns(
    options: TrainOptions, accelerator: Accelerator
) -> None:
    longer = replace(options, steps=20, image_share=1.0, rate=5e-3)
    learner = new_learner(SMALL, longer, accelerator.device)
    one = Batches(index_clips(options.data), BatchOptions(size=4, frames=1, seed=0))[0]
    before = take_step(learner, longer, accelerator, one, 0)
    true = float(((one.render - one.target) ** 2).mean())
    assert float(before["sample"]) == pytest.approx(true, rel=1e-5)

    def same(step: int) -> Any:
        return take_step(learner, longer, accelerator, one, step)

    learner.optimizer.zero_grad()
    fit(learner, longer, accelerator, same, lambda *_: {}, data={})
    found = losses(options.output)
    assert np.mean(found[-5:]) < 0.7 * found[0]


@dataclass
class Shown:
    """What a step showed the denoiser, and what it started from before the noise."""

    start: Tensor
    carried: Tensor
    mask: Tensor


def one_step(
    options: TrainOptions, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> tuple[Shown, Tensor, Tensor, Tensor]:
    """Return it for a batch of two frames, with their latents and the source's."""
    learner = new_learner(SMALL, options, accelerator.device)
    batch = Batches(index_clips(options.data), BatchOptions(size=8, frames=2, seed=0))[0]
    seen: dict[str, Tensor] = {}
    add_noise, predict = training.add_noise, training.predict

    def watched_noise(start: Tensor, *others: Any) -> Tensor:
        seen["start"] = start
        return add_noise(start, *others)

    def watched_predict(*args: Any, condition: Tensor, **others: Any) -> Any:
        seen["condition"] = condition
        return predict(*args, condition=condition, **others)

    monkeypatch.setattr(training, "add_noise", watched_noise)
    monkeypatch.setattr(training, "predict", watched_predict)
    take_step(learner, options, accelerator, batch, 0)
    frames = encode(learner.generator, batch.target)
    channels = frames.shape[2]
    shown = Shown(
        start=seen["start"],
        carried=seen["condition"][:, :, channels:-1],
        mask=seen["condition"][:, :, -1:],
    )
    return shown, frames[:, :1], frames[:, 1:], encode(learner.generator, batch.source_crop)


def test_the_teacher_is_carried_the_frame_before_and_never_the_one_it_has_to_make(
    options: TrainOptions, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = replace(options, carry_share=1.0, walk_share=1.0, warm_share=1.0)
    shown, before, true, _ = one_step(always, accelerator, monkeypatch)
    assert (before - true).abs().mean() > 1.5 * CARRY_NOISE, "they differ"
    assert (shown.carried - before).abs().mean() < CARRY_NOISE
    assert (shown.mask == 1).all()
    # Where a walk starts, it starts from what is carried; within one, from the true frame.
    is_warm = (shown.start - shown.carried).abs().flatten(1).amax(1) == 0
    is_true = (shown.start - true).abs().flatten(1).amax(1) == 0
    assert is_warm.any()
    assert (is_warm ^ is_true).all()


def test_without_a_past_the_teacher_is_carried_nothing_and_starts_from_the_source(
    options: TrainOptions, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = replace(options, carry_share=0.0, walk_share=1.0, warm_share=1.0)
    shown, _, true, source = one_step(never, accelerator, monkeypatch)
    assert not shown.carried.any()
    assert not shown.mask.any()
    is_source = (shown.start[:, 0] - source).abs().flatten(1).amax(1) == 0
    is_true = (shown.start - true).abs().flatten(1).amax(1) == 0
    assert is_source.any()
    assert (is_source ^ is_true).all()


def test_an_untrained_model_draws_its_render(
    options: TrainOptions, accelerator: Accelerator, tmp_path: Path
) -> None:
    learner = new_learner(SMALL, options, accelerator.device)
    places = index_clips(options.data)
    write = training.sheet_maker(learner, places, accelerator.device)
    figures = write(tmp_path / "sheet.png")
    assert figures["psnr"] == figures["render_psnr"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (4 * 64, 6 * 64, 3)
    np.testing.assert_array_equal(pixels[64:128], pixels[128:192])


def test_gradients_are_clipped_and_their_length_is_logged(accelerator: Accelerator) -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    (1e3 * layer(torch.ones(1, 3)).sum()).backward()
    before = [each.detach().clone() for each in layer.parameters()]
    norm = step_optimizer(layer, optimizer, rate=0.5, clip_norm=2.0, accelerator=accelerator)
    assert norm == pytest.approx(1e3 * np.sqrt(12))
    moved = [old - new for old, new in zip(before, layer.parameters(), strict=True)]
    length = torch.cat([each.detach().flatten() for each in moved]).norm()
    assert length == pytest.approx(0.5 * 2.0, rel=1e-4), "rate times the longest gradient"
    assert all(each.grad is None for each in layer.parameters())


def test_a_gradient_that_is_no_number_ends_training(
    options: TrainOptions, accelerator: Accelerator
) -> None:
    learner = new_learner(SMALL, options, accelerator.device)

    def break_it(step: int) -> dict[str, Tensor]:
        del step
        first = next(learner.generator.parameters())
        first.grad = torch.full_like(first, torch.nan)
        return {"loss": torch.zeros(())}

    with pytest.raises(MimafaceError, match="gradient of step 0 is no number"):
        fit(learner, options, accelerator, break_it, lambda *_: {}, data={})


def test_checkpoints_are_small_files_and_only_the_last_ones_are_kept(
    options: TrainOptions,
) -> None:
    train(SMALL, replace(options, save_every=1))
    kept = checkpoints(options.output)
    assert [path.name for path in kept] == ["step-0000003", "step-0000004"]
    # Full width fills several files.
    wide = options.output.with_name("wide")
    learner = new_learner(CONFIGS["tiny"], options, torch.device("cpu"))
    sizes = [
        file.stat().st_size
        for file in save_checkpoint(learner, wide).iterdir()
        if file.suffix == ".safetensors"
    ]
    assert len(sizes) > 2
    assert max(sizes) <= 16 << 20


def test_weights_hold_the_average_and_say_how_they_were_made(options: TrainOptions) -> None:
    summary = train(SMALL, replace(options, steps=2, seed=3))
    path = Path(summary["weights"])
    average, stored = read_average(checkpoints(options.output)[-1]), weights.read(path)
    for (name, tensor), found in zip(
        average.state_dict().items(), stored.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, tensor, atol=1e-3, rtol=1e-3, msg=name)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    assert (notes["seed"], notes["steps"]) == ("3", "2")
    assert notes["commit"]
    clips, clip = index_clips(options.data), read_clip(index_clips(options.data)[0])
    assert (notes["data_seed"], notes["clips"]) == (str(clip.seed), str(len(clips)))


def test_a_damaged_checkpoint_is_one_clear_error(options: TrainOptions) -> None:
    train(SMALL, replace(options, steps=1))
    [path] = checkpoints(options.output)
    file = next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{path.name} is not a checkpoint"):
        train(SMALL, options)


def test_a_checkpoint_of_another_model_is_refused(options: TrainOptions) -> None:
    train(SMALL, replace(options, steps=1))
    wider = replace(SMALL, mia=replace(SMALL.mia, layers=2))
    with pytest.raises(WeightsError, match=r"the model differs in .*mia\.modulations\.1"):
        train(wider, options)


def test_data_are_looked_at_before_the_first_step(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(UnreadableMediaError, match="no shards"):
        train(SMALL, replace(options, data=tmp_path))
    with pytest.raises(UntrainableError, match="pictures of 64 pixels, tiny works on 256"):
        train(CONFIGS["tiny"], options)
    assert not options.output.exists()


def test_models_that_cannot_be_trained_here_are_refused(options: TrainOptions) -> None:
    with pytest.raises(UntrainableError, match="residual models of a mesh"):
        train(CONFIGS["sd15"], options)


def test_a_share_of_the_timesteps_are_those_that_are_walked() -> None:
    timestep, is_start = draw_timesteps(
        SMALL, 4000, torch.Generator().manual_seed(0), walk_share=0.5
    )
    walked = torch.isin(timestep, torch.tensor([999, 749, 499, 249, 374]))
    assert 0.45 < walked.float().mean() < 0.55
    assert set(timestep[is_start].tolist()) == {999, 749, 499}
    assert 0 <= timestep.min() < 20


def test_the_rate_rises_then_falls(options: TrainOptions) -> None:
    longer = replace(options, steps=1000, warm_up=0.1, rate=1.0)
    rates = np.array([rate_at(step, longer) for step in range(1000)])
    assert rates[99] == rates.max() == 1.0
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert 0 < rates[-1] < 0.03


def test_the_average_follows_at_once_and_then_slowly() -> None:
    layer = torch.nn.BatchNorm1d(2)
    average = make_average(layer, decay=0.9)
    average.update_parameters(layer)
    torch.nn.init.constant_(layer.weight, 2.0)
    layer(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    average.update_parameters(layer)
    assert average.module.weight[0].item() == pytest.approx(1 + 9 / 11)
    assert torch.equal(average.module.running_mean, layer.running_mean), "buffers are copied"


def test_norms_do_not_decay(options: TrainOptions) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(layer, options)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays == {id(layer.weight): options.weight_decay, id(layer.bias): 0.0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"rate": 0.0}, "rate must be more than 0, found 0.0"),
        ({"precision": "fp8"}, "precision must be bf16 or no, found 'fp8'"),
        ({"carry_share": 2.0}, "carry_share must be 0 to 1, found 2.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: TrainOptions, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(options, **changed)


def test_the_command_line_tells_of_wrong_options(options: TrainOptions) -> None:
    def usage_error(message: str) -> None:
        raise SystemExit(message)

    flags = argparse.Namespace(
        data=options.data, output=options.output, steps=0, batch=2, rate=1e-3, command="train",
        usage_error=usage_error,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="steps must be at least 1"):
        training.run(flags)
