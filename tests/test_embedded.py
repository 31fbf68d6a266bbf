"""The weights that come with the package: what they say of themselves and what they do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mimaface.animate import animate, encode_source
from mimaface.evaluation.ablation import Zeroed, without
from mimaface.evaluation.metrics import sharpness
from mimaface.evaluation.scripted import scripted_motion
from mimaface.generator import Generator
from mimaface.int8 import Int8Networks
from mimaface.model import Model, built_in_weights, load
from mimaface.photo import built_in_portraits
from mimaface.training.export import compare
from mimaface.types import ClipRequest, Pixels
from mimaface.weight_notes import read_notes

MOST_BYTES = 16 * 1024**2
FRAMES = 24


def weights() -> Path:
    path = built_in_weights("tiny")
    assert path is not None, "they are in the repository"
    return path


@cache
def model() -> Model:
    return load("tiny", device="cpu")


def performance(steps: int, photo: Path) -> Pixels:
    script, ica, pictures = scripted_motion(3 * FRAMES)[::3], None, []
    appearance = encode_source(model(), photo)
    for frame in range(FRAMES):
        request = ClipRequest(
            appearance=appearance, motion=script[frame : frame + 1], ica=ica, steps=steps
        )
        [clip] = animate(model(), [request])
        ica = clip.ica
        pictures.append(clip.pixels[0])
    return np.stack(pictures)


def generator() -> Generator:
    exact = load("tiny", device="cpu", precision="float32").generator
    assert isinstance(exact, Generator)
    return exact


def test_they_are_small_and_say_how_they_were_made() -> None:
    assert weights().stat().st_size < MOST_BYTES
    notes = read_notes(weights())
    assert {"data_seed", "clips", "seed", "steps", "commit"} <= notes.keys()


def test_they_are_the_default_and_run_in_int8_on_a_processor() -> None:
    assert model().steps == (4, 2, 1, 0)
    assert model().default_steps == 1
    assert model().precision == "int8"


def test_int8_is_near_float32() -> None:
    difference = compare(generator(), Int8Networks(weights(), threads=1), frames=8, steps=1)
    assert difference.mean < 0.5, "levels of 255"
    assert difference.most <= 24


@pytest.mark.parametrize("steps", [1, 2])
def test_they_correct_the_render_and_keep_it_sharp_and_steady(steps: int) -> None:
    for photo in built_in_portraits():
        bare, made = performance(0, photo), performance(steps, photo)
        change = np.abs(made.astype(int) - bare)
        assert 0.1 < change.mean() < 3, "a correction, not another picture"
        ratios = [sharpness(b) / sharpness(a) for a, b in zip(bare, made, strict=True)]
        assert 0.75 < np.mean(ratios) < 1.25
        still = np.abs(np.diff(made.astype(int), axis=0)).mean()
        assert still < 1.1 * np.abs(np.diff(bare.astype(int), axis=0)).mean()


@pytest.mark.parametrize("zeroed", ["motion", "identity"])
def test_an_ablation_reaches_what_they_make_on_a_processor(zeroed: Zeroed) -> None:
    appearance = encode_source(model(), built_in_portraits()[0])
    request = ClipRequest(appearance=appearance, motion=scripted_motion(20)[19:], steps=1)
    [[whole], [blind]] = (animate(each, [request]) for each in (model(), without(model(), zeroed)))
    assert np.abs(blind.pixels.astype(int) - whole.pixels).mean() > 0.01, "levels of 255"
