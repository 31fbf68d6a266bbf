"""The same portrait at half the side: less to draw and to encode where there is too little time.

It is the same mesh, so that nothing but sharpness changes from one to the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import cv2

from mimaface.render import samples_px
from mimaface.types import Appearance, Cutout, Pixels

LEAST_PX: Final = 256  # side of a picture that still shows what a face says


def add_half(appearance: Appearance) -> Appearance:
    """Return a portrait that also holds itself at half the side, where that is large enough.

    It takes a few milliseconds. Only the mesh of the smaller one is there, for no denoising steps.
    """
    side = len(appearance.source) // 2
    if side < LEAST_PX:
        return appearance
    mesh, cutout = appearance.mesh, appearance.cutout
    # The texture stays: what is drawn is sampled more finely than it is shown.
    smaller = replace(
        mesh,
        size_px=side,
        background=_shrink(mesh.background, samples_px(side)),
        origin=mesh.origin / 2,
        scale=mesh.scale / 2,
    )
    half = replace(
        appearance,
        source=_shrink(appearance.source, side),
        mesh=smaller,
        features=None,
        cutout=cutout
        and Cutout(matte=_shrink(cutout.matte, side), background=_shrink(cutout.background, side)),
    )
    return replace(appearance, half=half)


def _shrink(picture: Pixels, side: int) -> Pixels:
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
