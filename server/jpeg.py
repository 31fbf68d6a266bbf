"""A webcam's picture as JPEG, opened with a look at its header first."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image

from mimaface.types import Pixels

MAX_WIDTH_PX: Final = 1280
MAX_HEIGHT_PX: Final = 720

_START_OF_SCAN: Final = b"\xff\xda"  # occurs in no picture's data (ITU-T T.81, B.1.1.5)


class PictureError(ValueError):
    """What is not a webcam's picture; the message is meant for who sent it."""


def open_picture(jpeg: bytes) -> Pixels:
    """Return the picture, uint8 [H, W, 3].

    Raises:
        PictureError: it is not a JPEG, damaged, too large, or in more than one scan.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            width, height = image.size
            if width > MAX_WIDTH_PX or height > MAX_HEIGHT_PX:
                raise PictureError(
                    f"A picture may have {MAX_WIDTH_PX}x{MAX_HEIGHT_PX} pixels, "
                    f"found {width}x{height}."
                )
            # Thousands of scans fit into one small file, and each would be drawn over all of it.
            if "progressive" in image.info or jpeg.count(_START_OF_SCAN) > 1:
                raise PictureError("A picture is a baseline JPEG of one scan, found several.")
            return np.asarray(image.convert("RGB"))
    except PictureError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError("This is not a picture as JPEG, or it is damaged.") from error
