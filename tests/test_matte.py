"""The matte: where it is the source's, how it moves, and what it leaves of the old background."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mimaface.animate import animate, encode_source
from mimaface.appearance import encode_photo
from mimaface.face_mesh import FACE_OVAL
from mimaface.model import Model, load
from mimaface.photo import read_photo
from mimaface.render import place_landmarks, render
from mimaface.types import Appearance, ClipRequest, Cutout, Motion, Pixels
from tests.narrow import narrow_model

TURNS = [(0.0, 0.52, 0.0), (0.0, -0.52, 0.0), (0.35, 0.0, 0.0), (-0.35, 0.0, 0.0), (0.2, 0.4, 0.2)]
GREEN = np.array([0.0, 200.0, 0.0])


@pytest.fixture(scope="module", params=[256, 512])
def appearance(request: pytest.FixtureRequest, portrait: Path) -> Appearance:
    return encode_photo(portrait, size_px=request.param)


def pose(
    *, turn: tuple[float, float, float] = (0, 0, 0), shift: tuple[float, float] = (0, 0)
) -> Motion:
    return replace(
        Motion.missing(0.0),
        rotation=np.array([turn], np.float32),
        translation=np.array([[*shift, 0]], np.float32),
        is_relative=True,
    )


def still(appearance: Appearance) -> Cutout:
    assert appearance.cutout is not None, "every photo has one"
    return appearance.cutout


def edge(matte: Pixels) -> Pixels:
    """Where the matte is neither nothing nor full, and two pixels around."""
    return cv2.dilate(((matte > 0) & (matte < 255)).astype(np.uint8), np.ones((5, 5))) > 0


def test_without_motion_the_matte_is_the_sources(appearance: Appearance) -> None:
    found = render(appearance.mesh, pose()).coverage[0]
    error = np.abs(found.astype(float) - still(appearance).matte)
    assert error[edge(found)].mean() < 2


@pytest.mark.parametrize("turn", TURNS)
def test_the_matte_covers_the_face_however_the_head_turns(
    appearance: Appearance, turn: tuple[float, float, float]
) -> None:
    motion = pose(turn=turn)
    face = np.zeros((appearance.mesh.size_px,) * 2, np.uint8)
    [landmarks] = place_landmarks(appearance.mesh, motion)
    cv2.fillConvexPoly(face, landmarks[list(FACE_OVAL)].round().astype(np.int32), 1)
    inner = cv2.erode(face, np.ones((5, 5))) > 0
    assert inner.mean() > 0.05
    assert render(appearance.mesh, motion).coverage[0][inner].min() > 250


def test_the_matte_moves_with_the_head(appearance: Appearance) -> None:
    to_the_left, to_the_right = pose(shift=(-0.2, 0)), pose(shift=(0.2, 0))
    (left,), (right,) = (place_landmarks(appearance.mesh, m) for m in (to_the_left, to_the_right))
    above_the_chin = slice(0, round(left[:, 1].max()) - appearance.mesh.size_px // 20)

    def middle(motion: Motion) -> float:
        head = render(appearance.mesh, motion).coverage[0][above_the_chin].astype(float)
        return float((head.sum(axis=0) @ np.arange(head.shape[1])) / head.sum())

    moved = middle(to_the_right) - middle(to_the_left)
    assert moved == pytest.approx((right - left)[:, 0].mean(), rel=0.1)


def test_shoulders_and_background_stay_where_they_are(appearance: Appearance) -> None:
    size = appearance.mesh.size_px
    rest, turned = (
        render(appearance.mesh, pose(turn=turn)).coverage[0] for turn in ((0, 0, 0), (0, 0.4, 0))
    )
    assert np.abs(rest.astype(int) - turned)[-size // 20 :].max() < 40
    assert turned[: size // 20].max() == 0


def test_no_light_of_the_old_background_is_left_on_the_person(portrait: Path) -> None:
    # The same person before a green wall, by a matte that is known.
    known = encode_photo(portrait, size_px=512).mesh.texture
    person, matte = known[..., :3], known[..., 3]
    alpha = matte[..., None] / 255
    photo = (alpha * person + (1 - alpha) * GREEN).astype(np.uint8)
    assert read_photo(portrait).shape == photo.shape
    found = encode_photo(photo, size_px=512).mesh.texture
    band = edge(matte)
    assert np.abs(found[..., 3].astype(float) - matte)[band].mean() < 4
    red, green, blue = np.moveaxis(found[..., :3].astype(float), -1, 0)
    tint = (green - np.maximum(red, blue)) * found[..., 3] / 255
    assert np.percentile(tint[band], 95) < 8


def test_denoised_frames_keep_the_outline_of_the_mesh(portrait: Path) -> None:
    model = load("tiny")
    appearance = encode_source(model, portrait)
    motion = pose(turn=(0.1, 0.3, 0.0))
    drawn, denoised = animate(
        model,
        [ClipRequest(appearance=appearance, motion=motion, steps=steps) for steps in (0, 1)],
    )
    assert drawn.matte is not None
    assert denoised.matte is not None
    assert denoised.matte.shape == denoised.pixels.shape[:3]
    np.testing.assert_array_equal(drawn.matte, denoised.matte)
    assert model.has_matte


def test_a_model_that_is_shown_the_face_alone_has_no_matte(portrait: Path) -> None:
    model = narrow_model()
    appearance = encode_source(model, portrait)
    [clip] = animate(
        model,
        [ClipRequest(appearance=appearance, motion=pose(), steps=min(model.config.samplings))],
    )
    assert clip.matte is None
    assert not model.has_matte
    assert Model(config=model.config, generator=None).has_matte  # then it draws its mesh
