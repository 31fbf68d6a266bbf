"""The assets made from synthetic faces, and the renderer that makes them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mimaface.face_mesh import EYES, INNER_LIPS, canonical_face, gap
from mimaface.motion import FaceMeshExtractor
from mimaface.photo import only_face, read_photo
from mimaface.training.canonical import (
    EYE_CORNERS,
    TRAGI,
    Correspondence,
    mirror_pairs,
    tessellation,
)
from mimaface.training.face_model import FaceModel, sample_identity
from mimaface.training.portrait import Portrait, render_portrait
from mimaface.training.synthetic import LOOKS

ASSETS = Path(__file__).parents[1] / "mimaface" / "assets"
FACE_MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_face_model_light.npz"
needs_face_model = pytest.mark.skipif(
    not FACE_MODEL.exists(), reason="the face model is not in the repository"
)
SKIN_POINTS = 468


@cache
def face_model() -> FaceModel:
    return FaceModel.load(FACE_MODEL)


def render_small_portrait() -> Portrait:
    look = LOOKS["noor"]
    return render_portrait(
        face_model(), replace(look, seed=8, hair=replace(look.hair, strands=900)), size_px=160
    )


small_portrait = cache(render_small_portrait)


def test_canonical_face_is_measured_in_head_units_from_between_the_tragi() -> None:
    vertices = canonical_face().vertices
    assert vertices.shape == (478, 3)
    left, right = vertices[EYE_CORNERS]
    assert np.linalg.norm(right - left) == pytest.approx(1, abs=1e-5)
    assert left[0] < right[0]
    np.testing.assert_allclose(vertices[TRAGI].mean(0), 0, atol=1e-6)
    assert vertices[152, 1] > vertices[10, 1], "the chin is below the forehead"
    assert vertices[:, 2].argmin() == 4, "the tip of the nose is nearest to the camera"


def test_canonical_face_is_symmetric() -> None:
    vertices = canonical_face().vertices[:SKIN_POINTS]
    pairs = mirror_pairs(vertices, canonical_face().triangles)
    assert (pairs[pairs] == np.arange(SKIN_POINTS)).all()
    np.testing.assert_allclose(vertices, vertices[pairs] * [-1, 1, 1], atol=1e-6)


def test_canonical_triangles_face_outwards_and_leave_eyes_and_mouth_open() -> None:
    triangles = canonical_face().triangles
    assert triangles.shape == (852, 3)
    np.testing.assert_array_equal(triangles, tessellation())
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges), "neighbours are wound alike"
    once = {tuple(edge) for edge in edges.tolist()} - {tuple(edge[::-1]) for edge in edges.tolist()}
    rims = {vertex for edge in once for vertex in edge}
    for contour in (*EYES, INNER_LIPS):
        assert set(contour[0]) | set(contour[1]) <= rims
    a, b, c = (canonical_face().vertices[triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] < 0).mean() > 0.98


def test_canonical_expressions_shut_the_eyes_and_open_the_mouth() -> None:
    with np.load(ASSETS / "canonical_face.npz") as file:
        shapes = dict(zip(file["expression_names"], file["expression_basis"], strict=True))
    neutral = canonical_face().vertices
    blink = neutral + shapes["eyeBlink_L"] + shapes["eyeBlink_R"]
    for eye in EYES:
        assert gap(neutral, eye) > 0.08
        assert gap(blink, eye) < 0.35 * gap(neutral, eye)
    assert gap(neutral, INNER_LIPS) < 0.02
    assert gap(neutral + shapes["jawOpen"], INNER_LIPS) > 0.25


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_portrait_is_one_calm_face_that_looks_at_the_camera(name: str) -> None:
    picture = read_photo(ASSETS / "portraits" / f"{name}.jpg")
    assert picture.shape == (768, 768, 3)
    only_face(picture)
    extractor = FaceMeshExtractor()
    motion = extractor.extract(0.0, picture)
    extractor.close()
    assert motion.valid[0]
    points = motion.landmarks[0, :, :2].astype(np.float64)
    assert 0.36 < points[152, 1] - points[10, 1] < 0.46
    assert np.abs(points[:, 0].mean() - 0.5) < 0.04
    head_unit = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    assert np.linalg.norm(points[13] - points[14]) < 0.02 * head_unit, "the mouth is shut"
    for upper, lower, one, other in ((159, 145, 33, 133), (386, 374, 263, 362)):
        width = np.linalg.norm(points[one] - points[other])
        assert np.linalg.norm(points[upper] - points[lower]) > 0.3 * width, "the eyes are open"
    assert np.abs(motion.rotation[0]).max() < 0.2
    assert np.abs(motion.gaze[0]).max() < 0.25


@needs_face_model
def test_correspondence_puts_the_canonical_face_on_the_model() -> None:
    model = face_model()
    with np.load(ASSETS / "canonical_face.npz") as file:
        places = Correspondence(file["ict_triangle"], file["ict_barycentric"])
    points = places.evaluate(model, model.neutral)
    points = points - points[TRAGI].mean(0)
    points /= np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    assert np.linalg.norm(points - canonical_face().vertices, axis=1).max() < 0.02


@needs_face_model
def test_expression_without_a_side_sets_both_sides() -> None:
    model = face_model()
    both = model.vertices(expression={"eyeBlink_L": 0.5, "eyeBlink_R": 0.5})
    np.testing.assert_array_equal(model.vertices(expression={"eyeBlink": 0.5}), both)
    with pytest.raises(ValueError, match="eyeblink"):
        model.vertices(expression={"eyeblink": 0.5})


@needs_face_model
def test_identities_follow_from_the_seed() -> None:
    drawn = [sample_identity(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    moved = face_model().vertices(drawn[0]) - face_model().vertices(drawn[2])
    assert np.abs(moved).max() > 0.1  # centimetres


@needs_face_model
def test_rendering_the_same_look_gives_the_same_pixels() -> None:
    again = render_small_portrait()
    np.testing.assert_array_equal(again.pixels, small_portrait().pixels)


@needs_face_model
def test_true_landmarks_lie_where_mediapipe_finds_them() -> None:
    with np.load(ASSETS / "canonical_face.npz") as file:
        places = Correspondence(file["ict_triangle"], file["ict_barycentric"])
    portrait = small_portrait()
    true = places.evaluate(face_model(), portrait.vertices)[:SKIN_POINTS, :2]
    extractor = FaceMeshExtractor()
    seen = extractor.extract(0.0, portrait.pixels)
    extractor.close()
    assert seen.valid[0]
    found = seen.landmarks[0, :SKIN_POINTS, :2] * len(portrait.pixels)
    head_unit = np.linalg.norm(true[EYE_CORNERS[0]] - true[EYE_CORNERS[1]])
    assert np.median(np.linalg.norm(found - true, axis=1)) < 0.06 * head_unit
