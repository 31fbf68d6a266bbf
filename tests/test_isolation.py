"""Sessions that share the device do not see each other: the real generator behind the backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from mimaface.animate import animate, encode_source
from mimaface.errors import SourceImageError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import Model, load
from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion
from streaming.backend import LocalBackend, NotFiniteError
from tests.fakes import Clock

SESSIONS = 3


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", weights="random", size_px=64)


@pytest.fixture(scope="module")
def sources(model: Model, portraits: list[Path]) -> list[Appearance]:
    return [encode_source(model, portraits[i % len(portraits)]) for i in range(SESSIONS)]


@pytest.fixture(scope="module")
def script() -> Motion:
    return scripted_motion(40)


class Device:
    """A backend that makes together what is asked of it together."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.batches: list[int] = []
        self.backend = LocalBackend(self._animate, clock=Clock())

    def _animate(self, requests: Sequence[ClipRequest]) -> list[Clip]:
        self.batches.append(len(requests))
        return animate(self._model, requests)

    def make(self, requests: Sequence[ClipRequest]) -> list[Future[Clip]]:
        is_held, is_asked = threading.Event(), threading.Event()

        def hold() -> None:
            is_held.set()
            is_asked.wait(20)

        self.backend.call(hold)
        is_held.wait(20)
        futures = [self.backend.submit(request, due_s=100.0) for request in requests]
        is_asked.set()
        for future in futures:
            future.exception(60)
        return futures


@pytest.fixture
def device(model: Model) -> Iterator[Device]:
    device = Device(model)
    yield device
    device.backend.close()


def ask(
    sources: Sequence[Appearance], script: Motion, *, clip: int, states: Sequence[ICAState | None]
) -> list[ClipRequest]:
    """Return the next clip's request of each session; every session moves differently."""
    return [
        ClipRequest(
            appearance=source,
            motion=script[5 * row + clip : 5 * row + clip + 1],
            ica=state,
            steps=1,
            seed=row,
        )
        for row, (source, state) in enumerate(zip(sources, states, strict=True))
    ]


def state_of(clip: Clip) -> ICAState:
    assert clip.ica is not None
    return clip.ica


def check_equal(model: Model, future: Future[Clip], request: ClipRequest) -> None:
    """Check that a clip is what its session would have got alone."""
    [alone] = animate(model, [request])
    assert np.abs(future.result().pixels.astype(int) - alone.pixels).max() <= 1, "rounding"
    np.testing.assert_allclose(
        state_of(future.result()).latents, state_of(alone).latents, atol=2e-5, rtol=1e-5
    )


def started(device: Device, sources: Sequence[Appearance], script: Motion) -> list[ICAState | None]:
    """Return the states that the sessions' first clips leave."""
    first = ask(sources, script, clip=0, states=[None] * SESSIONS)
    return [state_of(future.result()) for future in device.make(first)]


def test_a_shared_batch_gives_every_session_what_it_would_get_alone(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    states: list[ICAState | None] = [None] * SESSIONS
    for clip in range(3):
        requests = ask(sources, script, clip=clip, states=states)
        futures = device.make(requests)
        for future, request in zip(futures, requests, strict=True):
            check_equal(model, future, request)
        states = [future.result().ica for future in futures]
    assert device.batches == [SESSIONS] * 3
    pictures = {future.result().pixels.tobytes() for future in futures}
    assert len(pictures) == SESSIONS, "the sessions must differ for this to tell anything"


def test_a_clip_that_is_not_finite_fails_its_own_session_alone(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    states = started(device, sources, script)
    requests = ask(sources, script, clip=1, states=states)
    features = sources[1].features
    assert features is not None
    tokens = features.tokens.copy()
    tokens[0, 0] = np.nan  # one value is enough
    broken = replace(sources[1], features=replace(features, tokens=tokens))
    requests[1] = replace(requests[1], appearance=broken)
    futures = device.make(requests)
    assert device.batches == [SESSIONS] * 2, "it was in the others' batch"
    with pytest.raises(NotFiniteError, match="not finite"):
        futures[1].result()
    for row in (0, 2):
        check_equal(model, futures[row], requests[row])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_only_the_decoder_spoils_fail_their_own_session_alone(
    model: Model,
    device: Device,
    sources: list[Appearance],
    script: Motion,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = ask(sources, script, clip=1, states=started(device, sources, script))
    assert model.generator is not None
    autoencoder = model.generator.autoencoder
    decode = autoencoder.decode

    def spoil(latents: Tensor) -> Tensor:
        images: Tensor = decode(latents)
        if len(images) == SESSIONS:  # the pictures of the batch, one a session
            images[1, 0, 0, 0] = value
        return images

    monkeypatch.setattr(autoencoder, "decode", spoil)
    futures = device.make(requests)
    assert device.batches == [SESSIONS] * 2
    with pytest.raises(NotFiniteError, match="not finite"):
        futures[1].result()
    for row in (0, 2):
        check_equal(model, futures[row], requests[row])


def test_a_mesh_that_is_not_finite_fails_its_own_session_alone(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    shape = np.full_like(sources[1].mesh.shape, np.nan)
    broken = replace(sources[1], mesh=replace(sources[1].mesh, shape=shape))
    for steps in (0, 1):
        requests = ask(sources, script, clip=0, states=[None] * SESSIONS)
        requests[1] = replace(requests[1], appearance=broken)
        requests = [replace(each, steps=steps) for each in requests]
        futures = device.make(requests)
        with pytest.raises(ValueError, match="no numbers"):
            futures[1].result()
        for row in (0, 2):
            check_equal(model, futures[row], requests[row])


def test_a_state_that_is_not_finite_reaches_no_device(
    device: Device, sources: list[Appearance], script: Motion
) -> None:
    [request, *_] = ask(sources, script, clip=1, states=started(device, sources, script))
    assert request.ica is not None
    latents = request.ica.latents.copy()
    latents[0, 0, 0, 0] = np.inf
    [failed] = device.make([replace(request, ica=replace(request.ica, latents=latents))])
    assert isinstance(failed.exception(), NotFiniteError)
    assert device.batches == [SESSIONS], "of the clips before"


def test_a_photo_of_which_the_generator_makes_no_numbers_is_no_portrait(
    portraits: list[Path],
) -> None:
    broken = load("tiny", weights="random", size_px=64)
    assert broken.generator is not None
    for parameter in broken.generator.encoder.parameters():
        parameter.fill_(np.nan)
    with pytest.raises(SourceImageError, match="no numbers"):
        encode_source(broken, portraits[0])


def test_the_session_goes_on_without_the_broken_state(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    [request, *_] = ask(sources, script, clip=1, states=started(device, sources, script))
    assert request.ica is not None
    nothing = np.full_like(request.ica.latents, np.nan)
    [failed] = device.make([replace(request, ica=replace(request.ica, latents=nothing))])
    assert isinstance(failed.exception(), NotFiniteError)
    again = replace(request, ica=None)
    [future] = device.make([again])
    check_equal(model, future, again)


def test_a_request_that_fails_costs_the_others_nothing(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    requests = ask(sources, script, clip=1, states=started(device, sources, script))
    foreign = replace(sources[1], features=None)  # as another model would have encoded it
    requests[1] = replace(requests[1], appearance=foreign)
    futures = device.make(requests)
    with pytest.raises(ValueError, match="not encoded by this model"):
        futures[1].result()
    for row in (0, 2):
        check_equal(model, futures[row], requests[row])


def test_sessions_on_different_rungs_do_not_touch_each_other(
    model: Model, device: Device, sources: list[Appearance], script: Motion
) -> None:
    requests = ask(sources, script, clip=0, states=[None] * SESSIONS)
    requests = [replace(each, steps=steps) for each, steps in zip(requests, (2, 1, 0), strict=True)]
    futures = device.make(requests)
    for future, request in zip(futures[:2], requests[:2], strict=True):
        check_equal(model, future, request)
    [alone] = animate(model, requests[2:])
    np.testing.assert_array_equal(futures[2].result().pixels, alone.pixels)
    assert device.batches == [1, 1, 1]
