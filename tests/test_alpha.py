"""The forms a viewer can have the avatar in."""

import numpy as np
import pytest

from mimaface.types import Cutout
from server.alpha import WHOLE, Form, read_form, shape
from streaming.types import AvatarFrame

PERSON, WALL = np.array([200.0, 100.0, 50.0]), np.array([40.0, 80.0, 240.0])
MATTE = np.array([[0, 64, 128, 255]], np.uint8)  # a picture of four pixels
ALPHA = MATTE[..., None] / 255


@pytest.fixture
def frame() -> AvatarFrame:
    """A person who covers ever more of a wall."""
    pixels = (ALPHA * PERSON + (1 - ALPHA) * WALL).round().astype(np.uint8)
    background = np.broadcast_to(WALL, pixels.shape).astype(np.uint8)
    return AvatarFrame(time_s=0.0, pixels=pixels, cutout=Cutout(matte=MATTE, background=background))


def test_usually_it_is_the_whole_picture(frame: AvatarFrame) -> None:
    assert read_form({}) == WHOLE
    assert shape(frame, WHOLE) is frame.pixels


def test_side_by_side_are_the_person_without_the_background_and_the_matte(
    frame: AvatarFrame,
) -> None:
    both = shape(frame, read_form({"alpha": "sbs"}))
    person, matte = both[:, :4], both[:, 4:]
    np.testing.assert_allclose(person, ALPHA * PERSON, atol=1)
    np.testing.assert_array_equal(matte, np.repeat(MATTE[..., None], 3, axis=2))


def test_a_key_is_the_person_over_the_colour_that_was_asked_for(frame: AvatarFrame) -> None:
    keyed = shape(frame, read_form({"alpha": "key", "chroma": "ff00FF"}))
    expected = ALPHA * PERSON + (1 - ALPHA) * np.array([255, 0, 255])
    np.testing.assert_allclose(keyed, expected, atol=1.5)
    assert tuple(shape(frame, read_form({"alpha": "key"}))[0, 0]) == (0, 255, 0)


def test_nothing_shines_where_the_person_is_not(frame: AvatarFrame) -> None:
    # The generator may have changed the picture there.
    brighter = AvatarFrame(time_s=0.0, pixels=np.full_like(frame.pixels, 255), cutout=frame.cutout)
    both = shape(brighter, Form(alpha="sbs"))
    assert (both[:, :4] <= both[:, 4:]).all()
    assert not both[0, 0].any()


def test_without_a_matte_everything_is_the_person(frame: AvatarFrame) -> None:
    bare = AvatarFrame(time_s=0.0, pixels=frame.pixels)
    both = shape(bare, Form(alpha="sbs"))
    np.testing.assert_array_equal(both[:, :4], frame.pixels)
    assert (both[:, 4:] == 255).all()
    assert shape(bare, Form(alpha="key")) is frame.pixels


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"alpha": "left"}, "alpha must be one of none, sbs, key, found 'left'"),
        ({"alpha": "key", "chroma": "green"}, "chroma must be a colour like 00ff00"),
        ({"chroma": "00ff0"}, "chroma must be"),
    ],
)
def test_what_is_not_understood_is_refused(query: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_form(query)
