"""The crops of a face: where its points go, and the pictures that go with them."""

import cv2
import numpy as np
import pytest
import torch

from mimaface.alignment import (
    TEMPLATE_256,
    align_256,
    five_points,
    invert,
    similarity,
    warp_affine,
)
from mimaface.face_mesh import canonical_face

MATRIX = np.array([[0.8, -0.3, 20.0], [0.3, 0.8, -5.0]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_a_similarity_is_found_again() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    np.testing.assert_allclose(similarity(points, moved(points, MATRIX)), MATRIX, atol=1e-10)


def test_a_similarity_never_mirrors() -> None:
    matrix = similarity(TEMPLATE_256 * [-1, 1], TEMPLATE_256)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_points_without_extent_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="all be the same"):
        align_256(np.ones((5, 2)))


def test_inverting_leads_back() -> None:
    points = np.random.default_rng(1).uniform(0, 100, (7, 2))
    np.testing.assert_allclose(moved(moved(points, MATRIX), invert(MATRIX)), points, atol=1e-10)


def test_the_canonical_face_fits_the_template() -> None:
    points = five_points(canonical_face().vertices[:, :2])
    fitted = moved(points, align_256(points))
    assert np.linalg.norm(fitted - TEMPLATE_256, axis=1).max() < 6, "of 256 pixels"


def test_warping_is_what_cv2_does() -> None:
    # cv2 counts fractions of a pixel in 32nds, so the picture is smooth.
    noise = np.random.default_rng(2).uniform(0, 1, (60, 50, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 3)
    expected = cv2.warpAffine(picture, MATRIX, (70, 40), flags=cv2.INTER_LINEAR)
    images = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())
    warped = warp_affine(images, torch.from_numpy(MATRIX[None]), (40, 70))
    assert warped.shape == (1, 3, 40, 70)
    np.testing.assert_allclose(warped[0].numpy().transpose(1, 2, 0), expected, atol=0.02)


def test_warping_by_whole_pixels_copies_them() -> None:
    images = torch.rand(2, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    shifts = torch.tensor([[[1.0, 0, 2], [0, 1, 1]], [[1, 0, 0], [0, 1, 0]]])
    warped = warp_affine(images, shifts, (6, 9))
    torch.testing.assert_close(warped[0, :, 1:, 2:], images[0, :, :-1, :-2])
    assert warped[0, :, 0].max() < 1e-6, "zeros come in"
    torch.testing.assert_close(warped[1], images[1])


def test_pictures_keep_their_type() -> None:
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    matrices = torch.eye(3)[None, :2]
    warped = warp_affine(images, matrices, (8, 8))
    assert warped.dtype == torch.float16
    torch.testing.assert_close(warped, images, atol=1e-3, rtol=0)
