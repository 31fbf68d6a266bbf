"""What a clip takes over from the one before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mimaface.config import ICAForm
from mimaface.ica import carry, warm_start


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LIKE = noise(2, 5, 4, 3, 2)  # [B, F, C, h, w]
every_form = pytest.mark.parametrize("form", ["overlap", "hold"])


@every_form
def test_a_first_clip_is_given_nothing(form: ICAForm) -> None:
    carried = carry(None, like=LIKE, form=form)
    assert torch.equal(carried, torch.zeros(2, 5, 5, 3, 2))


def test_overlapping_frames_stand_in_their_own_places_and_the_mask_says_where() -> None:
    previous = noise(2, 3, 4, 3, 2, seed=1)
    carried = carry(previous, like=LIKE, form="overlap")
    assert carried.shape == (2, 5, 5, 3, 2)
    latents, mask = carried.split([4, 1], dim=2)
    assert torch.equal(latents[:, :3], previous)
    assert torch.equal(mask[:, :3], torch.ones(2, 3, 1, 3, 2))
    assert not carried[:, 3:].any()


def test_the_held_frame_stands_beside_every_frame() -> None:
    previous = noise(2, 1, 4, 3, 2, seed=1)
    latents, mask = carry(previous, like=LIKE, form="hold").split([4, 1], dim=2)
    for frame in range(5):
        assert torch.equal(latents[:, frame], previous[:, 0])
    assert torch.equal(mask, torch.ones(2, 5, 1, 3, 2))


def test_a_first_guess_is_the_source_in_every_frame() -> None:
    source = noise(2, 4, 3, 2, seed=2)
    warm = warm_start(None, source, frames=3)
    assert warm.shape == (2, 3, 4, 3, 2)
    for frame in range(3):
        assert torch.equal(warm[:, frame], source)


@pytest.mark.parametrize("carried_frames", [1, 3])
def test_a_later_guess_is_the_carried_latents_and_then_the_last_of_them(
    carried_frames: int,
) -> None:
    source, previous = noise(2, 4, 3, 2, seed=2), noise(2, carried_frames, 4, 3, 2, seed=1)
    warm = warm_start(previous, source, frames=5)
    assert warm.shape == LIKE.shape
    assert torch.equal(warm[:, :carried_frames], previous)
    for frame in range(carried_frames, 5):
        assert torch.equal(warm[:, frame], previous[:, -1])


@every_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_carried_latents_take_the_clips_precision(form: ICAForm, dtype: torch.dtype) -> None:
    previous = noise(2, 1, 4, 3, 2, seed=1)
    for given in (None, previous):
        assert carry(given, like=LIKE.to(dtype), form=form).dtype == dtype
    carried = carry(previous, like=LIKE.to(dtype), form=form)
    assert torch.equal(carried[:, 0, :4], previous[:, 0].to(dtype))


@every_form
def test_carried_latents_go_where_the_clip_is(form: ICAForm) -> None:
    previous = noise(2, 1, 4, 3, 2, seed=1)
    for given in (None, previous):
        assert carry(given, like=LIKE.to("meta"), form=form).device.type == "meta"


@every_form
def test_what_is_handed_in_stays_as_it_is(form: ICAForm) -> None:
    previous, like = noise(2, 1, 4, 3, 2, seed=1), LIKE.clone()
    kept = previous.clone()
    carry(previous, like=like, form=form).add_(1)
    warm_start(previous, previous[:, 0], frames=5).add_(1)
    assert torch.equal(previous, kept)
    assert torch.equal(like, LIKE)
