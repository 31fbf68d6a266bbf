"""The frames that enter and leave a live session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mimaface.types import Cutout, Pixels


@dataclass(frozen=True, kw_only=True)
class DrivingFrame:
    """A webcam frame whose pixels stay closed until the motion extractor asks for them.

    Attributes:
        time_s: when it was decoded, on the session's clock.
        rgb: returns the picture, uint8 [H, W, 3]; only the motion thread calls it.
    """

    time_s: float
    rgb: Callable[[], Pixels]


@dataclass(frozen=True, kw_only=True)
class AvatarFrame:
    """A picture made by the generator, or the still portrait.

    Attributes:
        time_s: time of the driving frame it shows.
        pixels: uint8 [H, W, 3].
        cutout: takes the person out of it; None where the model draws an outline of its own.
    """

    time_s: float
    pixels: Pixels
    cutout: Cutout | None = None
