"""Reads a photo and finds the one face in it, with a plain word for each thing that is wrong."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from mimaface.config import Framing
from mimaface.errors import (
    NoFaceError,
    SeveralFacesError,
    SmallFaceError,
    SourceImageError,
    UnreadableMediaError,
)
from mimaface.motion import FaceMeshExtractor
from mimaface.picture import MOST_PX, UNREADABLE, TooLargeError, decode
from mimaface.types import Crop, Motion, Pixels

SMALLEST_FACE_PX: Final = 96
Photo = Path | str | bytes | Pixels
"""A photo's path, its file's bytes, or its pixels, uint8 [H, W, 3]."""

DETECTOR_BOX: Final = 1.55  # head units that MediaPipe's face detector spans from brow to chin

# A border is flat but near what it borders on, where a codec mixes the two; a thin one is all near.
_FLAT: Final = 2  # levels that its colour varies by
_RINGING: Final = 12  # and near its end
_SPOTS: Final = 0.02  # of a line, where it varies by more
_STEP: Final = 16  # levels at least between it and most of the picture beside it
_MIXED_PX: Final = 16
_THIN_PX: Final = 8
_WIDEST_BORDER: Final = 0.4  # of a side
_NARROW_BORDER: Final = 0.05  # of it; wider ones come in pairs


def built_in_portraits() -> list[Path]:
    """Return the photos that come with the package, in the order of their names."""
    return sorted((Path(__file__).parent / "assets" / "portraits").glob("*.jpg"))


def read_photo(photo: Photo) -> Pixels:
    """Return the upright RGB picture uint8 [H, W, 3], transparency laid over grey.

    Raises:
        UnreadableMediaError: the file is missing, damaged or not a picture.
        SourceImageError: it has more than 8 megapixels.
    """
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or not photo.size or photo.dtype != np.uint8:
            raise ValueError(f"photo must be uint8 [H, W, 3], found {photo.dtype} {photo.shape}")
        if photo.shape[0] * photo.shape[1] > MOST_PX:
            raise too_large(photo.shape[1], photo.shape[0])
        return np.ascontiguousarray(photo)  # MediaPipe reads no other
    if isinstance(photo, str):
        photo = Path(photo)
    try:
        return np.asarray(decode(photo if isinstance(photo, Path) else io.BytesIO(photo)))
    except FileNotFoundError as error:
        raise UnreadableMediaError(f"{photo!s} does not exist") from error
    except TooLargeError as error:
        raise too_large(*error.size) from error
    except UNREADABLE as error:
        raise unreadable(photo if isinstance(photo, Path) else "the picture") from error


def too_large(width_px: int, height_px: int) -> SourceImageError:
    """Return the refusal of a photo that has too many pixels."""
    return SourceImageError(
        f"the photo has {width_px * height_px / 1e6:.1f} megapixels, at most {MOST_PX / 1e6:g} are "
        "taken: make it smaller"
    )


def unreadable(name: Path | str) -> UnreadableMediaError:
    """Return the refusal of a file that is not a picture."""
    return UnreadableMediaError(
        f"{name} cannot be read as a JPEG, PNG or WebP picture: save it as one and try again"
    )


def inside_borders(picture: Pixels) -> tuple[slice, slice]:
    """Return the rows and columns of a picture [H, W, 3] inside its borders.

    A border is of one flat colour and ends sharply along a line, as the bars of a film and the
    lines around a screenshot do.
    """
    rows, columns = _inside(picture), _inside(picture.swapaxes(0, 1))
    # What is as wide as the picture is seen at once, what is between other borders not before.
    rows = _within(rows, _inside(picture[rows, columns]))
    columns = _within(columns, _inside(picture[rows, columns].swapaxes(0, 1)))
    return rows, columns


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _inside(lines: Pixels) -> slice:
    first, last = _border(lines), _border(lines[::-1])
    narrow = _NARROW_BORDER * len(lines)
    if max(first, last) > narrow and min(first, last) == 0:
        return slice(0, len(lines))
    return slice(first, len(lines) - last)


def _border(lines: Pixels) -> int:
    # How many lines at the start are a border's, with those that are mixed with it.
    colour = np.median(lines[0], axis=0)

    def differing(line: Pixels, levels: int) -> float:
        return float((np.abs(line - colour).max(axis=1) > levels).mean())

    for levels, most in ((_FLAT, round(_WIDEST_BORDER * len(lines))), (_RINGING, _THIN_PX)):
        other = (n for n, line in enumerate(lines[:most]) if differing(line, levels) > _SPOTS)
        beside = next(other, 0)
        if beside:
            mixed = range(beside, min(beside + _MIXED_PX, len(lines) - 1))
            if inside := next((n + 1 for n in mixed if differing(lines[n], _STEP) > 0.5), 0):
                return inside
    return 0


def only_face(picture: Pixels) -> tuple[float, float, float]:
    """Return centre x, y and height in pixels of the one face.

    Raises:
        NoFaceError, SeveralFacesError, SmallFaceError: the picture cannot be a portrait.
    """
    from mediapipe.python.solutions.face_detection import FaceDetection

    for model in (1, 0):  # 1 finds small faces, 0 the ones that fill the picture
        with FaceDetection(model_selection=model, min_detection_confidence=0.5) as detector:
            found = detector.process(picture).detections or []
        if found:
            break
    boxes = [one.location_data.relative_bounding_box for one in found]
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


def crop_around(face: tuple[float, float, float], shape: tuple[int, ...], framing: Framing) -> Crop:
    """Return the square around a face (`only_face`), inside a photo of this shape."""
    high, wide = shape[:2]
    x, y, height_px = face
    unit = height_px / DETECTOR_BOX
    side = int(min(framing.side * unit, high, wide))
    left = round(min(max(x - side / 2, 0), wide - side))
    top = round(min(max(y + framing.drop * unit - side / 2, 0), high - side))
    return Crop(left=left, top=top, side=side)


def measure_photo(crop: Pixels) -> Motion:
    """Return the absolute motion of the face in a square crop [H, H, 3], one frame.

    Raises:
        NoFaceError: there is no face to measure.
    """
    with closing(FaceMeshExtractor()) as extractor:
        motion = extractor.extract(0.0, crop)
    if not motion.valid[0]:
        raise NoFaceError(
            "no face could be measured in the photo: take one that shows a face from the front, "
            "evenly lit and not covered"
        )
    return motion
