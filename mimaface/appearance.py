"""From a photo to an `Appearance`: find the one face, crop around it, make the mesh that moves.

All of it happens once per portrait and takes about a second. What the photo does not show, the
inside of a shut mouth, the skin of closed lids, the white behind an iris, the wall behind the
person, is filled in here, so that drawing a frame is only looking things up.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mimaface.errors import (
    NoFaceError,
    SeveralFacesError,
    SmallFaceError,
    SourceImageError,
    UnreadableMediaError,
)
from mimaface.face_mesh import (
    EYES,
    FACE_OVAL,
    INNER_LIPS,
    IRISES,
    Contour,
    canonical_face,
    gap,
    rotation_matrix,
    shut_lips,
    width,
)
from mimaface.motion import measure
from mimaface.render import (
    LEFT_EYE,
    MOUTH,
    RIGHT_EYE,
    SKIN,
    SURROUND,
    Plate,
    SourceMesh,
    eye_frame,
    project,
    unproject,
)
from mimaface.types import VERTICES, Appearance, Floats, Motion, Pixels

MOST_MEGAPIXELS: Final = 8
SMALLEST_FACE_PX: Final = 96
CROP_SIDE: Final = 4.6  # head units: head and shoulders
CROP_DROP: Final = 0.35  # head units from the head's origin down to the crop's middle
MARGIN: Final = 0.25  # of the crop's side: what lies around the crop may move into it
RINGS: Final = (0.15, 0.35, 0.55, 0.75, 0.9, 1.0, 1.15, 1.5, 2.5, 5.0, 12.0)  # 0 oval, 1 outline


def encode_photo(photo: Path | bytes | Pixels, *, size_px: int) -> Appearance:
    """Encode a source image.

    Args:
        photo: a JPEG, PNG or WebP file, its bytes, or uint8 [H, W, 3] RGB.
        size_px: side of the avatar.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        NoFaceError, SeveralFacesError, SmallFaceError: the picture cannot be a portrait.
        SourceImageError: the picture is too large.
    """
    picture = read_photo(photo)
    left, top, side = _crop(picture, _only_face(picture))
    texels_per_px = min(max(side / size_px, 1.0), 2.0)
    scale = size_px / side
    cropped = _resize(picture[top : top + side, left : left + side], size_px)
    tracked = _resize(picture[top : top + side, left : left + side], max(size_px, 512))
    motion = _measure_photo(tracked)

    # The texture covers the crop and what the photo shows around it.
    height, wide = picture.shape[:2]
    margin = round(MARGIN * side)
    x0, y0 = max(left - margin, 0), max(top - margin, 0)
    x1, y1 = min(left + side + margin, wide), min(top + side + margin, height)
    texture = cv2.resize(
        picture[y0:y1, x0:x1],
        (round((x1 - x0) * scale * texels_per_px), round((y1 - y0) * scale * texels_per_px)),
        interpolation=cv2.INTER_AREA if texels_per_px * scale < 1 else cv2.INTER_CUBIC,
    )
    corner = np.array([(x0 - left) * scale, (y0 - top) * scale])
    mesh = _build_mesh(texture, corner, texels_per_px, motion, size_px)
    return Appearance(source=cropped, motion=motion, mesh=mesh)


def read_photo(photo: Path | bytes | Pixels) -> Pixels:
    """Return the upright RGB picture uint8 [H, W, 3], transparency laid over grey.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        SourceImageError: it has more than 8 megapixels.
    """
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"photo must be uint8 [H, W, 3], found {photo.dtype} {photo.shape}")
        _check_size(photo.shape[1], photo.shape[0])
        return photo
    name = photo if isinstance(photo, Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked just below
            opened = Image.open(
                photo if isinstance(photo, Path) else io.BytesIO(photo),
                formats=("JPEG", "PNG", "WEBP"),
            )
        with opened as image:
            _check_size(*image.size)
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                grey = Image.new("RGBA", rgba.size, (128, 128, 128, 255))
                upright = Image.alpha_composite(grey, rgba)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableMediaError(
            f"{name} cannot be read as a JPEG, PNG or WebP picture: {error}"
        ) from error


def _check_size(width_px: int, height_px: int) -> None:
    megapixels = width_px * height_px / 1e6
    if megapixels > MOST_MEGAPIXELS:
        raise SourceImageError(
            f"the photo has {megapixels:.1f} megapixels, at most {MOST_MEGAPIXELS} are taken: "
            "make it smaller"
        )


def _only_face(picture: Pixels) -> tuple[float, float, float]:
    """Return centre x, y and height in pixels of the one face."""
    from mediapipe.python.solutions.face_detection import FaceDetection

    boxes: list[Any] = []
    for model in (1, 0):  # 1 finds small faces, 0 the ones that fill the picture
        with FaceDetection(model_selection=model, min_detection_confidence=0.5) as detector:
            found = detector.process(picture).detections or []
        boxes = boxes or [one.location_data.relative_bounding_box for one in found]
    if not boxes:
        raise NoFaceError(
            "no face was found in the photo: take one that shows a face from the front"
        )
    high, wide = picture.shape[:2]
    boxes.sort(key=lambda box: -box.height)
    if len(boxes) > 1 and boxes[1].height > 0.35 * boxes[0].height:
        raise SeveralFacesError(
            f"{len(boxes)} faces were found in the photo: crop it to the one that shall be shown"
        )
    box = boxes[0]
    height_px = box.height * high
    if height_px < SMALLEST_FACE_PX:
        raise SmallFaceError(
            f"the face in the photo is {height_px:.0f} pixels high, at least {SMALLEST_FACE_PX} "
            "are needed: take a closer or larger photo"
        )
    return (box.xmin + box.width / 2) * wide, (box.ymin + box.height / 2) * high, height_px


def _crop(picture: Pixels, face: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return left, top and side of the square around head and shoulders, inside the photo."""
    high, wide = picture.shape[:2]
    x, y, height_px = face
    # The detector's box spans about 1.55 head units from brow to chin.
    unit = height_px / 1.55
    side = int(min(CROP_SIDE * unit, high, wide))
    left = round(min(max(x - side / 2, 0), wide - side))
    top = round(min(max(y + (CROP_DROP - 0.15) * unit - side / 2, 0), high - side))
    return left, top, side


def _measure_photo(crop: Pixels) -> Motion:
    from mediapipe.python.solutions.face_mesh import FaceMesh

    # In video mode the region of interest converges within a few looks at the same picture.
    with FaceMesh(max_num_faces=1, refine_landmarks=True) as graph:
        for _ in range(4):
            found = graph.process(crop).multi_face_landmarks
    if not found:
        raise NoFaceError(
            "no face could be measured in the photo: take one that shows a face from the front, "
            "evenly lit and not covered"
        )
    landmarks = np.array([(p.x, p.y, p.z) for p in found[0].landmark], np.float32)
    return measure(0.0, landmarks, aspect=1.0)


def _resize(picture: Pixels, size_px: int) -> Pixels:
    shrinks = picture.shape[0] > size_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size_px, size_px), interpolation=how))


def _build_mesh(
    photo: Pixels, corner: NDArray[np.float64], texels_per_px: float, motion: Motion, size_px: int
) -> SourceMesh:
    rotation = rotation_matrix(motion.rotation[0])
    scale = size_px / float(motion.translation[0, 2])
    origin = size_px / 2 + scale * motion.translation[0, :2].astype(np.float64)

    # Landmarks are orthographic; what `project` shows in perspective must fall on the same pixels.
    landmarks = motion.landmarks[0] * size_px
    at_rest = landmarks.copy()
    at_rest[:, 2] = (canonical_face().vertices + motion.expression[0].reshape(-1, 3)) @ rotation[2]
    face = unproject(at_rest, origin, scale)
    shape = (face @ rotation).astype(np.float32)

    matte = _person(photo, (landmarks[list(FACE_OVAL), :2] - corner) * texels_per_px)
    bounds = np.stack([corner, corner + np.array(photo.shape[1::-1]) / texels_per_px])
    rings, turning, resting = _rings(face, shape, rotation, origin, scale, matte, bounds)
    triangles, kinds = _triangles()

    points = np.concatenate([project(face, origin, scale), project(rings.reshape(-1, 3), origin, scale)])
    uv = (points[:, :2] - corner) * texels_per_px
    lashes = np.zeros(len(points), np.float32)
    for upper, _ in EYES:
        lashes[list(upper[1:-1])] = 1
    lids = _paint_lids(photo, uv)
    background, seen = _background(photo, matte, corner, texels_per_px, size_px)

    def lift(plate_units: NDArray[np.float64]) -> Floats:
        return ((plate_units - corner) * texels_per_px).astype(np.float32)

    eyeballs = tuple(
        _eyeball(photo, eye, iris, uv, lift, eye_frame(points, rotation, shape, scale, eye), shape)
        for eye, iris in zip(EYES, IRISES, strict=True)
    )
    skin = _skin_tone(photo, uv)
    return SourceMesh(
        size_px=size_px,
        texture=np.dstack([photo, matte]),
        lids=np.dstack([lids, matte]),
        background=background,
        seen=seen,
        shape=shut_lips(shape),
        angles=motion.rotation[0],
        origin=origin,
        scale=scale,
        oval=face[list(FACE_OVAL)],
        rings=rings,
        turning=turning,
        resting=resting,
        stretching=np.array([max(0.0, 1 - r / 1.5) for r in RINGS], np.float32),
        uv=uv.astype(np.float32),
        texels_per_px=texels_per_px,
        triangles=triangles,
        kinds=kinds,
        lashes=lashes,
        eyeballs=(eyeballs[0], eyeballs[1]),
        teeth=(_teeth(skin, upper=True), _teeth(skin, upper=False)),
        cavity=(skin * (0.22, 0.08, 0.08)).astype(np.float32),
    )


def _rings(
    face: Floats,
    shape: Floats,
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    scale: float,
    matte: Pixels,
    bounds: NDArray[np.float64],
) -> tuple[Floats, Floats, Floats]:
    """Return the rings' rest positions [R, O, 3] and their turning and resting [R, O]."""
    oval = face[list(FACE_OVAL)]
    centre = oval.mean(axis=0)
    chin, brow = shape[152, 1], shape[10, 1]
    upward = _smooth((chin - shape[list(FACE_OVAL), 1]) / (chin - brow) * 2)  # 0 along the jaw
    outline = _outline(oval, centre, origin, scale, matte, bounds)
    outline = 1.35 + upward * (outline - 1.35)
    steps = np.array(RINGS)[:, None]
    rings = centre + (oval - centre) * (1 + (outline - 1) * steps)[..., None]
    # From the rim of the face the skull rounds back to the depth of its axis, reached at the
    # outline; the neck lies straight behind the jaw.
    within = np.minimum(steps, 1)
    rounded = upward * (1 - within**2) + (1 - upward) * (1 - within)
    rings[..., 2] = oval[:, 2] * rounded
    turning = np.broadcast_to(1 - 0.5 * _smooth((steps - 0.8) / 0.6), rings.shape[:2])

    # Below the chin, along the head's own axis, neck and shoulders come to rest.
    in_head = rings @ rotation
    below = (in_head[..., 1] - chin) / (chin - brow)
    resting = _smooth((below + 0.12) / 0.75)

    # Where the photo's edge cuts through the person, the person is held there.
    pixels = project(rings, origin, scale)[..., :2]
    low, high = bounds
    reach = 0.12 * (high - low).max()
    edges = {
        "left": (pixels[..., 0] - low[0], matte[:, :3]),
        "right": (high[0] - pixels[..., 0], matte[:, -3:]),
        "top": (pixels[..., 1] - low[1], matte[:3]),
        "bottom": (high[1] - pixels[..., 1], matte[-3:]),
    }
    for distance, cut in edges.values():
        if (cut > 128).mean() > 0.02:
            resting = np.maximum(resting, 1 - _smooth(distance / reach))
    return rings.astype(np.float32), turning.astype(np.float32), resting.astype(np.float32)


def _outline(
    oval: Floats,
    centre: Floats,
    origin: NDArray[np.float64],
    scale: float,
    matte: Pixels,
    bounds: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return where rays through the oval leave the person [O], as radius over the oval's."""
    radii = np.linspace(1.1, 2.0, 46)
    ray = project(centre + (oval - centre) * radii[:, None, None], origin, scale)[..., :2]
    texels = (ray - bounds[0]) / (bounds[1] - bounds[0]) * matte.shape[1::-1]
    outside = (
        cv2.remap(matte, texels.astype(np.float32), None, cv2.INTER_LINEAR, borderValue=0) < 128
    )
    leaves = np.where(outside.any(axis=0), radii[outside.argmax(axis=0)], 1.5)
    # A median and a mean along the oval: a stray lock must not dent the skull.
    around = np.stack([np.roll(leaves, k) for k in range(-2, 3)])
    calm = np.median(around, axis=0)
    return np.mean([np.roll(calm, k) for k in range(-2, 3)], axis=0)


def _smooth(x: Any) -> Any:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _triangles() -> tuple[NDArray[np.int32], Pixels]:
    """Return all triangles and their kinds: face, rings around it, eyes and mouth."""
    count = len(FACE_OVAL)
    loops = [list(FACE_OVAL)]
    loops += [[VERTICES + r * count + i for i in range(count)] for r in range(len(RINGS))]
    around = []
    for inner, outer in zip(loops, loops[1:], strict=False):
        for i in range(count):
            j = (i + 1) % count
            around += [(inner[i], inner[j], outer[i]), (inner[j], outer[j], outer[i])]
    parts = [
        (canonical_face().triangles, SKIN),
        (around, SURROUND),
        (_window(EYES[0]), LEFT_EYE),
        (_window(EYES[1]), RIGHT_EYE),
        (_window(INNER_LIPS), MOUTH),
    ]
    triangles = np.concatenate([np.array(part, np.int32) for part, _ in parts])
    kinds = np.concatenate([np.full(len(part), kind, np.uint8) for part, kind in parts])
    return triangles, kinds


def _window(contour: Contour) -> list[tuple[int, int, int]]:
    upper, lower = contour
    strip = []
    for i in range(len(upper) - 1):
        strip += [(upper[i], upper[i + 1], lower[i]), (upper[i + 1], lower[i + 1], lower[i])]
    return [corners for corners in strip if len(set(corners)) == 3]


def _fill(picture: NDArray[np.floating], known: NDArray[np.floating]) -> NDArray[np.float32]:
    """Fill [H, W, C] smoothly from where `known` [H, W] is 1 into where it is 0.

    Push-pull: average the known part into ever coarser pictures, then fill each from the coarser
    (S. J. Gortler et al., The Lumigraph, SIGGRAPH 1996).
    """
    height, width_px = known.shape
    picture, known = picture.astype(np.float32), known.astype(np.float32)
    if min(height, width_px) <= 2 or known.min() >= 1:
        mean = (picture * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return picture * known[..., None] + mean * (1 - known[..., None])
    half = ((width_px + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(picture * known[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = _fill(colour / np.maximum(weight, 1e-6)[..., None], np.minimum(weight * 4, 1))
    guess = cv2.resize(coarse, (width_px, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(guess + known[..., None] * (picture - guess))


def _polygon(shape: tuple[int, ...], points: NDArray[np.floating]) -> NDArray[np.uint8]:
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def _person(photo: Pixels, oval: NDArray[np.floating]) -> Pixels:
    """Return the matte of the person, uint8 [H, W]."""
    from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

    with SelfieSegmentation(model_selection=0) as graph:
        soft = graph.process(photo).segmentation_mask
    guide = photo.astype(np.float32) / 255
    radius = max(round(0.015 * max(photo.shape)), 2)
    soft = cv2.ximgproc.guidedFilter(guide, soft.astype(np.float32), radius, 1e-4)
    matte = np.clip((soft - 0.25) / 0.5, 0, 1) * 255
    return np.maximum(matte.astype(np.uint8), _polygon(photo.shape, oval))


def _background(
    photo: Pixels, matte: Pixels, corner: NDArray[np.float64], texels_per_px: float, size_px: int
) -> tuple[Pixels, Pixels]:
    """Return the crop without the person and where it was seen, at the avatar's size."""
    reach = max(round(0.012 * max(photo.shape)), 2) * 2 + 1
    person = cv2.dilate(matte, np.ones((reach, reach), np.uint8))
    known = (person < 12).astype(np.float32)
    filled = _fill(photo, known)
    to_crop = np.array([[texels_per_px, 0, 0], [0, texels_per_px, 0]])
    to_crop[:, 2] = -corner * texels_per_px + (texels_per_px - 1) / 2
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    plate = cv2.warpAffine(np.clip(filled, 0, 255), to_crop, (size_px, size_px), flags=how)
    seen = cv2.warpAffine(known * 255, to_crop, (size_px, size_px), flags=how)
    return plate.astype(np.uint8), seen.astype(np.uint8)


def _paint_lids(photo: Pixels, uv: NDArray[np.floating]) -> Pixels:
    """Return the photo with skin where the eyes and their lashes are."""
    known = np.ones(photo.shape[:2], np.float32)
    for upper, lower in EYES:
        outline = np.concatenate([uv[list(upper)], uv[list(lower[-2:0:-1])]])
        wide = float(np.linalg.norm(uv[upper[0]] - uv[upper[-1]]))
        reach = max(round(0.06 * wide), 1) * 2 + 1
        eye = cv2.dilate(_polygon(photo.shape, outline), np.ones((reach, reach), np.uint8))
        known *= (eye == 0).astype(np.float32)
    return np.clip(_fill(photo, known), 0, 255).astype(np.uint8)


def _eyeball(
    photo: Pixels,
    eye: Contour,
    iris: int,
    uv: NDArray[np.floating],
    to_texels: Any,
    frame: NDArray[np.float64],
    shape: Floats,
) -> Plate:
    """Return the eye's texture as if the lids were away, in eye widths around its middle."""
    left, top, per_unit, columns, rows = -0.75, -0.6, 96.0, 144, 116
    x, y = np.meshgrid((np.arange(columns) + 0.5) / per_unit + left, (np.arange(rows) + 0.5) / per_unit + top)
    units = np.stack([x, y, np.ones_like(x)], axis=-1)
    source = to_texels(units @ frame.T) - np.float32(0.5)
    seen = cv2.remap(photo, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    inverse = np.linalg.inv(np.vstack([frame, (0, 0, 1)]))

    def to_plate(vertices: list[int]) -> NDArray[np.float64]:
        texel_to_px = (uv[vertices] - to_texels(np.zeros(2))) / (to_texels(np.ones(2)) - to_texels(np.zeros(2)))
        homogeneous = np.column_stack([texel_to_px, np.ones(len(vertices))])
        return np.asarray(((homogeneous @ inverse.T)[:, :2] - (left, top)) * per_unit)

    outline = to_plate([*eye[0], *eye[1][-2:0:-1]])
    inside = cv2.erode(_polygon(seen.shape, outline), np.ones((7, 7), np.uint8)) / 255.0
    inside = cv2.blur(inside, (3, 3))
    centre = to_plate([iris])[0]
    radius = float(np.linalg.norm(to_plate([iris + 1, iris + 2, iris + 3, iris + 4]) - centre, axis=1).max())
    distance = np.hypot(*(np.stack([x - left, y - top]) * per_unit - centre[:, None, None]))
    in_iris = np.clip((1.12 * radius - distance) / 2, 0, 1)

    beside_iris = inside * np.clip((distance - 1.3 * radius) / 2, 0, 1)
    colourful = np.ptp(seen.astype(np.float32), axis=2)  # skin and corners are, the white is not
    is_white = colourful <= np.quantile(np.append(colourful[beside_iris > 0.5], 255), 0.5)
    white = _fill(seen, beside_iris * is_white)
    disc = _complete_iris(seen.astype(np.float32), inside * in_iris, centre, distance / radius)
    ball = white + in_iris[..., None] * (disc - white)
    ball = ball + inside[..., None] * (seen - ball)
    return Plate(
        rgba=np.dstack([np.clip(ball, 0, 255), np.full(ball.shape[:2], 255)]).astype(np.uint8),
        left=left,
        top=top,
        per_unit=per_unit,
    )


def _complete_iris(
    seen: NDArray[np.float32],
    known: NDArray[np.floating],
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the iris with what the lids hide: its mirror image, else the mean at that radius."""
    flip = np.array([[1, 0, 0], [0, -1, 2 * centre[1] - 1]], np.float64)
    size = seen.shape[1::-1]
    mirrored = cv2.warpAffine(seen, flip, size)
    in_mirror = cv2.warpAffine(known.astype(np.float32), flip, size)
    both = known + (1 - known) * in_mirror
    disc = mirrored + known[..., None] * (seen - mirrored)
    bins = np.arange(13)
    ring = np.minimum(radius * 10, 12).astype(int).ravel()
    weight = np.bincount(ring, both.ravel(), len(bins))
    reached = weight > 0.5
    if not reached.any():
        return seen
    for channel in range(3):
        total = np.bincount(ring, (both * disc[..., channel]).ravel(), len(bins))
        means = np.interp(bins, bins[reached], total[reached] / weight[reached])
        mean = np.interp(radius * 10 - 0.5, bins, means)
        disc[..., channel] = mean + both * (disc[..., channel] - mean)
    return disc


def _skin_tone(photo: Pixels, uv: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the colour of the cheeks [3], 0 to 255."""
    cheeks = np.round(uv[[50, 280, 205, 425]]).astype(int)
    high, wide = photo.shape[:2]
    samples = photo[np.clip(cheeks[:, 1], 0, high - 1), np.clip(cheeks[:, 0], 0, wide - 1)]
    return np.median(samples, axis=0).astype(np.float64)


def _teeth(skin: NDArray[np.float64], *, upper: bool) -> Plate:
    """Draw a row of teeth in head units around the middle of the inner lips, lit like the skin."""
    per_unit = 240.0
    left, top, columns, rows = -0.4, -0.2, 192, 96
    x = (np.arange(columns) + 0.5) / per_unit + left
    y = (np.arange(rows) + 0.5) / per_unit + top
    edges = np.array([0.0, 0.094, 0.166, 0.244, 0.32])  # incisors 8.5 and 6.5 mm, canine, premolar
    if not upper:
        edges = edges * 0.72
    which = np.clip(np.searchsorted(edges, np.abs(x)) - 1, 0, 3)
    middle = (edges[which] + edges[which + 1]) / 2
    within = np.clip(1 - np.abs(np.abs(x) - middle) / ((edges[which + 1] - edges[which]) / 2), 0, 1)
    lengths = np.array([0.035, 0.028, 0.033, 0.022] if upper else [0.0, 0.0, 0.002, 0.0])
    rounded = 0.012 * (1 - np.minimum(within * 3, 1)) ** 2
    if upper:
        edge = lengths[which] - rounded
        alpha = np.clip((edge[None] - y[:, None]) * per_unit / 2 + 0.5, 0, 1)
    else:
        edge = lengths[which] + rounded + 0.012
        alpha = np.clip((y[:, None] - edge[None]) * per_unit / 2 + 0.5, 0, 1)
    alpha *= np.abs(x)[None] < edges[-1]
    light = np.clip(skin.max() * 0.95, 40, 235)
    tone = light * np.array([1.0, 0.96, 0.88])
    round_off = 1 - 0.75 * (np.abs(x) / edges[-1]) ** 2  # the row curves away into shadow
    gaps = 1 - 0.25 * (1 - np.minimum(within * 6, 1)) ** 2
    shade = (round_off * gaps)[None] * np.ones_like(y)[:, None]
    if not upper:
        shade = shade * 0.8
    rgba = np.dstack([shade[..., None] * tone, alpha * 255])
    return Plate(rgba=np.clip(rgba, 0, 255).astype(np.uint8), left=left, top=top, per_unit=per_unit)
