"""The same portrait at half the side."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mimaface.animate import animate, encode_source
from mimaface.evaluation.scripted import scripted_motion
from mimaface.half_size import add_half
from mimaface.model import Model, load
from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion

SIZE_PX = 512


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", weights="random", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def whole(model: Model, portrait: Path) -> Appearance:
    return add_half(encode_source(model, portrait))


@pytest.fixture(scope="module")
def half(whole: Appearance) -> Appearance:
    assert whole.half is not None
    return whole.half


@pytest.fixture(scope="module")
def script() -> Motion:
    return scripted_motion(40)


def draw(model: Model, appearance: Appearance, motion: Motion) -> Clip:
    [clip] = animate(model, [ClipRequest(appearance=appearance, motion=motion)])
    return clip


@pytest.mark.parametrize("frame", [0, 13, 26, 39])
def test_it_moves_as_the_large_one_does(
    model: Model, whole: Appearance, half: Appearance, script: Motion, frame: int
) -> None:
    motion = script[frame : frame + 1]
    large, small = draw(model, whole, motion), draw(model, half, motion)
    assert large.matte is not None
    assert small.matte is not None
    side = SIZE_PX // 2
    assert small.pixels.shape == (1, side, side, 3)
    for wanted, found in ((large.pixels, small.pixels), (large.matte, small.matte)):
        shrunk = cv2.resize(wanted[0], (side, side), interpolation=cv2.INTER_AREA)
        error = found[0].astype(float) - shrunk
        assert np.sqrt(np.mean(error**2)) < 4  # of 255; half a pixel aside it is 7 and more


def test_it_can_be_cut_out_as_the_large_one_can(half: Appearance) -> None:
    side = SIZE_PX // 2
    assert half.source.shape == (side, side, 3)
    assert half.cutout is not None
    assert half.cutout.matte.shape == (side, side)
    assert half.cutout.background.shape == (side, side, 3)


def test_denoising_goes_on_from_where_it_was_left(
    model: Model, whole: Appearance, half: Appearance, script: Motion
) -> None:
    states = [draw(model, each, script[:1]).ica for each in (whole, half)]
    following = [follow(model, whole, script[1:2], state) for state in states]
    error = following[1].pixels.astype(float) - following[0].pixels
    without = follow(model, whole, script[1:2], None).pixels.astype(float) - following[0].pixels
    assert np.abs(error).mean() < np.abs(without).mean() / 10


def follow(model: Model, appearance: Appearance, motion: Motion, ica: ICAState | None) -> Clip:
    [clip] = animate(model, [ClipRequest(appearance=appearance, motion=motion, ica=ica, steps=1)])
    return clip


def test_a_picture_too_small_to_be_halved_stays_alone(portrait: Path) -> None:
    model = load("tiny", weights="none", size_px=256)
    assert add_half(encode_source(model, portrait)).half is None
