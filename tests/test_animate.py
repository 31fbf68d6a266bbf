"""Clips from requests."""

from pathlib import Path

import numpy as np
import pytest

from mimaface.animate import animate, encode_source, load
from mimaface.errors import UnsupportedStepsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.types import Appearance, ClipRequest, Motion


@pytest.fixture(scope="module")
def appearances(portraits: list[Path]) -> list[Appearance]:
    return [encode_source(load("tiny"), portrait) for portrait in portraits]


def test_a_batch_gives_what_single_requests_give(appearances: list[Appearance]) -> None:
    motion = scripted_motion(40)
    requests = [
        ClipRequest(appearance=appearance, motion=motion[at : at + 1])
        for appearance in appearances
        for at in (5, 30)
    ]
    model = load("tiny")
    together = animate(model, requests)
    for request, clip in zip(requests, together, strict=True):
        np.testing.assert_array_equal(animate(model, [request])[0].pixels, clip.pixels)


def test_a_clip_has_a_frame_for_each_frame_of_motion(appearances: list[Appearance]) -> None:
    [clip] = animate(
        load("tiny"), [ClipRequest(appearance=appearances[0], motion=scripted_motion(7))]
    )
    assert clip.pixels.shape == (7, 256, 256, 3)
    assert clip.pixels.dtype == np.uint8


def test_steps_the_model_cannot_do_are_refused(appearances: list[Appearance]) -> None:
    request = ClipRequest(appearance=appearances[0], motion=scripted_motion(1), steps=3)
    with pytest.raises(UnsupportedStepsError, match="not 3"):
        animate(load("tiny"), [request])


def test_absolute_motion_cannot_drive(appearances: list[Appearance]) -> None:
    with pytest.raises(ValueError, match="relative"):
        ClipRequest(appearance=appearances[0], motion=Motion.missing(0.0))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="'huge'"):
        load("huge")


def test_a_size_that_is_no_multiple_of_64_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        load("tiny", size_px=300)
