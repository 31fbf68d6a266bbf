"""The forms in which a viewer can have the avatar: as it is, with its matte beside it, or keyed.

WebRTC carries no transparency. Side by side, a shader makes it again (`client/overlay.js`); over a
solid colour, any program with a chroma key does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import cv2
import numpy as np

from mimaface.types import Cutout, Pixels
from streaming.types import AvatarFrame

Alpha = Literal["none", "sbs", "key"]

_GREEN: Final = (0, 255, 0)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a viewer is sent.

    Attributes:
        alpha: none for the whole picture; sbs for the person over black, premultiplied, with the
            matte to the right of it; key for the person over a solid colour.
        chroma: RGB of that colour, 0 to 255.
    """

    alpha: Alpha = "none"
    chroma: tuple[int, int, int] = _GREEN


WHOLE: Final = Form()


def read_form(query: Mapping[str, str]) -> Form:
    """Return the form that a URL's query asks for with `alpha` and `chroma`.

    Raises:
        ValueError: one of them is not understood; the message is for the viewer.
    """
    alpha, chroma = query.get("alpha", "none"), query.get("chroma")
    for known in get_args(Alpha):
        if alpha == known:
            return Form(alpha=known) if chroma is None else Form(alpha=known, chroma=_rgb(chroma))
    raise ValueError(f"alpha must be one of {', '.join(get_args(Alpha))}, found {alpha!r}.")


def shape(frame: AvatarFrame, form: Form) -> Pixels:
    """Return a frame's picture in a form, uint8 [H, W, 3], or [H, 2 W, 3] side by side.

    A frame whose person cannot be told from the background is all person.
    """
    if form.alpha == "none":
        return frame.pixels
    if frame.cutout is None:
        matte = np.full_like(frame.pixels, 255)
        return frame.pixels if form.alpha == "key" else np.hstack([frame.pixels, matte])
    matte = cv2.cvtColor(frame.cutout.matte, cv2.COLOR_GRAY2RGB)
    person = _cut_out(frame.pixels, matte, frame.cutout)
    if form.alpha == "sbs":
        return np.hstack([person, matte])
    solid = np.full_like(person, form.chroma)
    keyed: Pixels = cv2.add(person, cv2.multiply(solid, cv2.bitwise_not(matte), scale=1 / 255))
    return keyed


def _cut_out(pixels: Pixels, matte: Pixels, cutout: Cutout) -> Pixels:
    # Premultiplied, without the light of the background: the share of it is taken off again.
    behind = cv2.multiply(cutout.background, cv2.bitwise_not(matte), scale=1 / 255)
    person: Pixels = cv2.min(cv2.subtract(pixels, behind), matte)
    return person


def _rgb(chroma: str) -> tuple[int, int, int]:
    if re.fullmatch(r"[0-9a-fA-F]{6}", chroma) is None:
        raise ValueError(f"chroma must be a colour like 00ff00, found {chroma!r}.")
    red, green, blue = bytes.fromhex(chroma)
    return red, green, blue
