"""The official face model: its file, its geometry and its render."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mimaface import bfm
from mimaface.alignment import TEMPLATE_256, five_points
from mimaface.bfm import BfmModel, BfmSource, Coefficients, make_source, project, render
from mimaface.errors import WeightsError
from mimaface.face_mesh import canonical_face
from mimaface.raster import turn
from mimaface.stand_in_face import stand_in
from mimaface.training.canonical import mirror_pairs

STILL = np.zeros(3)


def person(model: BfmModel, *, lighting: np.ndarray | None = None) -> BfmSource:
    return make_source(
        model,
        identity=np.zeros(80),
        texture=np.zeros(80),
        lighting=np.zeros(27) if lighting is None else lighting,
    )


def as_in_the_file(model: BfmModel) -> dict[str, np.ndarray]:
    count = len(model.mean_shape)
    return {
        "meanshape": model.mean_shape.reshape(1, -1),
        "idBase": model.identity_basis.reshape(3 * count, -1),
        "exBase": model.expression_basis.reshape(3 * count, -1),
        "meantex": model.mean_texture.reshape(1, -1),
        "texBase": model.texture_basis.reshape(3 * count, -1),
        "tri": model.triangles + 1.0,
        "point_buf": model.neighbours + 1.0,
        "keypoints": model.keypoints[None] + 1.0,
    }


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = stand_in()
    savemat(tmp_path / "model.mat", as_in_the_file(model))
    read = BfmModel.load(tmp_path / "model.mat")
    centred = model.mean_shape - model.mean_shape.mean(axis=0)
    np.testing.assert_allclose(read.mean_shape, centred, atol=1e-6)
    for name in ("identity_basis", "expression_basis", "mean_texture", "texture_basis"):
        np.testing.assert_array_equal(getattr(read, name), getattr(model, name))
        assert getattr(read, name).flags.c_contiguous
    for name in ("triangles", "neighbours", "keypoints"):
        np.testing.assert_array_equal(getattr(read, name), getattr(model, name))


def test_one_error_names_every_array_that_is_wrong() -> None:
    arrays = as_in_the_file(stand_in())
    del arrays["idBase"], arrays["tri"]
    arrays["meantex"] = arrays["meantex"][:, :-5]
    arrays["keypoints"] = arrays["keypoints"] * 1000
    with pytest.raises(WeightsError) as caught:
        BfmModel.from_arrays(arrays, name="a.mat")
    message = str(caught.value)
    assert "a.mat" in message
    for name in ("idBase is missing", "tri is missing", "meantex must", "keypoints must"):
        assert name in message
    for name in ("exBase", "texBase", "meanshape"):
        assert name not in message


def test_an_index_beyond_the_arrays_is_refused() -> None:
    for name, value in (("tri", 0), ("tri", 479), ("point_buf", 854), ("keypoints", np.nan)):
        arrays = as_in_the_file(stand_in())
        arrays[name].flat[7] = value
        with pytest.raises(WeightsError, match=f"{name} must hold"):
            BfmModel.from_arrays(arrays)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no face model"):
        BfmModel.load(tmp_path / "nowhere.mat")
    for content in (b"", b"not a .mat file at all" * 20):
        (tmp_path / "broken.mat").write_bytes(content)
        with pytest.raises(WeightsError, match=r"broken\.mat"):
            BfmModel.load(tmp_path / "broken.mat")


def test_vectors_are_taken_apart_in_order() -> None:
    vectors = np.arange(2 * 261).reshape(2, 261).astype(np.float32)
    face = Coefficients.split(vectors)
    order = ("identity", "expression", "texture", "rotation", "lighting", "translation", "gaze")
    np.testing.assert_array_equal(
        np.concatenate([getattr(face, name) for name in order], axis=1), vectors
    )
    assert face.lighting[0, 0] == 227
    short = Coefficients.split(vectors[0, :257])
    np.testing.assert_array_equal(short.translation, face.translation[0])
    np.testing.assert_array_equal(short.gaze, np.zeros(4))
    with pytest.raises(ValueError, match="found 260"):
        Coefficients.split(vectors[:, :260])


def test_landmarks_of_both_sides_mirror_each_other() -> None:
    face = canonical_face()
    pairs = mirror_pairs(face.vertices[:468], face.triangles)
    mirrored = {int(pairs[point]) for point in bfm.MULTI_PIE}
    assert mirrored == set(bfm.MULTI_PIE)
    assert len(mirrored) == bfm.KEYPOINTS
    # The outline, the brows and the outer lips run from the picture's left to its right.
    for start, end in ((0, 17), (17, 27), (48, 55)):
        run = list(bfm.MULTI_PIE[start:end])
        assert [int(pairs[point]) for point in run] == run[::-1]
        assert (np.diff(face.vertices[run, 0]) > 0).all()


def test_the_stand_in_fills_the_crop_as_an_aligned_face_does() -> None:
    five = five_points(project(stand_in().mean_shape)[:, :2])
    assert np.linalg.norm(five - TEMPLATE_256, axis=1).max() < 4


def test_the_stand_in_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(stand_in().identity_basis, stand_in().identity_basis)


def test_subdividing_adds_triangles_and_changes_nothing_else() -> None:
    coarse, fine = stand_in(), stand_in(1)
    assert len(fine.triangles) == 4 * len(coarse.triangles)
    assert fine.triangles.max() < len(fine.mean_shape)
    np.testing.assert_array_equal(fine.keypoints, coarse.keypoints)
    expression = np.zeros(64)
    expression[list(canonical_face().expressions).index("jawOpen")] = 0.6
    drawn = [
        render(model, person(model), expression=expression, rotation=STILL, translation=STILL)
        for model in (coarse, fine)
    ]
    assert (drawn[0][1] != drawn[1][1]).mean() < 1e-3
    assert np.abs(drawn[0][0] - drawn[1][0]).mean() < 3, "only the shading is finer"


def test_every_triangle_around_a_vertex_shapes_its_normal() -> None:
    for model in (stand_in(), stand_in(1)):
        for vertex in range(0, len(model.mean_shape), 97):
            around = np.flatnonzero((model.triangles == vertex).any(axis=1))
            listed = model.neighbours[vertex]
            assert set(listed[listed < len(model.triangles)]) == set(around)


def test_normals_point_out_of_the_face() -> None:
    model = stand_in()
    normals = bfm.vertex_normals(model, model.mean_shape)[:468]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert normals[4, 2] > 0.8, "the tip of the nose looks at the camera"
    cheeks = normals[[234, 454], 0]
    assert cheeks[0] < 0 < cheeks[1]


def test_turning_is_about_the_axes_one_by_one() -> None:
    nodding, shaking, tilting = (bfm.row_rotation(0.3 * axis) for axis in np.eye(3))
    np.testing.assert_allclose(
        bfm.row_rotation(np.full(3, 0.3)), nodding @ shaking @ tilting, atol=1e-12
    )
    forward = np.array([0.0, 0.0, 1.0])
    assert (forward @ shaking)[0] > 0, "the face turns to the picture's right"
    assert (forward @ nodding)[1] < 0, "the face looks down"
    assert (np.array([1.0, 0, 0]) @ tilting)[1] > 0, "the right eye goes up"


def test_the_mask_is_where_the_face_is() -> None:
    source = person(stand_in())
    rgb, mask = render(
        stand_in(), source, expression=np.zeros(64), rotation=STILL, translation=STILL
    )
    assert rgb.shape == (256, 256, 3)
    assert rgb.dtype == np.float32
    assert mask.dtype == np.bool_
    assert (rgb[~mask] == 0).all()
    assert (rgb[mask].min(axis=0) > 20).all()
    assert mask[150, 128], "the nose"
    assert not mask[5, 5]


def test_colours_stay_from_0_to_255() -> None:
    lighting = np.random.default_rng(0).normal(0, 3, 27)
    source = person(stand_in(), lighting=lighting)
    rgb, _ = render(stand_in(), source, expression=np.zeros(64), rotation=STILL, translation=STILL)
    assert rgb.min() == 0
    assert rgb.max() == 255


def test_light_stays_in_the_room_while_the_head_turns() -> None:
    lighting = np.zeros((3, 9))
    lighting[:, 3] = -0.5  # from the picture's right
    source = person(stand_in(), lighting=lighting.ravel())
    for yaw in (-0.4, 0.0, 0.4):
        rgb, mask = render(
            stand_in(),
            source,
            expression=np.zeros(64),
            rotation=np.array([0, yaw, 0]),
            translation=STILL,
        )
        columns = np.flatnonzero(mask.any(axis=0))
        left, right = np.array_split(columns, 2)
        brightness = [rgb[:, half][mask[:, half]].mean() for half in (left, right)]
        assert brightness[1] > 1.2 * brightness[0]


def test_a_nearer_face_is_larger() -> None:
    source = person(stand_in())
    sizes = [
        render(
            stand_in(),
            source,
            expression=np.zeros(64),
            rotation=STILL,
            translation=np.array([0, 0, z]),
        )[1].sum()
        for z in (-2.0, 0.0, 1.0)
    ]
    assert sizes == sorted(sizes)


def test_wild_coefficients_still_give_a_picture() -> None:
    source, rng = person(stand_in()), np.random.default_rng(1)
    for translation in ([0, 0, 9.5], [0, 0, 30], [1e8, -1e8, 0], [0, 0, -1e8]):
        rgb, _ = render(
            stand_in(),
            source,
            expression=rng.normal(0, 50, 64),
            rotation=rng.normal(0, 9, 3),
            translation=np.array(translation),
        )
        assert np.isfinite(rgb).all()


def test_rows_are_turned_as_a_product_of_matrices() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(0, 1, (20, 3)).astype(np.float32)
    rotation = bfm.row_rotation(rng.normal(0, 1, 3)).astype(np.float32)
    shift = rng.normal(0, 1, 3).astype(np.float32)
    np.testing.assert_allclose(turn(rows, rotation, shift), rows @ rotation + shift, atol=1e-5)
