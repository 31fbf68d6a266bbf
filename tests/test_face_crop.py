from __future__ import annotations

import numpy as np
import pytest

from mimaface.face_crop import GRID_PX, cut, fade, follow, last_latents, move
from mimaface.types import Corner, Floats, ICAState

SIZE, SIDE = 256, 128


def face(*, left: float, top: float, wide: float = 80) -> Floats:
    """The corners of a face of two frames, the second a pixel lower."""
    frame = np.array([(left, top), (left + wide, top + wide)], np.float32)
    return np.stack([frame, frame + np.float32([0, 1])])


def place(landmarks: Floats, previous: Corner | None = None) -> Corner:
    return follow(landmarks, previous, size_px=SIZE, side_px=SIDE)


def test_the_square_lies_around_the_face() -> None:
    x, y = place(face(left=90, top=70))
    assert abs(x + SIDE / 2 - 130) <= GRID_PX / 2
    assert abs(y + SIDE / 2 - 110.5) <= GRID_PX / 2
    assert x % GRID_PX == y % GRID_PX == 0


def test_the_square_stays_as_long_as_the_face_is_well_inside() -> None:
    start = place(face(left=90, top=70))
    corner = start
    for shift in range(-16, 17, 4):
        corner = place(face(left=90 + shift, top=70), corner)
    assert corner == start


def test_the_square_goes_after_a_face_that_leaves_it() -> None:
    start = place(face(left=90, top=70))
    assert place(face(left=130, top=70), start) == place(face(left=130, top=70))
    assert place(face(left=130, top=70), start) != start


@pytest.mark.parametrize("left", [-60, 240])
def test_the_square_ends_with_the_picture_and_the_face_may_reach_out_of_it(left: float) -> None:
    corner = place(face(left=left, top=70))
    assert corner[0] == (0 if left < 0 else SIZE - SIDE)
    assert place(face(left=left, top=74), corner) == corner


def test_a_face_larger_than_the_square_is_in_its_middle() -> None:
    assert place(face(left=50, top=50, wide=160)) == (64, 64)


def test_what_is_cut_out_lies_at_the_corner() -> None:
    rows = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    part = cut(rows, (40, 80), cell_px=4, side_px=SIDE)
    assert part.shape == (1, 32, 32)
    assert part[0, 0, 0] == rows[0, 20, 10]


def test_moved_latents_are_those_of_the_square_there() -> None:
    picture = np.random.default_rng(0).standard_normal((2, 48, 64, 64)).astype(np.float32)
    here, there = (cut(picture, corner, cell_px=4, side_px=SIDE) for corner in ((40, 80), (48, 72)))
    moved = move(here, (2, -2))
    np.testing.assert_array_equal(moved[..., 2:, :-2], there[..., 2:, :-2])
    # What the first square did not have is as its nearest cells are.
    np.testing.assert_array_equal(moved[..., 2:, -1], here[..., :-2, -1])


def test_changes_fade_at_the_edge_and_nowhere_else() -> None:
    share = fade(SIDE)[..., 0]
    assert share[8:-8, 8:-8].min() == 1
    assert share[0].max() < 0.1
    assert share[:, -1].max() < 0.1
    assert (np.diff(share[:9], axis=0) >= 0).all()


def test_what_a_clip_left_is_seen_from_the_next_ones_square() -> None:
    cells = np.random.default_rng(0).random((4, 16, 16), np.float32)  # of 4 pixels
    left = cut(cells, (16, 24), cell_px=4, side_px=32)[None]
    state = ICAState(
        latents=left,
        signals=np.zeros((1, 3), np.float32),
        render_latents=None,
        next_frame=1,
        corner=(16, 24),
    )
    np.testing.assert_array_equal(last_latents(state, (16, 24), cell_px=4), left)
    moved = last_latents(state, (24, 20), cell_px=4)
    wanted = cut(cells, (24, 20), cell_px=4, side_px=32)
    np.testing.assert_array_equal(moved[0, :, 1:, :-2], wanted[:, 1:, :-2])
