"""The inside of the mouth: teeth and tongue, drawn, or the photo's own where it shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimaface.face_mesh import INNER_LIPS
from mimaface.plates import Canvas
from mimaface.render import Plate
from mimaface.types import Floats, Reals

TEETH_WIDTHS: Final = (0.094, 0.072, 0.078, 0.076)  # head units: 8.5 mm and so on
CROWN: Final = 0.11  # head units, 10 mm: height of an upper tooth
LEAST_SHOWN: Final = 0.08  # head units that lips are open by, for what is between them to be used
PAINTED_LIGHT: Final = 0.85  # share of it in which teeth are painted: some always stays outside
MOUTH_CORNER: Final = (-0.4, -0.2)  # head units
MOUTH_TEXELS: Final = (192, 96)
MOUTH_TEXELS_PER_UNIT: Final = 240.0


def paint_upper_teeth(skin: Floats) -> Plate:
    """Draw the upper teeth in head units around the middle of the upper lip, lit like the skin."""
    x, y = _mouth_grid()
    tooth, colour = _teeth(x, skin, TEETH_WIDTHS, brightness=1.1)
    edge = np.array([0.035, 0.028, 0.033, 0.022])[tooth.which] - 0.012 * tooth.corner
    alpha = _step(edge - y) * (np.abs(x) < sum(TEETH_WIDTHS))
    return _mouth_plate(colour, alpha)


def show_mouth(
    canvas: Canvas, points: Reals, plate: Plate, frame: Reals, *, open_by: float, is_jaw: bool
) -> Plate:
    """Return a plate with what the photo itself shows of it between the lips, if they are open.

    Upper teeth reach down by the height of a crown; what lies lower moves with the jaw.

    Args:
        canvas: the photo.
        points: [V, 2], the landmarks in pixels.
        plate: the painted plate of the upper or the lower mouth.
        frame: [2, 3], mouth coordinates to pixels in the photo (`mouth_frame`).
        open_by: how far the lips stand open in the photo, head units.
        is_jaw: whether the plate moves with the jaw.
    """
    if open_by < (CROWN + LEAST_SHOWN if is_jaw else LEAST_SHOWN):
        return plate
    x, y = _mouth_grid()
    lips = (points - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T
    upper, lower = (np.interp(x, *lips[list(edge)].T) for edge in INNER_LIPS)
    # What the lips hide looks as what they show beside it; their landmarks are a little off.
    rim = 0.12 * open_by
    corners = lips[list(INNER_LIPS[0]), 0]
    shown = np.stack(
        [
            np.clip(x, corners.min() + rim, corners.max() - rim),
            np.clip(y, upper + rim, np.maximum(lower - rim, upper + rim)),
        ],
        axis=-1,
    )
    seen = canvas.sample(canvas.rgb, shown @ frame[:, :2].T + frame[:, 2])
    depth = y - upper - CROWN
    share = np.clip(0.5 + (depth if is_jaw else -depth) / rim, 0, 1)[..., None]
    painted = plate.rgba.astype(np.float32)
    known = np.dstack([seen, np.full(x.shape, 255, np.uint8)])
    rgba = known * share + painted * (1 - share) if is_jaw else np.dstack([seen, 255 * share])
    return replace(plate, rgba=rgba.round().astype(np.uint8))


def paint_lower_mouth(skin: Floats) -> Plate:
    """Draw the tongue and the lower teeth before it, around the middle of the lower lip."""
    x, y = _mouth_grid()
    widths = tuple(0.72 * each for each in TEETH_WIDTHS)
    tooth, colour = _teeth(x, skin, widths, brightness=0.8)
    teeth = _step(y - 0.012 - 0.012 * tooth.corner) * (np.abs(x) < sum(widths))
    ball = 1 - (x / 0.24) ** 2 - ((y - 0.03) / 0.16) ** 2
    tongue = np.clip(1.5 * ball, 0, 1)
    red = skin * np.array([0.85, 0.62, 0.66]) * np.clip(0.5 + ball, 0, 1)[..., None]
    mixed = red + teeth[..., None] * (colour - red)
    return _mouth_plate(mixed, np.maximum(teeth, 0.8 * tongue))


@dataclass(frozen=True)
class _Teeth:
    which: NDArray[np.intp]  # counted from the middle of the row
    corner: Reals  # 0 along a tooth's edge, 1 at its corners


def _teeth(
    x: Reals, skin: Floats, widths: tuple[float, ...], *, brightness: float
) -> tuple[_Teeth, Reals]:
    """Return where each x [h, w] falls in a row of teeth, and the row's colour [h, w, 3]."""
    ends = np.cumsum(widths)
    which = np.clip(np.searchsorted(ends, np.abs(x)), 0, len(widths) - 1)
    half = np.array(widths)[which] / 2
    inside = np.clip(1 - np.abs(np.abs(x) - (ends[which] - half)) / half, 0, 1)
    gaps = 1 - 0.25 * (1 - np.minimum(6 * inside, 1)) ** 2
    rounded = 1 - 0.75 * np.minimum(np.abs(x) / ends[-1], 1) ** 2  # the row curves into shadow
    # White in the light that makes the skin so: half as colourful.
    white = np.clip(brightness * skin.max() + 15, 60, 235) * np.sqrt(skin / skin.max())
    corner = (1 - np.minimum(3 * inside, 1)) ** 2
    return _Teeth(which, corner), (gaps * rounded)[..., None] * white


def _mouth_grid() -> tuple[Reals, Reals]:
    left, top = MOUTH_CORNER
    x = (np.arange(MOUTH_TEXELS[0]) + 0.5) / MOUTH_TEXELS_PER_UNIT + left
    y = (np.arange(MOUTH_TEXELS[1]) + 0.5) / MOUTH_TEXELS_PER_UNIT + top
    columns, rows = np.meshgrid(x, y)
    return columns, rows


def _step(distance: Reals) -> Reals:
    return np.clip(distance * MOUTH_TEXELS_PER_UNIT / 2 + 0.5, 0, 1)


def _mouth_plate(colour: Reals, alpha: Reals) -> Plate:
    rgba = np.dstack([np.clip(colour, 0, 255), 255 * alpha]).astype(np.uint8)
    left, top = MOUTH_CORNER
    return Plate(rgba=rgba, left=left, top=top, per_unit=MOUTH_TEXELS_PER_UNIT)
