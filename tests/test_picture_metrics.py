"""What pictures are measured with, against cases made by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from mimaface.errors import MimafaceError
from mimaface.evaluation.metrics import (
    MOST_PSNR,
    binned,
    face_regions,
    flicker,
    optical_flow,
    psnr,
    seam_jump,
    sharpness,
    slope,
    ssim,
)
from mimaface.face_mesh import canonical_face
from mimaface.types import Pixels


def textured(seed: int = 0, *, size: int = 96) -> Pixels:
    """Return a picture of soft blobs."""
    noise = np.random.default_rng(seed).uniform(size=(size // 8, size // 8, 3)).astype(np.float32)
    big = torch.nn.functional.interpolate(
        torch.from_numpy(noise).permute(2, 0, 1)[None], size=(size, size), mode="bicubic"
    )
    return (big[0].permute(1, 2, 0).clamp(0, 1) * 255).to(torch.uint8).numpy()


def test_psnr_is_that_of_the_textbook_and_of_torchmetrics() -> None:
    real = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(real, real + np.uint8(10)) == pytest.approx(20 * np.log10(25.5))
    one, other = textured(0), textured(1)
    known = peak_signal_noise_ratio(
        torch.tensor(other).float(), torch.tensor(one).float(), data_range=(0.0, 255.0)
    )
    assert psnr(one, other) == pytest.approx(float(known), rel=1e-5)
    assert psnr(one, one) == MOST_PSNR


def test_psnr_of_a_region_pools_the_squared_error_there() -> None:
    real = np.zeros((4, 4, 3), np.uint8)
    output = real.copy()
    output[0, 0] = 30
    mask = np.zeros((4, 4), np.bool_)
    mask[0, :2] = True  # one pixel of two is wrong
    assert psnr(real, output, mask) == pytest.approx(10 * np.log10(255**2 / 450))
    assert psnr(real, output, ~mask) == MOST_PSNR


def test_ssim_is_one_of_the_same_picture_and_its_map_says_where_it_is_not() -> None:
    real = textured()
    same, _ = ssim(real, real)
    assert same == pytest.approx(1)
    output = real.copy()
    output[:40, :40] = 255 - output[:40, :40]
    other, where = ssim(real, output)
    assert other < 0.9
    assert where.shape == (96, 96)
    assert where[8:32, 8:32].mean() < 0.2 < 0.99 < where[60:, 60:].mean()


def test_ssim_without_torchmetrics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(MimafaceError, match=r"pip install 'mimaface\[train\]'"):
        ssim(textured(), textured())


def test_the_regions_are_boxes_around_eyes_and_mouth() -> None:
    face = canonical_face().vertices[:, :2] * 60 + 128
    mask = face_regions(face.astype(np.float32), 256)
    for vertex in (105, 334, 159, 386, 468, 473, 13, 14, 61, 291):
        x, y = face[vertex].astype(int)
        assert mask[y, x]
    for vertex in (1, 152, 10, 234):  # nose, chin, forehead, ear
        x, y = face[vertex].astype(int)
        assert not mask[y, x]
    lips = face[[61, 291], 0]
    left = lips.min() - 0.15 * np.ptp(lips)
    y = int(face[61, 1])
    assert mask[y, int(np.ceil(left))]
    assert not mask[y, int(np.floor(left)) - 2]


def test_regions_outside_the_picture_are_cut_off() -> None:
    face = canonical_face().vertices[:, :2].astype(np.float32) * 60
    assert not face_regions(face - 900, 64).any()
    assert 0 < face_regions(face, 64).mean() < 1


def test_sharpness_grows_with_contrast_squared_and_leaves_the_edge_out() -> None:
    real = textured() // 4
    assert sharpness(2 * real) == pytest.approx(4 * sharpness(real), rel=1e-3)
    framed = real.copy()
    framed[-1] = 255
    assert sharpness(framed) == sharpness(real)
    mask = np.ones((96, 96), np.bool_)
    assert sharpness(framed, mask) > sharpness(real, mask)


def test_motion_is_no_flicker_but_a_change_of_light_is() -> None:
    wide = textured(size=128)
    before, now = wide[:96, :96], wide[2:98, 3:99]
    moved = flicker(now, before, optical_flow(now, before))
    still = flicker(now, before, np.zeros((96, 96, 2), np.float32))
    assert moved < 0.25 * still
    brighter = np.minimum(before, 245) + np.uint8(10)
    flow = np.zeros((96, 96, 2), np.float32)
    assert flicker(brighter, np.minimum(before, 245), flow) == pytest.approx(10)


def test_a_seam_is_what_changes_more_at_borders_than_the_motion_does() -> None:
    is_border = np.array([False, False, True] * 3)
    motion = np.array([1.0, 2, 4, 3, 1, 2, 2, 2, 6])
    assert seam_jump(0.5 * motion, motion, is_border) == pytest.approx(1)
    assert seam_jump(np.where(is_border, 3, 1) * motion, motion, is_border) == pytest.approx(3)
    assert seam_jump(motion, 0 * motion, is_border) is None
    assert seam_jump(motion, motion, np.ones(9, np.bool_)) is None


def test_a_slope_comes_with_its_standard_error() -> None:
    time_s = np.arange(5) * 60.0
    exact = slope(time_s, 3 * np.arange(5) + 2.0)
    assert exact is not None
    assert (exact.per_minute, exact.error) == (pytest.approx(3), pytest.approx(0, abs=1e-9))
    noisy = slope(time_s, np.array([0.0, 1, 0, 1, 0]))
    assert noisy is not None
    # Residuals -0.4, 0.6, -0.4, 0.6, -0.4: their squares sum to 1.2, over 3 and over 10.
    assert (noisy.per_minute, noisy.error) == (pytest.approx(0), pytest.approx(0.2))
    assert slope(time_s[:2], time_s[:2]) is None


def test_means_are_over_whole_stretches_only() -> None:
    time_s = np.arange(11) / 4
    times_s, values = binned(time_s, np.arange(11.0), bin_s=1.0)
    np.testing.assert_allclose(values, [1.5, 5.5])
    np.testing.assert_allclose(times_s, [0.375, 1.375])
