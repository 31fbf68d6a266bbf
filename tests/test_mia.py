"""Motion-identity modulation: which signal reaches which token, and that sessions never mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mimaface.config import MIAConfig
from mimaface.mia import PaperMIA, ReleasedMIA

SESSIONS, FRAMES, PATCHES = 2, 3, 256
WIDTH, SOURCE, IDENTITY, EXPRESSION = 8, 6, 9, 5
# Where each signal stands in what is handed in, in the order of the released form's first tokens.
SIGNALS = {
    "identity": ("identity", slice(0, IDENTITY)),
    "gaze": ("signals", slice(EXPRESSION + 6, EXPRESSION + 10)),
    "expression": ("signals", slice(0, EXPRESSION)),
    "texture": ("coefficients", slice(0, 80)),
    "lighting": ("coefficients", slice(80, 107)),
    "rotation": ("signals", slice(EXPRESSION, EXPRESSION + 3)),
    "translation": ("signals", slice(EXPRESSION + 3, EXPRESSION + 6)),
}
MOTION = ["expression", "rotation", "translation", "gaze"]
SINGLE = len(SIGNALS)  # tokens before the source's

Build = Callable[[], nn.Module]


class Inputs(NamedTuple):
    """What both forms read."""

    source: Tensor
    identity: Tensor
    coefficients: Tensor
    signals: Tensor


def inputs(*, seed: int = 0) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    return Inputs(
        source=torch.randn(SESSIONS, 1 + PATCHES, SOURCE, generator=random),
        identity=torch.randn(SESSIONS, IDENTITY, generator=random),
        coefficients=torch.randn(SESSIONS, 107, generator=random),
        signals=torch.randn(SESSIONS, FRAMES, EXPRESSION + 10, generator=random),
    )


def alone(each: Inputs, session: int) -> Inputs:
    return Inputs(*(values[session : session + 1] for values in each))


def moved(each: Inputs, name: str, *, session: int = 0, frame: int | None = None) -> Inputs:
    """Return inputs with one signal of one session changed, in one frame or everywhere."""
    field, where = SIGNALS[name]
    values = getattr(each, field).clone()
    if frame is None:
        values[session, ..., where] += 1
    else:
        values[session, frame, where] += 1
    return each._replace(**{field: values})


def released(*, layers: int = 2) -> ReleasedMIA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MIAConfig(
            form="released", width=WIDTH, layers=layers, heads=2, expression=EXPRESSION
        )
        mia = ReleasedMIA(config, source_width=SOURCE, identity_features=IDENTITY)
    return mia.eval().requires_grad_(requires_grad=False)


def paper(*, layers: int = 2) -> PaperMIA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MIAConfig(form="paper", width=WIDTH, layers=layers, heads=2, expression=EXPRESSION)
        mia = PaperMIA(config, source_width=SOURCE)
    return mia.eval().requires_grad_(requires_grad=False)


every_form = pytest.mark.parametrize("build", [released, paper])


@every_form
def test_a_batch_is_its_sessions_alone(build: Build) -> None:
    mia, batch = build(), inputs()
    singles = torch.cat([mia(*alone(batch, session)) for session in range(SESSIONS)])
    torch.testing.assert_close(mia(*batch), singles, atol=1e-5, rtol=0)


@every_form
@pytest.mark.parametrize("name", MOTION)
def test_one_sessions_motion_leaves_the_others_tokens_alone(build: Build, name: str) -> None:
    mia = build()
    before, after = mia(*inputs()), mia(*moved(inputs(), name, session=0))
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_the_released_form_has_a_token_for_each_signal_and_then_the_sources() -> None:
    assert released()(*inputs()).shape == (SESSIONS, FRAMES, 7 + 257, WIDTH)


def test_the_released_forms_tokens_are_their_mean_over_the_clip_in_every_frame() -> None:
    mia = released()
    tokens, per_frame = mia(*inputs()), mia.per_frame(*inputs())
    assert not torch.allclose(per_frame[:, 0], per_frame[:, 1], atol=1e-3)
    for frame in range(FRAMES):
        torch.testing.assert_close(tokens[:, frame], per_frame.sum(dim=1) / FRAMES)


@pytest.mark.parametrize(("place", "name"), list(enumerate(SIGNALS)))
def test_without_mixing_each_signal_is_the_token_in_its_place(place: int, name: str) -> None:
    mia = released(layers=0)
    before, after = mia(*inputs()), mia(*moved(inputs(), name))
    has_changed = (after[0] != before[0]).any(dim=-1)
    assert has_changed[:, place].all()
    assert has_changed.sum() == FRAMES


def test_without_mixing_the_sources_tokens_come_last_in_their_order() -> None:
    mia, batch = released(layers=0), inputs()
    source = batch.source.clone()
    source[0, 0] += torch.arange(SOURCE)
    has_changed = (mia(*batch._replace(source=source)) != mia(*batch)).any(dim=-1)
    assert has_changed[0, :, SINGLE].all()
    assert has_changed.sum() == FRAMES


@pytest.mark.parametrize("name", list(SIGNALS))
def test_mixing_brings_every_signal_to_every_token(name: str) -> None:
    mia = released()
    before, after = mia.per_frame(*inputs()), mia.per_frame(*moved(inputs(), name))
    assert (after[0] != before[0]).any(dim=-1).all()


def test_mixing_brings_the_source_to_every_token() -> None:
    mia, batch = released(), inputs()
    changed = batch._replace(source=batch.source.flip(dims=[-1]))
    assert (mia(*changed) != mia(*batch)).any(dim=-1).all()


def test_frames_are_mixed_by_the_mean_alone() -> None:
    mia = released()
    before = mia.per_frame(*inputs())
    after = mia.per_frame(*moved(inputs(), "expression", frame=0))
    assert torch.equal(after[:, 1:], before[:, 1:])
    assert not torch.equal(after[0, 0], before[0, 0])


@pytest.mark.parametrize("name", MOTION)
def test_the_papers_patches_follow_the_motion_frame_by_frame(name: str) -> None:
    mia = paper()
    before, after = mia(*inputs()), mia(*moved(inputs(), name, frame=1))
    assert before.shape == (SESSIONS, FRAMES, 1 + PATCHES, WIDTH)
    has_changed = (after != before).any(dim=-1)  # [B, F, L]
    assert has_changed[0, 1, 1:].all()
    assert has_changed.sum() == PATCHES


def test_the_papers_class_token_is_the_source_and_not_the_motion() -> None:
    mia, batch, other = paper(), inputs(), inputs(seed=1)
    before = mia(*batch)
    assert torch.equal(mia(*batch._replace(signals=other.signals))[:, :, 0], before[:, :, 0])
    source = batch.source.clone()
    source[:, 0] = other.source[:, 0]
    has_changed = (mia(*batch._replace(source=source)) != before).any(dim=-1)
    assert has_changed[:, :, 0].all()
    assert not has_changed[:, :, 1:].any(), "the patches do not read it"


def test_the_paper_reads_neither_identity_nor_coefficients() -> None:
    mia, batch = paper(), inputs()
    other = batch._replace(identity=torch.empty(SESSIONS, 0), coefficients=torch.empty(0))
    assert torch.equal(mia(*other), mia(*batch))


def test_attention_that_says_nothing_leaves_the_papers_patches_as_they_were() -> None:
    silent, batch = paper(), inputs()
    for modulation in silent.modulations:
        modulation.attention.out_proj.weight.zero_()
        modulation.attention.out_proj.bias.zero_()
    unmodulated = paper(layers=0)
    unmodulated.adapter.load_state_dict(silent.adapter.state_dict())
    assert torch.equal(silent(*batch), unmodulated(*batch))
    assert not torch.allclose(paper()(*batch), unmodulated(*batch), atol=1e-3)
