"""Cutting motion into clips."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mimaface.types import Appearance, Clip, ClipRequest, Cutout, MeshRender
from streaming.session import Session
from tests.fakes import absolute_motion, paint, portrait, relative_motion


def clip_for(request: ClipRequest) -> Clip:
    return paint([request])[0]


def test_first_motion_asks_for_a_clip_without_carried_state() -> None:
    request = Session(portrait(10), new_frames=1, steps=2, seed=7).push(relative_motion(0.0))
    assert request is not None
    assert request.ica is None
    assert (request.steps, request.seed) == (2, 7)
    assert list(request.motion.time_s) == [0.0]


def test_a_clip_waits_for_its_whole_chunk() -> None:
    session = Session(portrait(10), new_frames=3)
    assert session.push(relative_motion(0.0)) is None
    assert session.push(relative_motion(0.1)) is None
    request = session.push(relative_motion(0.2))
    assert request is not None
    assert list(request.motion.time_s) == [0.0, 0.1, 0.2]


def with_mesh(shade: int) -> Appearance:
    mesh: Any = object()
    return replace(portrait(shade), mesh=mesh)


def drawn(of: Appearance, shade: int) -> MeshRender:
    pixels = np.full((1, 8, 8, 3), shade, np.uint8)
    landmarks = np.zeros((1, 478, 2), np.float32)
    return MeshRender(mesh=of.mesh, pixels=pixels, coverage=pixels[..., 0], landmarks=landmarks)


def test_what_was_drawn_ahead_goes_with_the_clip() -> None:
    shown = with_mesh(10)
    session = Session(shown, new_frames=2)
    session.push(relative_motion(0.0), drawn(shown, 1))
    request = session.push(relative_motion(0.1), drawn(shown, 2))
    assert request is not None
    assert request.moved is not None
    assert list(request.moved.pixels[:, 0, 0, 0]) == [1, 2]


def test_what_was_drawn_of_another_portrait_or_in_part_is_drawn_again() -> None:
    old, new = with_mesh(10), with_mesh(20)
    session = Session(old, new_frames=2)
    session.push(relative_motion(0.0), drawn(old, 1))
    session.change_source(new)
    request = session.push(relative_motion(0.1), drawn(new, 2))
    assert request is not None
    assert request.moved is None
    with pytest.raises(ValueError, match="drawn ahead shows another portrait"):
        replace(request, moved=drawn(old, 1))


def test_frames_carry_the_times_of_their_motion() -> None:
    session = Session(portrait(10), new_frames=2)
    session.push(relative_motion(0.5))
    request = session.push(relative_motion(0.6))
    assert request is not None
    frames, due = session.complete(clip_for(request))
    assert [frame.time_s for frame in frames] == [0.5, 0.6]
    assert due is None


def test_frames_carry_the_matte_of_the_clip_and_the_background_of_the_portrait() -> None:
    background = np.full((64, 64, 3), 7, np.uint8)
    cutout = Cutout(matte=np.zeros((64, 64), np.uint8), background=background)
    session = Session(replace(portrait(10), cutout=cutout), new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    matte = np.full((1, 64, 64), 200, np.uint8)
    [frame], _ = session.complete(replace(clip_for(request), matte=matte))
    assert frame.cutout is not None
    np.testing.assert_array_equal(frame.cutout.matte, matte[0])
    assert frame.cutout.background is background


def test_a_clip_without_a_matte_gives_frames_that_cannot_be_cut_out() -> None:
    cutout = Cutout(matte=np.zeros((64, 64), np.uint8), background=np.zeros((64, 64, 3), np.uint8))
    session = Session(replace(portrait(10), cutout=cutout), new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    [frame], _ = session.complete(clip_for(request))
    assert frame.cutout is None


def test_second_clip_starts_from_the_carried_state() -> None:
    session = Session(portrait(10), new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    clip = clip_for(request)
    session.complete(clip)
    second = session.push(relative_motion(0.1))
    assert second is not None
    assert second.ica is clip.ica


def test_the_state_goes_on_through_clips_without_steps_that_bring_none() -> None:
    session = Session(portrait(10), new_frames=1, steps=2)
    request = session.push(relative_motion(0.0))
    assert request is not None
    clip = clip_for(request)
    session.steps = 0
    session.complete(clip)
    for time_s in (0.1, 0.2):
        request = session.push(relative_motion(time_s))
        assert request is not None
        assert (request.steps, request.ica) == (0, clip.ica)
        session.complete(Clip(pixels=clip.pixels, ica=None))
    session.steps = 1
    request = session.push(relative_motion(0.3))
    assert request is not None
    assert (request.steps, request.ica) == (1, clip.ica)


def test_a_state_that_a_clip_without_steps_brings_is_carried() -> None:
    session = Session(portrait(10), new_frames=1)
    first = session.push(relative_motion(0.0))
    assert first is not None
    clip = clip_for(first)
    session.complete(clip)
    second = session.push(relative_motion(0.1))
    assert second is not None
    assert second.ica is clip.ica


def test_a_clip_without_steps_of_the_old_portrait_brings_no_state() -> None:
    session = Session(portrait(10), new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    session.change_source(portrait(90))
    session.complete(clip_for(request))
    second = session.push(relative_motion(0.1))
    assert second is not None
    assert second.ica is None


def test_the_state_goes_on_from_one_size_of_the_portrait_to_the_other() -> None:
    half = portrait(10, size_px=32)
    whole = replace(portrait(10), half=half)
    session, ica = Session(whole, new_frames=1), None
    for time_s, is_half in enumerate((False, True, True, False)):
        session.is_half = is_half
        request = session.push(relative_motion(time_s))
        assert request is not None
        assert request.appearance is (half if is_half else whole)
        assert request.ica is ica
        clip = clip_for(request)
        ica = clip.ica
        frames, _ = session.complete(clip)
        assert frames[0].pixels.shape == request.appearance.source.shape
    session.change_source(portrait(90))
    request = session.push(relative_motion(9.0))
    assert request is not None
    assert request.ica is None


def test_a_portrait_that_has_no_smaller_size_stays_as_it_is() -> None:
    session = Session(portrait(10), new_frames=1)
    session.is_half = True
    request = session.push(relative_motion(0.0))
    assert request is not None
    assert request.appearance.source.shape == (64, 64, 3)


def test_one_clip_is_in_flight_and_the_newest_motion_wins() -> None:
    session = Session(portrait(10), new_frames=2)
    session.push(relative_motion(0.0))
    request = session.push(relative_motion(0.1))
    assert request is not None
    for time_s in (0.2, 0.3, 0.4, 0.5):
        assert session.push(relative_motion(time_s)) is None
    _, due = session.complete(clip_for(request))
    assert due is not None
    assert list(due.motion.time_s) == [0.4, 0.5]
    assert session.dropped == 2


def test_motion_that_has_become_too_old_while_it_waited_is_dropped() -> None:
    session = Session(portrait(10), new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    session.push(relative_motion(0.1))
    session.drop_before(0.1)
    assert session.dropped == 0
    session.drop_before(0.11)
    assert session.complete(clip_for(request))[1] is None
    assert session.dropped == 1
    assert session.push(relative_motion(0.2)) is not None


def test_a_lost_clip_costs_one_clip_and_the_carried_state() -> None:
    session = Session(portrait(10), new_frames=1)
    first = session.push(relative_motion(0.0))
    assert first is not None
    session.complete(clip_for(first))
    session.push(relative_motion(0.1))
    session.push(relative_motion(0.2))
    due = session.fail()
    assert due is not None
    assert due.ica is None
    assert list(due.motion.time_s) == [0.2]
    assert session.failed == 1


def test_after_a_loss_without_newer_motion_the_next_push_asks_again() -> None:
    session = Session(portrait(10), new_frames=1)
    session.push(relative_motion(0.0))
    assert session.fail() is None
    request = session.push(relative_motion(0.1))
    assert request is not None
    assert request.ica is None


def test_another_portrait_is_shown_from_the_next_clip_on_without_the_old_ones_state() -> None:
    old, new = portrait(10), portrait(90)
    session = Session(old, new_frames=1)
    request = session.push(relative_motion(0.0))
    assert request is not None
    session.change_source(new)
    frames, _ = session.complete(clip_for(request))
    assert frames[0].pixels[0, 0, 0] == 11
    second = session.push(relative_motion(0.1))
    assert second is not None
    assert second.appearance is new
    assert second.ica is None


def test_a_clip_of_the_wrong_length_is_refused() -> None:
    session = Session(portrait(10), new_frames=1)
    session.push(relative_motion(0.0))
    with pytest.raises(ValueError, match="a clip of 1 frames was due, found 2"):
        session.complete(Clip(pixels=np.zeros((2, 8, 8, 3), np.uint8), ica=None))


def test_absolute_motion_is_refused() -> None:
    with pytest.raises(ValueError, match="one frame of relative motion"):
        Session(portrait(10), new_frames=1).push(absolute_motion(0.0))


def test_a_chunk_has_at_least_one_frame() -> None:
    with pytest.raises(ValueError, match="new_frames must be at least 1, found 0"):
        Session(portrait(10), new_frames=0)
