"""What the generator is shown of a clip's motion: a render of the moved source, and signals.

Two conditions. The mesh is ours: the photo's own texture, moved. The official weights expect the
render of a face model: the source's identity, skin and light in the driver's expression and pose,
fitted to where the driver's motion puts the source's own landmarks.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from mimaface import bfm
from mimaface.alignment import align_256, five_points, invert, warp_affine
from mimaface.bfm_fit import FaceMotion, SourceFace, calibrate, fit
from mimaface.d3dfr import CoefficientRegressor
from mimaface.render import place_landmarks
from mimaface.sight import Sight, look_at, pack_motion
from mimaface.types import (
    Appearance,
    Condition,
    Floats,
    MeshRender,
    Motion,
    Pixels,
    Reals,
    pack_signals,
    signal_sizes,
)


def mesh_condition(moved: MeshRender, motion: Motion, sight: Sight) -> Condition:
    """Return the mesh as relative motion [F] moved it, and the motion as it is.

    Args:
        moved: the mesh.
        motion: of the frames.
        sight: what the networks see.
    """
    seen, corner = look_at(moved, sight)
    return Condition(
        render=to_images(seen),
        signals=pack_motion(motion),
        corner=corner,
        whole=None if seen is moved.pixels else moved.pixels,
        matte=moved.coverage,
    )


def read_face(
    appearance: Appearance,
    regressor: CoefficientRegressor,
    model: bfm.BfmModel,
    *,
    identity_crop_px: int,
) -> tuple[SourceFace, Tensor, Floats]:
    """Make the face model the source's.

    Args:
        appearance: the source.
        regressor: reads the coefficients off the aligned source.
        model: the face model.
        identity_crop_px: side of the aligned picture for the identity network.

    Returns:
        The face; the aligned source [1, 3, S, S] in [-1, 1]; texture and lighting [107].
    """
    landmarks = appearance.motion.landmarks[0, :, :2] * len(appearance.source)
    to_crop = align_256(five_points(landmarks))
    picture = to_images(appearance.source[None]).to(next(regressor.parameters()).device)
    matrix = torch.from_numpy(to_crop)[None]
    vector = regressor(warp_affine(picture, matrix, (bfm.SIZE_PX, bfm.SIZE_PX)))[0]
    coefficients = bfm.Coefficients.split(vector.float().cpu().numpy())
    source = bfm.make_source(
        model,
        identity=coefficients.identity,
        texture=coefficients.texture,
        lighting=coefficients.lighting,
    )
    face = calibrate(model, source, coefficients, _into(to_crop, landmarks))
    aligned = warp_affine(picture, matrix, (identity_crop_px, identity_crop_px))
    return face, aligned, np.concatenate([coefficients.texture, coefficients.lighting])


def face_condition(
    appearance: Appearance,
    model: bfm.BfmModel,
    face: SourceFace,
    motion: Motion,
    *,
    start: Floats | None,
    device: torch.device,
) -> Condition:
    """Return the face model as relative motion [F] moves it.

    Args:
        appearance: the source.
        model: the face model.
        face: the face model as the source (`read_face`).
        motion: of the frames.
        start: [M], signals of the frame before, near which the first fit begins.
        device: where the renders are put into the whole picture.
    """
    moved = None if start is None else _face_motion(start)
    frames, drawn, matrices = [], [], []
    for landmarks in place_landmarks(appearance.mesh, motion):
        # The face is aligned as the release aligns the driver's, frame by frame.
        to_crop = align_256(five_points(landmarks))
        moved = fit(face, _into(to_crop, landmarks), start=moved)
        frames.append(moved)
        drawn.append(bfm.render(model, face.source, **moved._asdict()))
        matrices.append(to_crop)
    expression, rotation, translation = (np.stack(rows) for rows in zip(*frames, strict=True))
    rgb, is_face = (np.stack(rows) for rows in zip(*drawn, strict=True))
    return Condition(
        render=place_renders(
            rgb,
            is_face,
            np.stack(matrices),
            size_px=len(appearance.source),
            device=device,
        ),
        signals=pack_signals(
            expression=expression,
            rotation=rotation,
            translation=translation,
            gaze=face.gaze + motion.gaze,
        ),
    )


def place_renders(
    rgb: Floats,
    is_face: NDArray[np.bool_],
    to_crop: Reals,
    *,
    size_px: int,
    device: torch.device | None = None,
) -> Tensor:
    """Put a face model's renders into the whole picture, black around the face.

    Args:
        rgb: [F, 256, 256, 3] from 0 to 255, in the aligned crop.
        is_face: [F, 256, 256], where it is drawn.
        to_crop: [F, 2, 3], from the picture's pixels to the crop's.
        size_px: side of the picture.
        device: where they are put together.

    Returns:
        [F, 3, size_px, size_px] in [-1, 1]. Colours and mask are warped apart, as in the release.
    """
    layers = np.concatenate([rgb / 127.5 - 1, is_face[..., None]], axis=-1).astype(np.float32)
    from_crop = np.stack([invert(matrix) for matrix in to_crop])
    warped = warp_affine(
        rearrange(torch.from_numpy(layers).to(device), "f h w c -> f c h w"),
        torch.from_numpy(from_crop),
        (size_px, size_px),
    )
    colours, mask = torch.split(warped, [3, 1], dim=1)
    return colours * mask - (1 - mask)


def to_images(pixels: Pixels) -> Tensor:
    """Return pictures uint8 [F, H, W, 3] as float32 [F, 3, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(pixels), "f h w c -> f c h w") / 127.5 - 1


def _into(matrix: Reals, landmarks_px: Reals) -> Reals:
    # The 68 landmarks of the face model, of MediaPipe's [V, 2], moved by a matrix [2, 3].
    return landmarks_px[list(bfm.MULTI_PIE)] @ matrix[:, :2].T + matrix[:, 2]


def _face_motion(signals: Floats) -> FaceMotion:
    ends = np.cumsum(signal_sizes(bfm.EXPRESSION))
    expression, rotation, translation, _, _ = np.split(signals, ends)
    return FaceMotion(expression, rotation, translation)
