"""The part of the picture that the networks work on: a square that follows eyes and mouth.

Most of a portrait is background, hair and shoulders, which the render shows as well as it can be
done. The square stays where it is as long as the features are well inside; when it moves, it moves
by whole cells of latents, so that what is carried from clip to clip can be moved along.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from mimaface.types import Corner, Floats, ICAState

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", Floats, "Tensor")

GRID_PX: Final = 8  # corners lie on it: on latent cells, and on those of the UNet's next level
LEAST_MARGIN: Final = 1 / 32  # of the square's side, between its edge and the features
EDGE: Final = 1 / 16  # of the square's side, in which changes fade


def follow(landmarks: Floats, previous: Corner | None, *, size_px: int, side_px: int) -> Corner:
    """Return the corner of the square for a clip.

    Args:
        landmarks: [F, P, 2] of the features (`FEATURES`), in pixels of the picture.
        previous: corner of the clip before; None for first clips.
        size_px: side of the picture.
        side_px: side of the square.
    """
    low, high = landmarks.min(axis=(0, 1)), landmarks.max(axis=(0, 1))
    if previous is not None and _is_inside(low, high, previous, size_px, side_px):
        return previous
    free = (low + high - side_px) / 2
    x, y = np.clip(np.round(free / GRID_PX) * GRID_PX, 0, size_px - side_px)
    return int(x), int(y)


def _is_inside(low: Floats, high: Floats, corner: Corner, size_px: int, side_px: int) -> bool:
    # Where the square ends with the picture, the features may reach out of it.
    margin = LEAST_MARGIN * side_px
    return all(
        (start == 0 or low[axis] >= start + margin)
        and (start + side_px == size_px or high[axis] <= start + side_px - margin)
        for axis, start in enumerate(corner)
    )


def cut(rows: Rows, corner: Corner, *, cell_px: int, side_px: int) -> Rows:
    """Return the square of latents or pictures [.., h, w] whose cells are so many pixels wide."""
    (x, y), side = (each // cell_px for each in corner), side_px // cell_px
    return rows[..., y : y + side, x : x + side]


def move(latents: Floats, by: tuple[int, int]) -> Floats:
    """Return latents [.., h, w] of a square as its neighbour by so many cells, right and down.

    Cells that the square did not have repeat its nearest ones.
    """
    x, y = (
        np.clip(np.arange(side) + cells, 0, side - 1)
        for side, cells in zip(latents.shape[:-3:-1], by, strict=True)
    )
    return latents[..., y[:, None], x]


def last_latents(state: ICAState, corner: Corner, *, cell_px: int) -> Floats:
    """Return the last latents [K, C, h, w] of a clip as the square of the next one shows them.

    Args:
        state: what the clip left.
        corner: of the next clip's square, in pixels.
        cell_px: side of a cell of latents, in pixels.
    """
    (x, y), (old_x, old_y) = corner, state.corner
    by = (x - old_x) // cell_px, (y - old_y) // cell_px
    return state.latents if by == (0, 0) else move(state.latents, by)


@cache
def fade(side_px: int) -> Floats:
    """Return how much of a change is shown, [side_px, side_px, 1]: all inside, none at the edge."""
    places = (np.arange(side_px) + 0.5) / side_px
    along = np.clip(np.minimum(places, 1 - places) / EDGE, 0, 1)
    return np.outer(along, along)[..., None].astype(np.float32)
