"""From a photo to an `Appearance`: crop around the one face and make the mesh that moves.

It takes about a second, once per portrait. Vertices are MediaPipe's, then rings around them from
the rim of the face over hair, ears and neck to beyond the picture's edge.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.config import HEAD_AND_SHOULDERS, Framing
from mimaface.face_mesh import (
    CHIN,
    EYES,
    FACE_OVAL,
    FOREHEAD,
    INNER_LIPS,
    IRISES,
    RIGHT_TRAGUS,
    Contour,
    canonical_face,
    gap,
    proportions,
    rotation_matrix,
    shut_lips,
)
from mimaface.mouth import (
    LEAST_SHOWN,
    PAINTED_LIGHT,
    paint_lower_mouth,
    paint_upper_teeth,
    show_mouth,
)
from mimaface.photo import Photo, crop_around, inside_borders, measure_photo, only_face, read_photo
from mimaface.plates import (
    Canvas,
    matte_person,
    paint_background,
    paint_eyeball,
    paint_lids,
    paint_lips,
    paint_person,
    paint_rim,
    skin_tone,
)
from mimaface.raster import LEFT_EYE, MOUTH, RIGHT_EYE, SKIN, SURROUND
from mimaface.render import (
    SourceMesh,
    eye_frame,
    mouth_anchors,
    mouth_frame,
    mouth_light,
    project,
    samples_px,
    unproject,
)
from mimaface.types import VERTICES, Appearance, Crop, Cutout, Floats, Motion, Pixels, Reals

MARGIN: Final = 0.25  # of the crop's side: what lies around the crop may move into it
RINGS: Final = (0.15, 0.35, 0.55, 0.75, 0.9, 1.0, 1.15, 1.5, 2.5, 5.0, 12.0)  # 0 face, 1 outline
BARE_OUTLINE: Final = 1.35  # over the oval's radius, where the matte tells no outline: the neck


def encode_photo(
    photo: Photo, *, size_px: int, framing: Framing = HEAD_AND_SHOULDERS
) -> Appearance:
    """Make a portrait's mesh.

    Args:
        photo: a JPEG, PNG or WebP file, its bytes, or uint8 [H, W, 3] RGB.
        size_px: side of the avatar.
        framing: what the avatar shows of the photo.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        NoFaceError, SeveralFacesError, SmallFaceError: the picture cannot be a portrait.
        SourceImageError: the picture is too large.
    """
    whole = read_photo(photo)
    rows, columns = inside_borders(whole)
    picture = np.ascontiguousarray(whole[rows, columns])  # MediaPipe reads no other
    crop = crop_around(only_face(picture), picture.shape, framing)
    cropped = picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    motion = measure_photo(_resize(cropped, max(size_px, 512)))
    canvas = _canvas(picture, crop, size_px)
    mesh = _build_mesh(canvas, motion, size_px)
    return Appearance(
        source=_resize(cropped, size_px),
        crop=replace(crop, left=columns.start + crop.left, top=rows.start + crop.top),
        motion=motion,
        mesh=mesh,
        cutout=Cutout(
            matte=_resize(canvas.sample(mesh.texture[..., 3], _samples(size_px)), size_px),
            background=_resize(mesh.background, size_px),
        ),
    )


def paste_back(photo: Photo, appearance: Appearance, avatar: Pixels) -> Pixels:
    """Return the photo, uint8 [H, W, 3], with an avatar frame where it was cropped from.

    Raises:
        UnreadableMediaError, SourceImageError: the photo cannot be read.
    """
    picture, crop = read_photo(photo), appearance.crop
    frame = _resize(avatar, crop.side)
    # Towards the crop's edges the photo takes over, except where the edges are the photo's own.
    reach = max(crop.side // 16, 1)
    inner = np.zeros(frame.shape[:2], np.float32)
    high, wide = picture.shape[:2]
    x0, x1 = (
        (0 if crop.left == 0 else reach),
        (crop.side if crop.left + crop.side == wide else -reach),
    )
    y0, y1 = (
        (0 if crop.top == 0 else reach),
        (crop.side if crop.top + crop.side == high else -reach),
    )
    inner[y0:y1, x0:x1] = 1
    share = cv2.blur(inner, (2 * reach - 1, 2 * reach - 1), borderType=cv2.BORDER_REPLICATE)
    result = picture.copy()
    window = result[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    window[:] = np.round(window + share[..., None] * (frame.astype(np.float32) - window))
    return result


def _resize(picture: Pixels, size_px: int) -> Pixels:
    how = cv2.INTER_AREA if picture.shape[0] > size_px else cv2.INTER_CUBIC
    return cv2.resize(picture, (size_px, size_px), interpolation=how)


def _samples(size_px: int) -> Reals:
    # Where the picture is sampled, [S, S, 2] in its pixels.
    side = samples_px(size_px)
    return np.stack(np.meshgrid(*2 * [(np.arange(side) + 0.5) * size_px / side]), axis=-1)


def _canvas(picture: Pixels, crop: Crop, size_px: int) -> Canvas:
    """Return the crop and what the photo shows around it, at up to twice the avatar's scale."""
    px_per_photo_px = size_px / crop.side
    texels_per_px = min(max(1 / px_per_photo_px, 1.0), 2.0)
    high, wide = picture.shape[:2]
    margin = round(MARGIN * crop.side)
    left, top = max(crop.left - margin, 0), max(crop.top - margin, 0)
    right = min(crop.left + crop.side + margin, wide)
    bottom = min(crop.top + crop.side + margin, high)
    zoom = px_per_photo_px * texels_per_px
    rgb = cv2.resize(
        picture[top:bottom, left:right],
        (round((right - left) * zoom), round((bottom - top) * zoom)),
        interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC,
    )
    corner = np.array([left - crop.left, top - crop.top]) * px_per_photo_px
    return Canvas(rgb, corner, texels_per_px)


def _build_mesh(canvas: Canvas, motion: Motion, size_px: int) -> SourceMesh:
    rotation = rotation_matrix(motion.rotation[0])
    scale = size_px / float(motion.translation[0, 2])
    origin = size_px / 2 + scale * motion.translation[0, :2].astype(np.float64)

    # Landmarks are orthographic; what `project` shows in perspective must fall on the same pixels.
    at_rest = motion.landmarks[0] * size_px
    at_rest[:, 2] = (canonical_face().vertices + motion.expression[0].reshape(-1, 3)) @ rotation[2]
    face = unproject(at_rest, origin, scale)
    shape = (face @ rotation).astype(np.float32)

    matte = matte_person(canvas.rgb, canvas.to_texels(at_rest[list(FACE_OVAL), :2]))
    rings, turning = _rings(face, shape, origin, scale, canvas, matte)
    around = project(rings, origin, scale)
    held = _cut(around, canvas, matte)
    resting = np.maximum(_below_chin(rings @ rotation, shape), held)

    points = np.concatenate([project(face, origin, scale), around.reshape(-1, 3)])
    uv = canvas.to_texels(points[:, :2])
    triangles, kinds = _triangles()
    shown = (kinds != SURROUND) | _touches(matte, uv[triangles])

    left_eyeball, right_eyeball = (
        paint_eyeball(
            canvas, points[:, :2], eye_frame(points, rotation, shape, scale, eye), eye, iris
        )
        for eye, iris in zip(EYES, IRISES, strict=True)
    )
    background = paint_background(canvas, matte)
    samples = _samples(size_px)
    skin = skin_tone(canvas, points[:, :2])
    neutral = shut_lips(shape)
    texture = paint_person(canvas, matte, background, points[:, :2])
    open_by = gap(shape, INNER_LIPS)
    shows_mouth = open_by >= LEAST_SHOWN
    if shows_mouth:
        texture = paint_lips(canvas, texture, points[:, :2], unit_px=scale)
    person = replace(canvas, rgb=texture[..., :3])
    bare = replace(person, rgb=paint_lids(person, points[:, :2]))
    upper_teeth, lower_mouth = (
        show_mouth(
            canvas,
            points[:VERTICES, :2],
            painted,
            mouth_frame(anchor, rotation, origin, scale),
            open_by=open_by,
            is_jaw=is_jaw,
        )
        for painted, anchor, is_jaw in zip(
            (paint_upper_teeth(skin), paint_lower_mouth(skin)),
            mouth_anchors(neutral, shape),
            (False, True),
            strict=True,
        )
    )
    return SourceMesh(
        size_px=size_px,
        texture=texture,
        skin=paint_rim(bare, texture[..., 3], points[:, :2]),
        background=canvas.sample(background, samples),
        shape=neutral,
        proportions=proportions(neutral),
        angles=motion.rotation[0],
        origin=origin,
        scale=scale,
        oval=face[list(FACE_OVAL)],
        rings=rings,
        turning=turning,
        resting=resting.astype(np.float32),
        held=held.astype(np.float32),
        stretching=np.maximum(0, 1 - np.array(RINGS, np.float32) / 1.5),
        uv=uv,
        triangles=triangles[shown],
        kinds=kinds[shown],
        eyeballs=(left_eyeball, right_eyeball),
        mouth=(upper_teeth, lower_mouth),
        cavity=skin * np.array([0.5, 0.34, 0.36], np.float32),
        mouth_light=mouth_light(shape) if shows_mouth else PAINTED_LIGHT,
    )


def _rings(
    face: Floats, shape: Floats, origin: Reals, scale: float, canvas: Canvas, matte: Pixels
) -> tuple[Floats, Floats]:
    """Return the rings' rest positions [R, O, 3] in camera space and their turning [R, O]."""
    oval = face[list(FACE_OVAL)]
    centre = oval.mean(axis=0)
    height = shape[CHIN, 1] - shape[FOREHEAD, 1]
    upward = _smooth((shape[CHIN, 1] - shape[list(FACE_OVAL), 1]) / height * 2)  # 0 along the jaw
    radii = np.linspace(1.1, 2.0, 46)
    rays = project(centre + (oval - centre) * radii[:, None, None], origin, scale)[..., :2]
    outside = canvas.sample(matte, rays) < 128
    leaves = np.where(outside.any(axis=0), radii[outside.argmax(axis=0)], 1.5)
    outline = BARE_OUTLINE + upward * (_calm(leaves) - BARE_OUTLINE)

    steps = np.array(RINGS)[:, None]
    rings = centre + (oval - centre) * (1 + (outline - 1) * steps)[..., None]
    # From the rim of the face the skull rounds back to the depth of its axis, reached at the
    # outline; the neck lies straight behind the jaw.
    within = np.minimum(steps, 1)
    rings[..., 2] = oval[:, 2] * (upward * (1 - within**2) + (1 - upward) * (1 - within))
    turning = np.broadcast_to(1 - 0.5 * _smooth((steps - 1) / 0.5), rings.shape[:2])
    return rings.astype(np.float32), turning.astype(np.float32)


def _calm(along: Reals) -> Reals:
    # A median and a mean along the closed oval: a stray lock must not dent the skull.
    window = range(-2, 3)
    median = np.median([np.roll(along, k) for k in window], axis=0)
    return np.mean([np.roll(median, k) for k in window], axis=0)


def _below_chin(in_head: Reals, shape: Floats) -> Reals:
    """Return how far points [.., 3] in head space belong to the body, which rests."""
    below = (in_head[..., 1] - shape[CHIN, 1]) / (shape[CHIN, 1] - shape[FOREHEAD, 1])
    beside = np.maximum(np.abs(in_head[..., 0]) / shape[RIGHT_TRAGUS, 0] - 1.2, 0)
    return _smooth((below + np.where(below > -0.3, 0.4 * beside, 0) + 0.12) / 0.75)


def _cut(pixels: Reals, canvas: Canvas, matte: Pixels) -> Reals:
    """Return how near points [.., 3] are to an edge of the photo that cuts through the person."""
    low = canvas.corner
    high = low + np.array(matte.shape[1::-1]) / canvas.texels_per_px
    reach = 0.12 * (high - low).max()
    held = np.zeros(pixels.shape[:-1])
    for distance, strip in (
        (pixels[..., 0] - low[0], matte[:, :3]),
        (high[0] - pixels[..., 0], matte[:, -3:]),
        (pixels[..., 1] - low[1], matte[:3]),
        (high[1] - pixels[..., 1], matte[-3:]),
    ):
        if (strip > 128).mean() > 0.02:
            held = np.maximum(held, 1 - _smooth(distance / reach))
    return held


def _smooth(x: Any) -> Any:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _triangles() -> tuple[NDArray[np.int32], Pixels]:
    """Return all triangles and their kinds: face, rings around it, eyes and mouth."""
    count = len(FACE_OVAL)
    loops = [list(FACE_OVAL)]
    loops += [[VERTICES + r * count + i for i in range(count)] for r in range(len(RINGS))]
    around = []
    for inner, outer in pairwise(loops):
        for i in range(count):
            j = (i + 1) % count
            around += [(inner[i], inner[j], outer[i]), (inner[j], outer[j], outer[i])]
    parts: list[tuple[Any, int]] = [
        (canonical_face().triangles, SKIN),
        (around, SURROUND),
        (_window(EYES[0]), LEFT_EYE),
        (_window(EYES[1]), RIGHT_EYE),
        (_window(INNER_LIPS), MOUTH),
    ]
    triangles = np.concatenate([np.array(part, np.int32) for part, _ in parts])
    kinds = np.concatenate([np.full(len(part), kind, np.uint8) for part, kind in parts])
    return triangles, kinds


def _touches(matte: Pixels, corners: Reals) -> NDArray[np.bool_]:
    """Return which triangles [T, 3, 2] have any of the person in their bounding box."""
    limits = np.array(matte.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=1)), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 1, 1, limits).astype(int)
    boxes = np.column_stack([low, high])
    return np.array([matte[y0:y1, x0:x1].max() > 0 for x0, y0, x1, y1 in boxes])


def _window(contour: Contour) -> list[tuple[int, int, int]]:
    upper, lower = contour
    strip = []
    for i in range(len(upper) - 1):
        strip += [(upper[i], upper[i + 1], lower[i]), (upper[i + 1], lower[i + 1], lower[i])]
    return [corners for corners in strip if len(set(corners)) == 3]
