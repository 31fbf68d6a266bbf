"""Made-up people, filmed: what the camera sees, and what training is told about it."""

from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mimaface.evaluation.agreement import signals
from mimaface.motion import FaceMeshExtractor
from mimaface.training.canonical import load_correspondence
from mimaface.training.casting import cast, set_scene
from mimaface.training.clips import film_clip
from mimaface.training.data import TrainingClip
from mimaface.training.face_model import FaceModel
from mimaface.training.film import Film
from mimaface.training.film_raster import draw_lines, light_vertices, shade, smooth_normals
from mimaface.training.performance import Pose, perform
from mimaface.types import Floats, Pixels

FACE_MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_face_model_light.npz"
needs_face_model = pytest.mark.skipif(
    not FACE_MODEL.exists(), reason="the face model is not in the repository"
)
CALM = Pose(expression={}, gaze=(0.0, 0.0), rotation=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0))
SQUARE = np.array([[0, 0, 0], [8, 0, 0], [8, 8, 0], [0, 8, 0]], np.float32)
HALVES = np.array([[0, 2, 1], [0, 3, 2]], np.int32)  # seen from -z, where the camera is


@cache
def face_model() -> FaceModel:
    return FaceModel.load(FACE_MODEL)


@cache
def film() -> Film:
    rng = np.random.default_rng(2)
    look = cast(rng, strands=600)
    scene = replace(set_scene(rng, look, size_px=192), has_glasses=False)
    return Film(face_model(), look, scene, size_px=192)


@cache
def clip() -> TrainingClip:
    made = film_clip(face_model(), load_correspondence(), seed=1, index=0, frames=4)
    assert made is not None
    return made


def lit(normal: tuple[float, float, float], *, visible: float = 1.0, wrap: float = 0.0) -> Floats:
    diffuse, _ = light_vertices(
        np.array([normal], np.float32),
        np.full((1, 1), visible, np.float32),
        np.array([[0, 0, -1]], np.float32),
        np.ones((1, 3), np.float32),
        np.full((1, 3), wrap, np.float32),
        1,
    )
    return diffuse[0]


def test_normals_point_out_of_the_side_the_corners_turn_left_on() -> None:
    np.testing.assert_allclose(smooth_normals(SQUARE, HALVES), [[0, 0, -1]] * 4, atol=1e-6)


def test_a_surface_is_lit_by_the_cosine_and_not_from_behind() -> None:
    np.testing.assert_allclose(lit((0, 0, -1)), 1)
    np.testing.assert_allclose(lit((0, -0.6, -0.8)), 0.8, rtol=1e-6)
    np.testing.assert_allclose(lit((0, 0, 1)), 0)
    np.testing.assert_allclose(lit((0, 0, -1), visible=0.25), 0.25)
    assert lit((0, -1, 0), wrap=0.3)[0] > 0


def test_paint_covers_texture_as_far_as_it_is_told() -> None:
    index = np.array([[0, 1], [-1, 0]], np.int32)
    weights = np.full((2, 2, 3), 1 / 3, np.float32)
    picture = np.full((2, 2, 3), 9, np.float32)
    paint = np.array([[0.2, 0.2, 0.2, 0.5]] * 4, np.float32)
    shade(
        picture,
        index,
        weights,
        HALVES,
        np.ones((2, 3, 2), np.float32),
        np.array([True, False]),
        np.full((4, 4, 3), 0.8, np.float32),
        paint,
        np.full((4, 3), 2, np.float32),
        np.zeros((4, 3), np.float32),
    )
    assert picture[0, 0, 0] == pytest.approx(2 * 0.5)
    assert picture[0, 1, 0] == pytest.approx(2 * 0.2), "no texture: all paint"
    assert picture[1, 0, 0] == 9, "no surface: untouched"


def test_a_line_hides_behind_what_is_nearer() -> None:
    picture, depth = np.zeros((5, 9, 3), np.float32), np.full((5, 9), np.inf, np.float32)
    depth[:, 4:] = 1
    line = np.array([[[0.5, 2.5, 3], [8.5, 2.5, 3]]], np.float32)
    draw_lines(picture, depth, line, np.ones_like(line), 1, 0.1)
    assert (picture[2, :4] == 1).all()
    assert not picture[2, 4:].any()
    assert not picture[:2].any()


def test_a_performance_is_smooth_but_for_the_eyes_and_moves_everything() -> None:
    poses = perform(np.random.default_rng(0), 400, fps=20.0)
    turns = np.array([pose.rotation for pose in poses])
    assert (np.ptp(turns, axis=0) > 0.2).all()
    assert np.abs(np.diff(turns, axis=0)).max() < 0.1
    for name in ("jawOpen", "eyeBlink_L", "mouthSmile_L", "browInnerUp_R"):
        weights = np.array([pose.expression.get(name, 0.0) for pose in poses])
        assert weights.max() > 0.2, name
        assert weights.min() == 0, name
        assert weights.max() <= 1.5, name


def test_the_same_seed_gives_the_same_performance() -> None:
    first, second = (perform(np.random.default_rng(5), 9, fps=20.0) for _ in range(2))
    assert first == second
    assert first != perform(np.random.default_rng(6), 9, fps=20.0)


@needs_face_model
def test_a_tracker_sees_the_acted_mouth_eyes_and_turn() -> None:
    def seen(pose: Pose) -> dict[str, float]:
        extractor = FaceMeshExtractor()
        picture: Pixels = film().shoot(pose, supersampling=2).pixels
        for time_s in range(4):
            motion = extractor.extract(float(time_s), picture)
        extractor.close()
        assert motion.valid[0]
        found = signals(motion)
        names = ("mouth_opening", "eye_closure", "yaw", "gaze")
        return {name: float(getattr(found, name)[0]) for name in names}

    calm = seen(CALM)
    assert seen(replace(CALM, expression={"jawOpen": 0.8}))["mouth_opening"] > (
        calm["mouth_opening"] + 0.15
    )
    shut = seen(replace(CALM, expression={"eyeBlink_L": 1.0, "eyeBlink_R": 1.0}))
    assert shut["eye_closure"] > calm["eye_closure"] + 0.1
    turned = [seen(replace(CALM, rotation=(0.0, yaw, 0.0)))["yaw"] for yaw in (-0.3, 0.3)]
    assert abs(turned[1] - turned[0]) == pytest.approx(0.6, abs=0.15)
    looks = [seen(replace(CALM, gaze=(right, 0.0)))["gaze"] for right in (-0.4, 0.4)]
    assert abs(looks[1] - looks[0]) > 0.2


@needs_face_model
def test_a_clip_holds_the_true_landmarks_and_a_render_near_the_target() -> None:
    made = clip()
    assert made.target.shape == made.render.shape == (4, 256, 256, 3)
    with closing(FaceMeshExtractor()) as extractor:
        found = [extractor.extract(k / made.fps, made.target[k]).landmarks[0] for k in range(4)]
    apart = np.linalg.norm(np.stack(found)[..., :2] - made.landmarks, axis=2)
    eyes = np.linalg.norm(made.landmarks[:, 33] - made.landmarks[:, 263], axis=1)
    assert np.median(apart / eyes[:, None]) < 0.06
    still = np.broadcast_to(made.source, made.target.shape)
    moved, unmoved = (
        np.abs(made.target.astype(int) - pictures).mean() for pictures in (made.render, still)
    )
    assert moved < 0.8 * unmoved


@needs_face_model
def test_the_same_person_is_filmed_alike_twice() -> None:
    again = film_clip(face_model(), load_correspondence(), seed=1, index=0, frames=4)
    assert again is not None
    np.testing.assert_array_equal(again.target, clip().target)
    np.testing.assert_array_equal(again.signals, clip().signals)
