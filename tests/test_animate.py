"""Clips from requests."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mimaface.animate import animate, encode_source
from mimaface.errors import UnsupportedStepsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import Model, load
from mimaface.types import Appearance, ClipRequest, Motion


@cache
def random_model(size_px: int = 64) -> Model:
    """An untrained model, which takes seconds to build; it holds no state."""
    return load("tiny", weights="random", size_px=size_px)


@pytest.fixture(scope="module")
def appearances(portraits: list[Path]) -> list[Appearance]:
    return [encode_source(load("tiny", weights="none"), portrait) for portrait in portraits]


def test_a_batch_gives_what_single_requests_give(appearances: list[Appearance]) -> None:
    motion = scripted_motion(40)
    requests = [
        ClipRequest(appearance=appearance, motion=motion[at : at + 1])
        for appearance in appearances
        for at in (5, 30)
    ]
    model = load("tiny", weights="none")
    together = animate(model, requests)
    for request, clip in zip(requests, together, strict=True):
        np.testing.assert_array_equal(animate(model, [request])[0].pixels, clip.pixels)


def test_a_clip_has_a_frame_for_each_frame_of_motion(appearances: list[Appearance]) -> None:
    [clip] = animate(
        load("tiny", weights="none"),
        [ClipRequest(appearance=appearances[0], motion=scripted_motion(7))],
    )
    assert clip.pixels.shape == (7, 256, 256, 3)
    assert clip.pixels.dtype == np.uint8


def test_steps_the_model_cannot_do_are_refused(appearances: list[Appearance]) -> None:
    request = ClipRequest(appearance=appearances[0], motion=scripted_motion(1), steps=3)
    with pytest.raises(UnsupportedStepsError, match="not 3"):
        animate(load("tiny", weights="none"), [request])


def test_a_device_without_memory_says_so_and_goes_on(portrait: Path) -> None:
    @contextmanager
    def full(_stage: str) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield

    model = load("tiny", precision="float32")
    source = encode_source(model, portrait)
    request = ClipRequest(appearance=source, motion=scripted_motion(1), steps=1)
    with pytest.raises(MemoryError, match="no memory left for 2 clips"):
        animate(model, [request, request], stage=full)
    assert len(animate(model, [request])) == 1


def test_absolute_motion_cannot_drive(appearances: list[Appearance]) -> None:
    with pytest.raises(ValueError, match="relative"):
        ClipRequest(appearance=appearances[0], motion=Motion.missing(0.0))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="'huge'"):
        load("huge")


def test_a_size_that_is_no_multiple_of_64_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        load("tiny", size_px=300)


def test_a_source_of_another_model_or_size_is_refused_alone(portraits: list[Path]) -> None:
    model = random_model()
    motion = scripted_motion(1)
    for other in (
        load("tiny", size_px=64, weights="none"),
        random_model(128),
    ):
        request = ClipRequest(appearance=encode_source(other, portraits[0]), motion=motion, steps=1)
        with pytest.raises(ValueError, match="not encoded by this model at 64 pixels"):
            animate(model, [request])


def test_a_state_of_another_model_is_refused(portraits: list[Path]) -> None:
    models = [random_model(size) for size in (64, 128)]
    motion = scripted_motion(1)
    requests = [
        ClipRequest(appearance=encode_source(model, portraits[0]), motion=motion, steps=1)
        for model in models
    ]
    [clip] = animate(models[1], requests[1:])
    with pytest.raises(ValueError, match="state is another model's"):
        animate(models[0], [replace(requests[0], ica=clip.ica)])


def test_a_clip_of_no_frames_or_too_many_is_refused(portraits: list[Path]) -> None:
    model = random_model()
    appearance = encode_source(model, portraits[0])
    with pytest.raises(ValueError, match="at least one frame"):
        ClipRequest(appearance=appearance, motion=scripted_motion(2)[2:], steps=1)
    with pytest.raises(ValueError, match="at most 16 frames, found 17"):
        animate(model, [ClipRequest(appearance=appearance, motion=scripted_motion(17), steps=1)])


def test_a_request_can_be_sent_to_another_worker(portraits: list[Path]) -> None:
    model = random_model()
    request = ClipRequest(
        appearance=encode_source(model, portraits[0]), motion=scripted_motion(1), steps=1
    )
    [here] = animate(model, [request])
    sent = pickle.loads(pickle.dumps(request))
    [there] = animate(model, [sent])
    np.testing.assert_array_equal(here.pixels, there.pixels)


@pytest.mark.parametrize(
    "options",
    [{"device": "gpu"}, {"precision": "int4"}, {"attention": "flash"}, {"size_px": -64}],
)
def test_an_argument_that_is_no_choice_is_refused(options: dict[str, object]) -> None:
    [value] = options.values()
    with pytest.raises(ValueError, match=f"found '?{value}'?"):
        load("tiny", **options)  # type: ignore[arg-type]
