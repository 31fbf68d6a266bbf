"""What pictures are measured with: likeness, sharpness, flicker, seams and drift.

Pure functions of arrays. Pictures are uint8 [H, W, 3] RGB, masks bool [H, W]. They know no model,
no driver and no face but the landmarks that are handed to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.errors import MimafaceError
from mimaface.face_mesh import LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from mimaface.types import Floats, Pixels, Reals

Mask = NDArray[np.bool_]

# MediaPipe's numbering; the lower edge of each brow, then the upper one.
LEFT_BROW: Final = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107)
RIGHT_BROW: Final = (276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
REGIONS: Final = (
    (*LEFT_EYE[0], *LEFT_EYE[1], *LEFT_BROW),
    (*RIGHT_EYE[0], *RIGHT_EYE[1], *RIGHT_BROW),
    (*OUTER_LIPS[0], *OUTER_LIPS[1]),
)
REGION_MARGIN: Final = 0.15  # of a box's width, on each side

MOST_PSNR: Final = 100.0  # dB; of pictures that are the same
LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
ALEXNET: Final = "alexnet-owt-7be5be79.pth"  # what LPIPS looks with, as torch stores it


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A straight line's slope and the standard error of it, per minute."""

    per_minute: float
    error: float


def face_regions(places: Floats, size_px: int) -> Mask:
    """Return where the eyes with their brows and the mouth are, bool [H, W].

    Three boxes around the landmarks of `REGIONS`, `REGION_MARGIN` of their width larger on each
    side and cut at the picture's edges.

    Args:
        places: [V, 2], the face's landmarks in pixels of the picture.
        size_px: its side.
    """
    mask = np.zeros((size_px, size_px), np.bool_)
    for region in REGIONS:
        points = places[list(region)]
        low, high = points.min(axis=0), points.max(axis=0)
        margin = REGION_MARGIN * (high[0] - low[0])
        left, top = np.clip(np.floor(low - margin), 0, size_px).astype(int)
        right, bottom = np.clip(np.ceil(high + margin), 0, size_px).astype(int)
        mask[top:bottom, left:right] = True
    return mask


def psnr(real: Pixels, output: Pixels, mask: Mask | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB, of the squared error pooled over the mask."""
    squared = np.square(real.astype(np.float32) - output)
    error = float((squared if mask is None else squared[mask]).mean(dtype=np.float64))
    return min(10 * float(np.log10(255**2 / max(error, 1e-12))), MOST_PSNR)


def ssim(real: Pixels, output: Pixels) -> tuple[float, Floats]:
    """Return the structural similarity and its map [H, W], mean of the channels.

    A Gaussian window of 11 pixels; the figure leaves out the window's reach at the edges.

    Raises:
        MimafaceError: torchmetrics is not installed.
    """
    import torch

    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise MimafaceError(
            "SSIM needs the optional package torchmetrics: pip install 'mimaface[train]'"
        ) from error
    ours, theirs = (
        torch.from_numpy(np.moveaxis(each, -1, 0).astype(np.float32))[None]
        for each in (output, real)
    )
    figure, where = structural_similarity_index_measure(
        ours, theirs, data_range=255.0, return_full_image=True
    )
    return float(figure), where[0].mean(dim=0).numpy()


def sharpness(picture: Pixels, mask: Mask | None = None) -> float:
    """Return the Laplacian energy: the mean squared Laplacian of the luma, in the mask.

    Without a mask the outermost 1/32 of the picture is left out: a black line at the edge of a
    video has more of it than all else.
    """
    luma = picture.astype(np.float32) @ LUMA
    energy = np.square(cv2.Laplacian(luma, cv2.CV_32F, ksize=1))
    if mask is not None:
        return float(energy[mask].mean(dtype=np.float64))
    edge = max(len(picture) // 32, 1)
    return float(energy[edge:-edge, edge:-edge].mean(dtype=np.float64))


def optical_flow(picture: Pixels, previous: Pixels) -> Floats:
    """Return where each pixel came from [H, W, 2]: its step back to the previous picture."""
    now, before = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (picture, previous))
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(now, before, None))


def flicker(picture: Pixels, previous: Pixels, flow: Floats) -> float:
    """Return the mean absolute difference to the previous picture, moved along the flow.

    Args:
        picture: uint8 [H, W, 3].
        previous: the same.
        flow: [H, W, 2], see `optical_flow`.

    Returns:
        In grey levels, 0 to 255.
    """
    rows, columns = np.indices(flow.shape[:2], np.float32)
    came_from = np.stack([columns, rows], axis=-1) + flow
    moved = cv2.remap(previous, came_from, None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(picture, moved).mean())


def seam_jump(output: Reals, render: Reals, is_border: Mask) -> float | None:
    """Return how much more clips change across their borders than inside.

    The change from each frame to the next is taken over that of the mesh render of the same
    motion, so that neither fast nor slow motion at the borders counts: 1 is no seam.

    Args:
        output: [P], mean squared difference of each pair of consecutive output frames.
        render: [P], the same of the mesh render.
        is_border: [P], whether the two frames are of different clips.

    Returns:
        None when there are no borders, no insides, or nothing moves.
    """
    if not is_border.any() or is_border.all():
        return None
    across, inside = (float(render[each].mean()) for each in (is_border, ~is_border))
    within = float(output[~is_border].mean())
    if not (across and inside and within):
        return None
    return float(output[is_border].mean() / across * inside / within)


def slope(time_s: Reals, values: Reals) -> Slope | None:
    """Return the slope of values [P] over time by least squares; None of less than three."""
    if len(values) < 3:
        return None
    minutes = (time_s - time_s.mean()) / 60
    spread = float(np.square(minutes).sum())
    per_minute = float(minutes @ values) / spread
    rest = values - values.mean() - per_minute * minutes
    error = float(np.sqrt(np.square(rest).sum() / (len(values) - 2) / spread))
    return Slope(per_minute=per_minute, error=error)


def binned(
    time_s: Reals, values: Reals, *, bin_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means of times [P] and values [P] over whole stretches of `bin_s` seconds."""
    bins = np.floor((time_s - time_s[0]) / bin_s + 1e-6).astype(int)
    # The last stretch is whole only when a frame of the next one was seen.
    whole = [bins == each for each in range(bins[-1])]
    stretches = [each for each in whole if each.any()]
    return (
        np.array([time_s[each].mean() for each in stretches]),
        np.array([values[each].mean() for each in stretches]),
    )


def lpips_is_at_hand() -> bool:
    """Return whether LPIPS can be computed without a download: its network's file is there."""
    from importlib.util import find_spec

    import torch

    packages = all(find_spec(name) for name in ("torchvision", "torchmetrics"))
    return packages and (Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET).is_file()


def lpips(real: Pixels, output: Pixels) -> float:
    """Return the perceptual distance by AlexNet; ask `lpips_is_at_hand` first."""
    import torch
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    ours, theirs = (
        torch.from_numpy(np.moveaxis(each, -1, 0).astype(np.float32))[None] / 127.5 - 1
        for each in (output, real)
    )
    return float(learned_perceptual_image_patch_similarity(ours, theirs, net_type="alex"))
