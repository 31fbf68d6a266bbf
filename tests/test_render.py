"""Drawing a portrait: the rasteriser, and what the moved picture must and must not show."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mimaface.appearance import encode_photo
from mimaface.evaluation.agreement import signals
from mimaface.face_mesh import EYES, INNER_LIPS, Contour, canonical_face, rims
from mimaface.motion import FaceMeshExtractor
from mimaface.plates import Canvas, paint_lids, paint_rim
from mimaface.raster import LEFT_EYE, SKIN, SURROUND, rasterize, soften
from mimaface.render import WIDENED, place_landmarks, render
from mimaface.types import Appearance, Floats, MeshRender, Motion, Pixels, Reals

TURNS = [(0.0, 0.52, 0.0), (0.0, -0.52, 0.0), (0.35, 0.0, 0.0), (-0.35, 0.0, 0.0), (0.2, 0.4, 0.2)]


@pytest.fixture(scope="module", params=[256, 512])
def appearance(request: pytest.FixtureRequest, portrait: Path) -> Appearance:
    return encode_photo(portrait, size_px=request.param)


def pose(
    *, turn: tuple[float, float, float] = (0, 0, 0), gaze: float = 0.0, **shapes: float
) -> Motion:
    expression = sum(
        (weight * canonical_face().expressions[name].ravel() for name, weight in shapes.items()),
        np.zeros(canonical_face().vertices.size),
    )
    return replace(
        Motion.missing(0.0),
        rotation=np.array([turn], np.float32),
        gaze=np.array([[gaze, 0, gaze, 0]], np.float32),
        expression=expression[None].astype(np.float32),
        is_relative=True,
    )


def draw(appearance: Appearance, motion: Motion) -> MeshRender:
    return render(appearance.mesh, motion)


def measured(picture: Pixels) -> Motion:
    extractor = FaceMeshExtractor()
    for time_s in (0.0, 0.1, 0.2):  # the tracker settles
        seen = extractor.extract(time_s, picture)
    extractor.close()
    assert seen.valid[0], "no face in the render"
    return seen


def test_the_nearer_triangle_wins_in_either_order() -> None:
    far = [[0, 0, 9], [40, 0, 9], [0, 40, 9]]
    near = [[0, 0, 2], [40, 0, 2], [0, 40, 2]]
    points = np.array(far + near, np.float32)
    for order in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        index, _ = rasterize(points, np.array(order, np.int32), 32, 32)
        assert order[index[5, 5]] == [3, 4, 5]


def test_neighbouring_triangles_leave_no_crack() -> None:
    rng = np.random.default_rng(0)
    side = 24
    x, y = np.meshgrid(np.linspace(-2, 66, side), np.linspace(-2, 66, side))
    jitter = rng.uniform(-1, 1, (2, side, side))
    depth = rng.uniform(3, 4, (side, side))
    points = np.stack([x + jitter[0], y + jitter[1], depth], axis=-1).reshape(-1, 3)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + side], 1),
            np.stack([corner + 1, corner + side + 1, corner + side], 1),
        ]
    )
    index, weights = rasterize(points.astype(np.float32), triangles.astype(np.int32), 64, 64)
    assert (index >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-4)


@pytest.mark.parametrize("width", [60.0, 2.0, 0.3, 1e-4, 1e-30])
def test_a_triangle_covers_the_pixels_whose_centres_lie_in_it(width: float) -> None:
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(32), np.arange(32)), axis=-1) + 0.5
    for _ in range(50):
        start = rng.uniform(-8, 40, 2)
        away = start + rng.uniform(-width, width, (2, 2)) + rng.choice([0, 30], 2)[:, None]
        corners = np.concatenate([[start], away]).astype(np.float32)
        points = np.column_stack([corners, np.ones(3, np.float32)])
        index, _ = rasterize(points, np.array([[0, 1, 2]], np.int32), 32, 32)
        (ax, ay), (bx, by), (cx, cy) = corners.astype(float)
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        x, y = centres[..., 0], centres[..., 1]
        if abs(area) < 1e-3:  # a line: whether it meets a centre is rounding
            continue
        u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area
        v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area
        inside = np.minimum(np.minimum(u, v), 1 - u - v)
        assert (index[inside > 1e-3] == 0).all()
        assert (index[inside < -1e-3] < 0).all()


def test_weights_are_correct_in_perspective() -> None:
    # A floor that recedes from depth 1 to depth 3; along the picture 1 / depth is linear.
    depths = np.array([1, 1, 3], np.float32)
    points = np.array([[0, 64, 1], [64, 64, 1], [32, 0, 3]], np.float32)
    _, weights = rasterize(points, np.array([[0, 1, 2]], np.int32), 64, 64)
    share = 1 - 32.5 / 64
    assert weights[32, 32] @ depths == pytest.approx(1 / ((1 - share) / 1 + share / 3), rel=1e-4)


def test_without_motion_the_portrait_is_itself(appearance: Appearance) -> None:
    drawn = draw(appearance, pose()).pixels[0]
    error = (drawn.astype(float) - appearance.source) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 30


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_head_has_no_cracks(
    appearance: Appearance, turn: tuple[float, float, float]
) -> None:
    coverage = draw(appearance, pose(turn=turn)).coverage[0]
    around = cv2.medianBlur(coverage, 5)
    assert not ((around > 250) & (coverage < 128)).any()


@pytest.fixture(scope="module")
def resting(appearance: Appearance) -> Motion:
    """What the tracker sees of the portrait that does not move."""
    return measured(draw(appearance, pose()).pixels[0])


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_head_turns_for_the_tracker_too(
    appearance: Appearance, resting: Motion, turn: tuple[float, float, float]
) -> None:
    before, after = resting, measured(draw(appearance, pose(turn=turn)).pixels[0])
    np.testing.assert_allclose((after.rotation - before.rotation)[0], turn, atol=0.16)


def test_the_background_stays_where_it_is(appearance: Appearance) -> None:
    still, turned = (draw(appearance, pose(turn=turn)) for turn in ((0, 0, 0), (0.1, 0.4, 0.1)))
    behind = (still.coverage[0] == 0) & (turned.coverage[0] == 0)
    assert behind.mean() > 0.15
    # A level, where the person has less of a pixel than one in 255.
    assert np.abs(still.pixels[0].astype(int) - turned.pixels[0])[behind].max() <= 1


def test_shoulders_rest_while_the_head_turns(appearance: Appearance) -> None:
    still, turned = (
        draw(appearance, pose(turn=turn)).pixels[0] for turn in ((0, 0, 0), (0, 0.4, 0))
    )
    size = appearance.mesh.size_px
    moved = np.abs(still.astype(int) - turned).mean(axis=(1, 2))
    assert moved[-size // 16 :].mean() < 0.15 * moved[size // 4 : size // 2].mean()


def test_the_mouth_opens_onto_a_dark_gap(appearance: Appearance) -> None:
    shut, opened = (draw(appearance, pose(jawOpen=weight)) for weight in (0, 0.7))
    x, y = measured(opened.pixels[0]).landmarks[0, [13, 14], :2].mean(axis=0)
    row, column = (int(v * appearance.mesh.size_px) for v in (y, x))
    assert opened.pixels[0][row, column].mean() < 0.75 * shut.pixels[0][row, column].mean()
    gaps = [signals(measured(c.pixels[0])).mouth_opening[0] for c in (shut, opened)]
    assert gaps[1] > gaps[0] + 0.1


GREEN = (40, 200, 60)  # nobody's eyes or teeth: what is green was seen in the photo


def painted(portrait: Path, *contours: Contour, **shapes: float) -> tuple[Appearance, int]:
    """Encode a portrait with these shapes, all inside the contours green, so many pixels."""
    photo = draw(encode_photo(portrait, size_px=512), pose(**shapes)).pixels[0]
    places = (measured(photo).landmarks[0, :, :2] * len(photo)).astype(np.int32)
    inside = np.zeros(photo.shape[:2], np.uint8)
    for contour in contours:
        cv2.fillConvexPoly(inside, cv2.convexHull(places[list(chain(*contour))]), 1)
    photo[inside > 0] = GREEN
    return encode_photo(photo, size_px=512), int(inside.sum())


def greens(appearance: Appearance, **shapes: float) -> NDArray[np.int_]:
    """Return how bright the green of each green pixel is."""
    red, green, blue = np.moveaxis(draw(appearance, pose(**shapes)).pixels[0].astype(int), -1, 0)
    return green[(green > red + blue) & (green > 20)]


SMILE = {"jawOpen": 0.25, "mouthSmile_L": 0.5, "mouthSmile_R": 0.5}


def test_a_photo_that_shows_teeth_keeps_its_own(portrait: Path) -> None:
    appearance, shown = painted(portrait, INNER_LIPS, **SMILE)
    assert len(greens(appearance)) < 0.01 * shown, "neutral lips are shut over them"
    assert len(greens(appearance, jawOpen=0.3)) > 0.4 * shown


def test_less_light_reaches_teeth_behind_lips_that_just_part(portrait: Path) -> None:
    appearance, _ = painted(portrait, INNER_LIPS, **SMILE)
    parted, opened = (
        float(np.median(greens(appearance, jawOpen=weight))) for weight in (0.15, 0.4)
    )
    assert parted < 0.85 * opened


def test_nothing_of_an_eye_is_seen_through_its_shut_lids(portrait: Path) -> None:
    appearance, shown = painted(portrait, *EYES)
    assert len(greens(appearance)) > 0.7 * shown
    assert len(greens(appearance, eyeBlink_L=1.2, eyeBlink_R=1.2)) == 0


def test_edges_are_soft() -> None:
    index = np.tile(np.repeat(np.int32([0, 1]), 8), (16, 1))
    hard = np.repeat((160 * index).astype(np.uint8)[..., None], 3, axis=2)
    at_rest = np.stack(np.meshgrid(*2 * [2 * np.arange(16, dtype=np.float32)]), axis=-1)
    torn = at_rest + 20 * index[..., None].astype(np.float32)

    def softened(kinds: list[int], where: Floats) -> Pixels:
        soft, matte = hard.copy(), hard[..., 0].copy()
        soften(soft, matte, index, np.uint8(kinds), where, (1, 1, 15, 15))
        np.testing.assert_array_equal(matte, soft[..., 0])
        return soft

    soft = [0] * 7 + [40, 120] + [160] * 7
    np.testing.assert_array_equal(softened([SKIN, LEFT_EYE], at_rest)[8, :, 0], soft)
    # The cheek before the ear, but not skin beside skin.
    np.testing.assert_array_equal(softened([SKIN, SURROUND], torn)[8, :, 0], soft)
    np.testing.assert_array_equal(softened([SKIN, SKIN], at_rest), hard)


def test_a_turn_widens_the_rim_of_the_face_but_little(appearance: Appearance) -> None:
    def across(yaw: float) -> Reals:
        rim, inside, _ = rims()
        [points] = place_landmarks(appearance.mesh, pose(turn=(0, yaw, 0)))
        return np.linalg.norm(points[rim] - points[inside], axis=1)

    still, turned = across(0), across(0.35)
    widened = (turned / still)[still > 0.01 * appearance.mesh.scale]
    assert widened.max() == pytest.approx(WIDENED[1], rel=0.15)  # held by nothing: 6.5


def test_skin_is_carried_on_over_what_lies_on_the_rim_of_a_face() -> None:
    points = 100 * (canonical_face().vertices[:, :2] + 1.0)
    rim, inside, _ = rims()
    rgb = np.full((220, 200, 3), 180, np.uint8)
    ear = (points[rim] + 0.2 * (points[inside] - points[rim]))[6:10].astype(np.int32)
    cv2.polylines(rgb, [ear], False, (60, 20, 20), thickness=2)
    matte = np.full(rgb.shape[:2], 255, np.uint8)
    skin = paint_rim(Canvas(rgb, np.zeros(2), 1.0), matte, points)
    face = np.zeros_like(matte)
    cv2.fillPoly(face, [points[rim].astype(np.int32)], 1)
    face = cv2.erode(face, np.ones((3, 3)))
    assert rgb[face > 0].min() < 50
    assert skin[face > 0, :3].min() > 150
    np.testing.assert_array_equal(skin[:40, :40, :3], rgb[:40, :40])


def test_eyes_shut_with_skin(appearance: Appearance) -> None:
    opened, shut = (
        draw(appearance, pose(eyeBlink_L=weight, eyeBlink_R=weight)).pixels[0] for weight in (0, 1)
    )
    closures = [-signals(measured(picture)).eye_closure[0] for picture in (opened, shut)]
    assert closures[1] < 0.6 * closures[0]
    # Where the iris was there is now the colour of the lid above it, not a squeezed eye.
    seen = measured(opened).landmarks[0] * appearance.mesh.size_px
    for iris, brow in ((468, 105), (473, 334)):
        x, y = (int(v) for v in seen[iris, :2])
        lid_y = int((seen[iris, 1] + seen[brow, 1]) / 2)
        lid = opened[lid_y, x].astype(float)
        assert np.abs(shut[y - 1, x] - lid).mean() < 0.6 * np.abs(opened[y, x] - lid).mean()


def test_lids_are_lined_with_lashes_on_their_way_down_and_when_they_meet(
    appearance: Appearance,
) -> None:
    for weight in (0.6, 1.0):
        drawn = draw(appearance, pose(eyeBlink_L=weight, eyeBlink_R=weight))
        picture, places = drawn.pixels[0].astype(float), drawn.landmarks[0]
        for eye in EYES:
            x, y = places[list(eye[0][2:-2])].mean(axis=0)  # the middle of the upper lid's edge
            column = picture[:, round(float(x))].mean(axis=1)
            row = round(float(y))
            skin = column[row - 12 : row - 6].mean()
            assert column[row - 3 : row + 1].min() < 0.65 * skin, weight


def test_a_head_that_comes_nearer_is_drawn_larger(appearance: Appearance) -> None:
    start = pose()
    nearer = replace(start, translation=start.translation + np.float32([0, 0, np.log(1.1)]))
    one, other = (render(appearance.mesh, each).landmarks[0] for each in (start, nearer))
    assert np.ptp(other, axis=0) / np.ptp(one, axis=0) == pytest.approx((1.1, 1.1), abs=1e-3)


def test_shut_lids_are_skin_where_lashes_are_dark() -> None:
    points = 100 * (canonical_face().vertices[:, :2] + 1.0)
    rgb = np.full((200, 200, 3), 180, np.uint8)
    outlines = [points[[*upper, *lower[-2:0:-1]]].astype(np.int32) for upper, lower in EYES]
    for outline in outlines:  # lashes and their shadow reach beyond the lids
        cv2.polylines(rgb, [outline], True, (40, 30, 30), thickness=5)
    lids = paint_lids(Canvas(rgb, np.zeros(2), 1.0), points)
    is_dark = (rgb < 100).all(axis=-1)
    assert is_dark.sum() > 200
    assert lids[is_dark].min() > 170


def test_the_gaze_moves_the_irises(appearance: Appearance) -> None:
    left, right = (
        signals(measured(draw(appearance, pose(gaze=angle)).pixels[0])).gaze[0]
        for angle in (-0.3, 0.3)
    )
    assert right > left + 0.2


def test_frames_of_a_clip_are_drawn_as_if_alone(appearance: Appearance) -> None:
    moves = [pose(turn=(0.1, 0.2, 0)), pose(jawOpen=0.5), pose(eyeBlink_L=1)]
    together = draw(appearance, Motion.concatenate(moves)).pixels
    alone = np.concatenate([draw(appearance, move).pixels for move in moves])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("row", "far"), [("expression", 1e30), ("expression", np.nan), ("gaze", np.nan)]
)
def test_motion_that_leads_nowhere_is_an_error(
    appearance: Appearance, row: str, far: float
) -> None:
    nowhere = pose()
    getattr(nowhere, row)[0, 0] = far
    with pytest.raises(ValueError, match="leads too far away, or to no numbers"):
        draw(appearance, nowhere)


def test_an_eye_without_width_is_one_error(appearance: Appearance) -> None:
    (left, *_, right), _ = EYES[0]
    shape, proportions = appearance.mesh.shape.copy(), appearance.mesh.proportions.copy()
    shape[left], proportions[left] = shape[right], proportions[right]
    mesh = replace(appearance.mesh, shape=shape, proportions=proportions)
    with pytest.raises(ValueError, match="leaves an eye or the mouth no width"):
        render(mesh, pose())


def test_wild_motion_still_gives_a_picture(appearance: Appearance) -> None:
    wild = replace(
        pose(turn=(3.0, -9.0, 2.0), gaze=7.0, jawOpen=20.0),
        translation=np.array([[90, -50, 3]], np.float32),
    )
    drawn = draw(appearance, wild).pixels[0]
    assert drawn.std() > 10
