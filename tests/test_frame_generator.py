"""The generator on a CPU, beside the one in torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mimaface.animate import animate, encode_source, unwatched
from mimaface.config import CONFIGS
from mimaface.evaluation.scripted import scripted_motion
from mimaface.frame_generator import FrameGenerator, Inputs
from mimaface.generator import Generator
from mimaface.model import Model
from mimaface.training.export import compare
from mimaface.training.graphs import TorchNetworks
from mimaface.types import ClipRequest, Floats, ICAState
from mimaface.weights import randomize
from tests.statistics import with_statistics


@cache
def in_torch(size_px: int) -> Generator:
    generator = with_statistics(randomize(replace(CONFIGS["tiny"], size_px=size_px)))
    generator.place(torch.device("cpu"), torch.float32)
    return generator


def both(size_px: int) -> tuple[Model, Model]:
    """Return a model in torch, and the same networks frame by frame."""
    generator = in_torch(size_px)
    by_frame = FrameGenerator(generator.config, TorchNetworks(generator))
    return tuple(Model(config=generator.config, generator=each) for each in (generator, by_frame))


def check_close(state: ICAState | None, other: ICAState | None) -> None:
    np.testing.assert_allclose(state.latents, other.latents, atol=1e-5)
    np.testing.assert_array_equal(state.signals, other.signals)
    assert (state.next_frame, state.corner) == (other.next_frame, other.corner)
    assert state.render_latents is other.render_latents is None


# The networks' square is all of the picture, or moves in the 18th frame, or is enlarged.
@pytest.mark.parametrize(("size_px", "frames", "steps"), [(64, 3, 2), (256, 20, 1), (512, 3, 1)])
def test_its_frames_are_those_of_torch(size_px: int, frames: int, steps: int) -> None:
    generator = in_torch(size_px)
    difference = compare(generator, TorchNetworks(generator), frames=frames, steps=steps)
    assert difference.mean < 0.001, "levels of 255"
    assert difference.most <= 1


@pytest.mark.parametrize("size_px", [64, 512])
def test_it_reads_a_source_as_torch_does(size_px: int, portrait: Path) -> None:
    in_torch, by_frame = (encode_source(model, portrait).features for model in both(size_px))
    np.testing.assert_allclose(by_frame.tokens, in_torch.tokens, atol=1e-5)
    np.testing.assert_array_equal(by_frame.identity, by_frame.tokens[0])
    np.testing.assert_allclose(by_frame.latents, in_torch.latents, atol=1e-6)
    assert by_frame.coefficients.shape == in_torch.coefficients.shape


def test_it_tells_people_apart_as_torch_does(portrait: Path) -> None:
    in_torch, by_frame = both(512)
    picture = encode_source(in_torch, portrait).source
    token = by_frame.generator.class_token(picture)
    np.testing.assert_allclose(token, in_torch.generator.class_token(picture), atol=1e-5)
    np.testing.assert_array_equal(token, encode_source(by_frame, portrait).features.identity)


def test_a_clip_of_several_frames_is_its_frames_one_after_the_other(portrait: Path) -> None:
    _, model = both(256)
    appearance, script = encode_source(model, portrait), scripted_motion(20)[::4]
    [whole] = animate(model, [ClipRequest(appearance=appearance, motion=script, steps=1)])
    ica, pictures, mattes = None, [], []
    for row in range(len(script)):
        request = ClipRequest(appearance=appearance, motion=script[row : row + 1], ica=ica, steps=1)
        [clip] = animate(model, [request])
        ica = clip.ica
        pictures.append(clip.pixels)
        mattes.append(clip.matte)
    np.testing.assert_array_equal(whole.pixels, np.concatenate(pictures))
    np.testing.assert_array_equal(whole.matte, np.concatenate(mattes))
    check_close(whole.ica, ica)


@pytest.mark.parametrize("size_px", [64, 256])
def test_steps_can_follow_frames_that_were_only_drawn(size_px: int, portrait: Path) -> None:
    script, states = scripted_motion(20)[::4], []
    for model in both(size_px):
        appearance = encode_source(model, portrait)
        [first] = animate(model, [ClipRequest(appearance=appearance, motion=script[:1], steps=1)])
        drawn = ClipRequest(appearance=appearance, motion=script[1:4], ica=first.ica, steps=0)
        states.append(animate(model, [drawn])[0].ica)
    check_close(*states)


class Saying:
    """Networks that say the same of everything."""

    def __init__(self, tokens: Floats, correction: Floats) -> None:
        self._tokens, self._correction = tokens, correction

    def encode(self, _: object) -> Floats:
        return self._tokens

    def correct(self, _: Inputs) -> Floats:
        return self._correction


def test_a_clip_that_is_no_numbers_says_so(portrait: Path) -> None:
    config = in_torch(256).config
    cells = config.square_px // config.autoencoder.factor
    said = np.zeros((config.autoencoder.channels + 2, cells, cells), np.float32)
    tokens = np.zeros((65, 128), np.float32)

    def made(said: Floats) -> bool:
        generator = FrameGenerator(config, Saying(tokens, said))
        appearance = encode_source(Model(config=config, generator=generator), portrait)
        request = ClipRequest(appearance=appearance, motion=scripted_motion(2), steps=1)
        [clip] = generator.animate([request], stage=unwatched)
        return clip.is_finite

    assert made(said)
    for channel in (0, -1):  # what is added, and where to look
        for value in (np.nan, np.inf):
            broken = said.copy()
            broken[channel, 0, 0] = value
            assert not made(broken)
