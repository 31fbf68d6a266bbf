"""What both eyes do, out of what is seen of each."""

import numpy as np
import pytest

from mimaface.eyes import BLINK_APART, WINK_APART, blink_together
from mimaface.face_mesh import LOWER_LIDS, UPPER_LIDS, canonical_face
from mimaface.types import VERTICES, Floats

LIDS = len(UPPER_LIDS) // 2  # of an eye


def shutting(left: float, right: float) -> Floats:
    """An expression that leaves such shares of the eyes' openings."""
    height = canonical_face().vertices[:, 1]
    openings = height[LOWER_LIDS] - height[UPPER_LIDS]
    deviation = np.random.default_rng(0).normal(0, 0.01, (VERTICES, 3)).astype(np.float32)
    shares = np.repeat([left, right], LIDS)
    deviation[UPPER_LIDS, 1] = deviation[LOWER_LIDS, 1] + (1 - shares) * openings
    return deviation


def shares(deviation: Floats) -> tuple[float, float]:
    """How far the eyes are open."""
    height = canonical_face().vertices[:, 1] + deviation[:, 1]
    rest = canonical_face().vertices[:, 1]
    openings = (height[LOWER_LIDS] - height[UPPER_LIDS]) / (rest[LOWER_LIDS] - rest[UPPER_LIDS])
    return float(openings[:LIDS].mean()), float(openings[LIDS:].mean())


@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (0.3, 0.1), (0.9, 1.1), (0.0, 0.2)])
def test_eyes_blink_together(left: float, right: float) -> None:
    mean = (left + right) / 2
    assert shares(blink_together(shutting(left, right))) == pytest.approx((mean, mean), abs=1e-5)


@pytest.mark.parametrize(("left", "right"), [(0.0, 1.0), (1.0, 0.1), (0.9, 0.3)])
def test_a_wink_stays(left: float, right: float) -> None:
    wink = shutting(left, right)
    np.testing.assert_allclose(blink_together(wink), wink, atol=1e-6)


def test_a_blink_turns_into_a_wink_without_a_jump() -> None:
    apart = np.linspace(0, 1, 200)
    found = np.array([shares(blink_together(shutting(1 - each, 1.0))) for each in apart])
    assert np.abs(np.diff(found, axis=0)).max() < 0.03
    assert np.ptp(found[apart < BLINK_APART], axis=1).max() < 1e-5
    is_wink = apart > WINK_APART
    np.testing.assert_allclose(found[is_wink, 0], 1 - apart[is_wink], atol=1e-5)


def test_nothing_but_the_upper_lids_is_moved() -> None:
    blink = shutting(0.4, 0.2)
    together = blink_together(blink)
    others = np.setdiff1d(np.arange(VERTICES), UPPER_LIDS)
    np.testing.assert_array_equal(together[others], blink[others])
    np.testing.assert_array_equal(together[:, (0, 2)], blink[:, (0, 2)])
