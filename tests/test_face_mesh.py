"""The canonical face, its pose, and expressions that move from one face to another."""

import numpy as np
import pytest

from mimaface.face_mesh import (
    EYES,
    INNER_LIPS,
    LOWER_INNER_LIP,
    OUTER_LIPS,
    UPPER_INNER_LIP,
    canonical_face,
    fit_pose,
    gap,
    proportions,
    retarget,
    rotation_angles,
    rotation_matrix,
    shut_lips,
    width,
)
from mimaface.types import Floats


@pytest.fixture
def narrow_face() -> Floats:
    """The canonical face, narrower and with eyes half as open."""
    shape = canonical_face().vertices * np.array([0.7, 1.0, 1.0], np.float32)
    for upper, lower in EYES:
        middle = (shape[list(upper)] + shape[list(lower)]) / 2
        shape[list(upper)] = (shape[list(upper)] + middle) / 2
        shape[list(lower)] = (shape[list(lower)] + middle) / 2
    return shut_lips(shape)


def blink() -> Floats:
    shapes = canonical_face().expressions
    return shapes["eyeBlink_L"] + shapes["eyeBlink_R"]


def test_angles_and_matrix_are_inverse() -> None:
    angles = np.array([0.3, -0.5, 0.2])
    np.testing.assert_allclose(rotation_angles(rotation_matrix(angles)), angles, atol=1e-9)


def test_a_turn_to_the_right_of_the_picture_brings_the_nose_there() -> None:
    nose = canonical_face().vertices[1] @ rotation_matrix(np.array([0.0, -0.4, 0.0])).T
    assert nose[0] > 0.3


def test_pose_of_a_moved_face_is_found_whatever_its_expression() -> None:
    angles, origin = np.array([0.2, -0.4, 0.1]), np.array([0.1, -0.05, 0.3])
    face = canonical_face()
    speaking = face.vertices + face.expressions["jawOpen"] + blink()
    pose = fit_pose(0.2 * speaking @ rotation_matrix(angles).T + origin)
    np.testing.assert_allclose(rotation_angles(pose.rotation), angles, atol=0.02)
    np.testing.assert_allclose(pose.origin, origin, atol=0.005)
    assert pose.scale == pytest.approx(0.2, rel=0.02)


def test_a_face_without_deviation_keeps_its_neutral_shape(narrow_face: Floats) -> None:
    still = retarget(narrow_face, proportions(narrow_face), np.zeros_like(narrow_face))
    np.testing.assert_allclose(still, narrow_face, atol=4e-3)


def test_shut_lips_meet() -> None:
    opened = canonical_face().vertices + canonical_face().expressions["jawOpen"]
    assert gap(opened, INNER_LIPS) > 0.3
    assert gap(shut_lips(opened), INNER_LIPS) < 0.03


def test_a_wide_mouth_drives_a_narrow_one_by_the_same_share(narrow_face: Floats) -> None:
    stretch = canonical_face().expressions["mouthStretch_L"]
    stretch = stretch + canonical_face().expressions["mouthStretch_R"]
    driver = canonical_face().vertices
    driven = retarget(narrow_face, proportions(narrow_face), stretch)
    wider = width(driver + stretch, OUTER_LIPS) / width(driver, OUTER_LIPS)
    assert wider > 1.1
    assert width(driven, OUTER_LIPS) / width(narrow_face, OUTER_LIPS) == pytest.approx(
        wider, rel=0.02
    )


def test_a_full_blink_shuts_half_open_eyes(narrow_face: Floats) -> None:
    driven = retarget(narrow_face, proportions(narrow_face), blink())
    for eye in EYES:
        assert gap(driven, eye) < 0.1 * gap(narrow_face, eye)


def test_half_a_blink_closes_about_half(narrow_face: Floats) -> None:
    driven = retarget(narrow_face, proportions(narrow_face), 0.5 * blink())
    for eye in EYES:
        assert 0.3 < gap(driven, eye) / gap(narrow_face, eye) < 0.7


def test_lips_never_cross() -> None:
    neutral = shut_lips(canonical_face().vertices)
    pressed = -0.5 * canonical_face().expressions["jawOpen"]
    driven = retarget(neutral, proportions(neutral), pressed)
    openings = driven[LOWER_INNER_LIP, 1] - driven[UPPER_INNER_LIP, 1]
    assert openings.min() > -1e-5
