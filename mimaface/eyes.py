"""What both eyes do together, out of what a tracker sees of each for itself.

It knows shapes in head space and relative expressions, not pictures.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from mimaface.face_mesh import EYES, LOWER_LIDS, UPPER_LIDS, canonical_face, gap
from mimaface.types import Floats

# Of an eye's opening, by which one may be wider open than the other in a blink, and from where on
# it is a wink.
BLINK_APART: Final = 0.25
WINK_APART: Final = 0.55


def look_together(gaze: Floats, shape: Floats) -> Floats:
    """Return angles [4] of eyes that look the same way, out of each one's.

    Args:
        gaze: yaw and pitch of both eyes [4], as they deviate from the neutral.
        shape: [V, 3], the face's. How far they look is seen best by the eye that is wider open.
    """
    openness = np.array([gap(shape, eye) for eye in EYES]) ** 2 + 1e-6
    return np.tile(np.average(gaze.reshape(2, 2), axis=0, weights=openness), 2).astype(np.float32)


def blink_together(deviation: Floats) -> Floats:
    """Return a relative expression [V, 3] whose lids are open equally far, unless it winks.

    In a blink a tracker sees one eye shut some frames before the other.
    """
    upper, lower = UPPER_LIDS, LOWER_LIDS
    shares = 1 + (deviation[lower, 1] - deviation[upper, 1]).reshape(2, -1) / _openings()
    left, right = shares.mean(axis=1)
    wink = min(max((abs(left - right) - BLINK_APART) / (WINK_APART - BLINK_APART), 0.0), 1.0)
    change = (1 - wink) * (right - left) / 2
    together = deviation.copy()
    together[upper, 1] -= (np.array([[change], [-change]]) * _openings()).ravel()
    return together


@cache
def _openings() -> Floats:
    # Of the canonical eyes, lid by lid [2, L].
    height = canonical_face().vertices[:, 1]
    return (height[LOWER_LIDS] - height[UPPER_LIDS]).reshape(2, -1)
