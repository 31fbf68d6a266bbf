"""Clips of the generator: batches, seeds, and what one clip hands to the next."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mimaface.animate import animate, encode_source
from mimaface.condition import to_images
from mimaface.config import CONFIGS
from mimaface.correction import LEAST_ADDED
from mimaface.errors import UnsupportedStepsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.face_crop import cut, move
from mimaface.generator import draw_noise
from mimaface.model import Model, Precision, load
from mimaface.render import render
from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion, Pixels
from mimaface.weights import randomize
from tests.narrow import NARROW, narrow_model

NEAR = 2e-5  # of latents: kernels of convolutions and products differ with the size of the batch


@cache
def tiny() -> Model:
    return load("tiny", weights="random")


@pytest.fixture(scope="module", params=[tiny, narrow_model], ids=["tiny", "sd15"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.param()


@pytest.fixture(scope="module")
def sources(model: Model, portraits: list[Path]) -> list[Appearance]:
    return [encode_source(model, portrait) for portrait in portraits]


def clips(
    model: Model,
    appearance: Appearance,
    motion: Motion,
    *,
    chunk: int,
    steps: int = 1,
    seed: int = 0,
) -> list[Clip]:
    """Return the clips of a session, one after the other."""
    made: list[Clip] = []
    for start in range(0, len(motion), chunk):
        request = ClipRequest(
            appearance=appearance,
            motion=motion[start : start + chunk],
            ica=made[-1].ica if made else None,
            steps=steps,
            seed=seed,
        )
        made += animate(model, [request])
    return made


def state_of(clip: Clip) -> ICAState:
    assert clip.ica is not None
    return clip.ica


def seen_latents(model: Model, pixels: Pixels, state: ICAState) -> np.ndarray:
    """Return the latents [C, h, w] of a frame's part that the state is about."""
    assert model.generator is not None
    latents = model.generator.autoencoder.encode(to_images(pixels))[0].numpy()
    cell_px, side_px = model.config.autoencoder.factor, model.config.square_px
    return cut(latents, state.corner, cell_px=cell_px, side_px=side_px)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far pixels or latents are apart on average."""
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("steps", [1, 2])
def test_batched_equals_single_from_clip_to_clip(
    steps: int, model: Model, sources: list[Appearance]
) -> None:
    motion = scripted_motion(20)
    states: list[ICAState | None] = [None, None]
    for start in (0, 4, 8):
        requests = [
            ClipRequest(
                appearance=source,
                motion=motion[start + row : start + row + 2],
                ica=states[row],
                steps=steps,
                seed=row,
            )
            for row, source in enumerate(sources[:2])
        ]
        together = animate(model, requests)
        for clip, request in zip(together, requests, strict=True):
            [alone] = animate(model, [request])
            np.testing.assert_allclose(
                state_of(clip).latents, state_of(alone).latents, atol=NEAR, rtol=NEAR
            )
            assert np.abs(clip.pixels.astype(int) - alone.pixels).max() <= 1, "rounding"
        states = [clip.ica for clip in together]


def test_the_same_session_made_again_is_the_same_to_the_bit(
    model: Model, sources: list[Appearance]
) -> None:
    motion = scripted_motion(4)
    once, again = (clips(model, sources[0], motion, chunk=2, steps=2, seed=5) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(state_of(one).latents, state_of(other).latents)
    other_seed = clips(model, sources[0], motion, chunk=2, steps=2, seed=6)
    latents, others = state_of(once[-1]).latents, state_of(other_seed[-1]).latents
    own = latents[-1]
    if model.config.denoiser.residual:  # the render is added to what it says
        drawn = render(sources[0].mesh, motion[-1:]).pixels
        own = own - seen_latents(model, drawn, state_of(once[-1]))
    if model.config.samplings[2].is_noisy:
        assert difference(latents, others) > 0.3 * own.std()
    else:
        np.testing.assert_array_equal(latents, others)


def test_requests_of_different_shapes_share_a_call(model: Model, sources: list[Appearance]) -> None:
    motion = scripted_motion(6)
    first = clips(model, sources[0], motion[:2], chunk=2)[0]
    source = sources[0]
    requests = [
        ClipRequest(appearance=source, motion=motion[2:3], steps=1),
        ClipRequest(appearance=source, motion=motion[2:4], steps=2),
        ClipRequest(appearance=source, motion=motion[2:3], ica=first.ica, steps=1),
        ClipRequest(appearance=source, motion=motion[2:3], steps=0),
        ClipRequest(appearance=sources[1], motion=motion[3:4], steps=1),
    ]
    for clip, request in zip(animate(model, requests), requests, strict=True):
        [alone] = animate(model, [request])
        assert len(clip.pixels) == len(request.motion)
        assert np.abs(clip.pixels.astype(int) - alone.pixels).max() <= 1


def test_a_clip_begins_where_the_one_before_ended(model: Model, sources: list[Appearance]) -> None:
    motion = scripted_motion(4)
    first, second = clips(model, sources[0], motion, chunk=2)
    carried = model.config.carried_frames
    assert len(state_of(first).latents) == min(carried, 2)
    assert len(state_of(second).latents) == min(carried, 4)
    assert [state_of(clip).next_frame for clip in (first, second)] == [2, 4]
    request = ClipRequest(appearance=sources[0], motion=motion[2:], steps=1)
    [without] = animate(model, [request])
    assert difference(without.pixels, second.pixels) > 0.15
    brighter = replace(state_of(first), latents=state_of(first).latents + 0.5)
    [other] = animate(model, [replace(request, ica=brighter)])
    assert difference(other.pixels, second.pixels) > 0.15


def test_only_new_frames_are_decoded(
    model: Model, sources: list[Appearance], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.generator is not None
    decoded = []
    decode = model.generator.autoencoder.decode

    def watched(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(model.generator.autoencoder, "decode", watched)
    clips(model, sources[0], scripted_motion(6), chunk=2)
    assert decoded == [2, 2, 2]


def at_size(
    size_px: int, *, most_px: int | None, crop_px: int | None = None, changes: bool = True
) -> Model:
    """Return an untrained `tiny` of an avatar's size, whose networks work on a size at most."""
    config = replace(CONFIGS["tiny"], size_px=size_px, most_px=most_px, crop_px=crop_px)
    generator = randomize(config)
    if not changes:
        for parameter in generator.denoiser.unet.conv_out.parameters():
            torch.nn.init.zeros_(parameter)
    generator.place(torch.device("cpu"), torch.float32)
    return Model(config=config, generator=generator)


def test_an_avatar_of_the_size_the_networks_work_on_is_what_they_say(portrait: Path) -> None:
    motion = scripted_motion(2)
    limited, free = (
        clips(model, encode_source(model, portrait), motion, chunk=1)[-1]
        for model in (at_size(64, most_px=64), at_size(64, most_px=None))
    )
    np.testing.assert_array_equal(limited.pixels, free.pixels)
    np.testing.assert_array_equal(state_of(limited).latents, state_of(free).latents)


@pytest.mark.parametrize("size_px", [128, 192])
def test_where_nothing_is_changed_a_larger_avatar_is_its_render(
    size_px: int, portrait: Path
) -> None:
    model, motion = at_size(size_px, most_px=64, changes=False), scripted_motion(2)
    source = encode_source(model, portrait)
    [clip] = animate(model, [ClipRequest(appearance=source, motion=motion, steps=1)])
    np.testing.assert_array_equal(clip.pixels, render(source.mesh, motion).pixels)


def test_what_is_changed_is_added_to_the_render_of_a_larger_avatar(portrait: Path) -> None:
    model, motion = at_size(128, most_px=64, changes=False), scripted_motion(1)
    assert model.generator is not None
    bias = model.generator.denoiser.unet.conv_out.bias
    bias[: model.config.autoencoder.channels] = 13 / 127.5 + LEAST_ADDED
    source = encode_source(model, portrait)
    [clip] = animate(model, [ClipRequest(appearance=source, motion=motion, steps=1)])
    drawn = render(source.mesh, motion).pixels
    is_far_from_white = drawn.max(axis=-1) < 160
    brighter = (clip.pixels.astype(int) - drawn)[is_far_from_white]
    assert is_far_from_white.mean() > 0.2
    assert np.percentile(brighter, (1, 99)).tolist() == [13, 13]


def test_a_state_can_be_carried_to_another_size(portrait: Path) -> None:
    motion, models = scripted_motion(2), [at_size(size, most_px=64) for size in (64, 128)]
    small, large = (encode_source(model, portrait) for model in models)
    [first] = animate(models[0], [ClipRequest(appearance=small, motion=motion[:1], steps=1)])
    [second] = animate(
        models[1],
        [ClipRequest(appearance=large, motion=motion[1:], ica=first.ica, steps=1)],
    )
    assert second.pixels.shape == (1, 128, 128, 3)


def test_only_the_square_around_the_face_is_changed(portrait: Path) -> None:
    model, motion = at_size(128, most_px=128, crop_px=64), scripted_motion(1)
    source = encode_source(model, portrait)
    [clip] = animate(model, [ClipRequest(appearance=source, motion=motion, steps=1)])
    drawn = render(source.mesh, motion)
    x, y = state_of(clip).corner
    is_inside = np.zeros((128, 128), bool)
    is_inside[y : y + 64, x : x + 64] = True
    is_changed = (clip.pixels[0] != drawn.pixels[0]).any(axis=-1)
    assert not is_changed[~is_inside].any()
    assert is_changed[is_inside].mean() > 0.5
    face = drawn.landmarks[0].mean(axis=0)
    assert is_inside[int(face[1]), int(face[0])]


def test_what_is_carried_goes_along_when_the_square_moves(portrait: Path) -> None:
    model, motion = at_size(128, most_px=128, crop_px=64), scripted_motion(1)
    source = encode_source(model, portrait)
    [first] = animate(model, [ClipRequest(appearance=source, motion=motion, steps=1)])
    state = state_of(first)
    x, y = state.corner
    # What two squares on the face's left show of one picture, and one of another.
    far = replace(state, corner=(x - 32, y))
    near = replace(state, corner=(x - 24, y), latents=move(state.latents, (2, 0)))
    astray = replace(state, corner=(x - 24, y))
    one, same, another = (
        animate(model, [ClipRequest(appearance=source, motion=motion, ica=each, steps=1)])[0]
        for each in (far, near, astray)
    )
    assert state_of(one).corner == (x, y)
    np.testing.assert_array_equal(one.pixels, same.pixels)
    assert difference(one.pixels, another.pixels) > 0.1


def test_without_steps_the_mesh_is_drawn(model: Model, sources: list[Appearance]) -> None:
    motion = scripted_motion(3)
    [clip] = animate(model, [ClipRequest(appearance=sources[0], motion=motion)])
    np.testing.assert_array_equal(clip.pixels, render(sources[0].mesh, motion).pixels)


def test_steps_go_on_from_what_was_drawn_without_any(
    model: Model, sources: list[Appearance]
) -> None:
    motion = scripted_motion(6)
    [drawn] = animate(model, [ClipRequest(appearance=sources[0], motion=motion[:5])])
    if model.config.ica == "overlap":
        assert drawn.ica is None, "it makes carried frames again, and these have no condition"
        return
    np.testing.assert_allclose(
        state_of(drawn).latents[0],
        seen_latents(model, drawn.pixels[-1:], state_of(drawn)),
        atol=1e-3,
    )
    request = ClipRequest(appearance=sources[0], motion=motion[5:], ica=drawn.ica, steps=1)
    [climbed] = animate(model, [request])
    assert state_of(climbed).next_frame == 6


def test_every_number_of_steps_that_is_offered_works(
    model: Model, sources: list[Appearance]
) -> None:
    size = model.config.size_px
    for steps in model.steps:
        request = ClipRequest(appearance=sources[0], motion=scripted_motion(1), steps=steps)
        [clip] = animate(model, [request])
        assert clip.pixels.shape == (1, size, size, 3)
    with pytest.raises(UnsupportedStepsError, match=r"not 3$"):
        animate(model, [replace(request, steps=3)])


def test_identity_reaches_the_picture_of_the_released_form(portraits: list[Path]) -> None:
    model = narrow_model()
    source = encode_source(model, portraits[0])
    assert source.features is not None
    request = ClipRequest(appearance=source, motion=scripted_motion(1), steps=1)
    [clip] = animate(model, [request])
    features = replace(source.features, identity=source.features.identity + 1)
    [other] = animate(model, [replace(request, appearance=replace(source, features=features))])
    latents = state_of(clip).latents
    assert difference(latents, state_of(other).latents) > 2e-3 * latents.std()


def test_the_right_identity_crop_is_another_setting(portraits: list[Path]) -> None:
    config = replace(NARROW, encoder=replace(NARROW.encoder, identity_crop_px=256))
    generator = randomize(config)
    generator.place(torch.device("cpu"), torch.float32)
    right = encode_source(Model(config=config, generator=generator), portraits[0]).features
    wrong = encode_source(narrow_model(), portraits[0]).features
    assert right is not None
    assert wrong is not None
    np.testing.assert_allclose(right.tokens, wrong.tokens)
    assert np.abs(right.identity - wrong.identity).max() > 1e-3


# With untrained weights, turning the head moves the pixels by 0.5 of 255, of the released form by
# 0.35. Its autoencoder is rounded more than that in bfloat16. A residual denoiser rounds its render
# and the sum with it: in bfloat16 each by up to 1/4 of a level, together by 1/6 on average.
@pytest.mark.parametrize(
    ("name", "precision", "most"),
    [
        ("tiny", "bfloat16", 0.25),
        ("tiny", "float16", 0.08),
        ("sd15", "bfloat16", 0.6),
        ("sd15", "float16", 0.1),
    ],
)
def test_half_precision_is_near_full(
    name: str, precision: Precision, most: float, portraits: list[Path]
) -> None:
    def last_clip(precision: Precision) -> Clip:
        model = (
            load("tiny", weights="random", size_px=64, precision=precision)
            if name == "tiny"
            else narrow_model(precision, size_px=64)
        )
        motion = scripted_motion(21)[np.array([0, 20])]
        return clips(model, encode_source(model, portraits[0]), motion, chunk=1)[-1]

    exact, rounded = last_clip("float32"), last_clip(precision)
    assert difference(exact.pixels, rounded.pixels) < most
    assert state_of(rounded).latents.dtype == np.float16


def test_noise_is_drawn_from_seed_and_frame_alone() -> None:
    nothing: Appearance = None  # type: ignore[assignment]

    def request(frames: int, *, after: int = 0, seed: int = 3) -> ClipRequest:
        state = ICAState(
            latents=np.zeros((1, 1, 1, 1), np.float32),
            signals=np.zeros((1, 0), np.float32),
            render_latents=None,
            next_frame=after,
        )
        motion = scripted_motion(frames)
        return ClipRequest(
            appearance=nothing, motion=motion, ica=state if after else None, steps=1, seed=seed
        )

    def noise(*requests: ClipRequest, frames: int, draw: int = 0) -> torch.Tensor:
        return draw_noise(requests, draw, like=torch.zeros(len(requests), frames, 2, 3, 3))

    whole = noise(request(6), frames=6)
    torch.testing.assert_close(noise(request(2, after=4), frames=2), whole[:, 4:])
    torch.testing.assert_close(noise(request(2, after=4), frames=4), whole[:, 2:], msg="made again")
    both = noise(request(2, seed=9), request(2, after=4), frames=2)
    torch.testing.assert_close(both[1:], whole[:, 4:])
    assert (both[0] != whole[0, :2]).all()
    assert (noise(request(6), frames=6, draw=1) != whole).all()
    assert abs(float(noise(request(6), frames=6).std()) - 1) < 0.2
