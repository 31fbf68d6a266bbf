"""Where a face goes in the crop of 256 px, and the warp between pictures.

Points are x, y rows in pixels; a matrix [2, 3] maps source to destination pixels. Pixel centres
are at integers, as in cv2 and kornia (the renderer of `mimaface.bfm` counts them from 0.5). Left
and right are the picture's. It knows points and pictures, not how faces are found.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mimaface.face_mesh import EYES, NOSE_TIP, OUTER_LIPS
from mimaface.types import Reals

Doubles = NDArray[np.float64]

# Left eye, right eye, tip of the nose, left and right corner of the mouth of the aligned face in
# ArcFace's picture of 112 px (J. Deng et al., ArcFace, CVPR 2019).
ARCFACE_TEMPLATE: Final = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
# The 256 px crop is twice that picture, widened by 8 of its pixels on the left and on the right.
TEMPLATE_256: Final = 2 * (ARCFACE_TEMPLATE + np.array([8.0, 0.0]))

LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = OUTER_LIPS[0][0], OUTER_LIPS[0][-1]


def similarity(points: Reals, template: Reals) -> Doubles:
    """Fit the rotation, scale and shift that take points to a template, by least squares.

    Args:
        points: [P, 2], in pixels.
        template: [P, 2], where they should go.

    Returns:
        float64 [2, 3]. It never mirrors: four unknowns.
    """
    points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
    centre, target = points.mean(axis=0), template.mean(axis=0)
    (x, y), (u, v) = (points - centre).T, (template - target).T
    spread = (x * x + y * y).sum()
    if spread == 0:
        raise ValueError("points must not all be the same")
    cosine, sine = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, target - linear @ centre])


def align_256(points: Reals) -> Doubles:
    """Return the matrix [2, 3] that takes five points [5, 2] to their places in the 256 px crop."""
    return similarity(points, TEMPLATE_256)


def invert(matrix: Reals) -> Doubles:
    """Return the matrix [2, 3] of the way back."""
    # Two by two by hand: LAPACK would wake its threads for it.
    (a, b, x), (c, d, y) = np.asarray(matrix, np.float64)
    inverse = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
    return np.column_stack([inverse, -inverse @ (x, y)])


def five_points(landmarks_px: Reals) -> Doubles:
    """Return left eye, right eye, tip of the nose and corners of the mouth [5, 2].

    Args:
        landmarks_px: [V, 2], MediaPipe's points in pixels. An eye is where the middle of its
            corners is, whatever the iris does.
    """
    points = np.asarray(landmarks_px, np.float64)
    eyes = [(points[eye[0][0]] + points[eye[0][-1]]) / 2 for eye in EYES]
    return np.stack([*eyes, *points[[NOSE_TIP, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER]]])


def warp_affine(
    images: torch.Tensor, matrices: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Move pictures by matrices, bilinear, with zeros around them.

    Args:
        images: [B, C, H, W] of any floating type; sampled in float32.
        matrices: [B, 2, 3], from source to destination pixels.
        size: height and width of the result.

    Returns:
        [B, C, height, width] in the type of `images`.
    """
    height, width = size
    matrices = matrices.to(images.device, torch.float64)
    (a, b, x), (c, d, y) = (row.unbind(dim=-1) for row in matrices.unbind(dim=1))
    back = torch.stack([d, -b, -c, a], dim=-1) / (a * d - b * c)[:, None]  # [B, 4]
    columns = torch.arange(width, device=images.device) - x[:, None]  # [B, width]
    rows = torch.arange(height, device=images.device) - y[:, None]  # [B, height]
    across = back[:, 0, None, None] * columns[:, None] + back[:, 1, None, None] * rows[..., None]
    down = back[:, 2, None, None] * columns[:, None] + back[:, 3, None, None] * rows[..., None]
    # grid_sample counts the picture from -1 in its first pixel to 1 in its last one.
    last = torch.tensor([max(n - 1, 1) for n in (images.shape[3], images.shape[2])])
    grid = 2 * torch.stack([across, down], dim=-1) / last.to(images.device) - 1
    sampled = F.grid_sample(
        images.float(), grid.float(), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled.to(images.dtype)
