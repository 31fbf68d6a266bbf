"""The webcam's pictures as JPEG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimaface.types import Pixels
from server.jpeg import PictureError, open_picture


def as_jpeg(rgb: Pixels, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=80, **options)
    return file.getvalue()


def black(width: int, height: int) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


def in_scans(jpeg: bytes) -> bytes:
    """Return a baseline JPEG with its one scan again and again."""
    start, end = jpeg.index(b"\xff\xda"), jpeg.index(b"\xff\xd9")
    return jpeg[:end] + 100 * jpeg[start:end] + jpeg[end:]


@pytest.mark.parametrize(
    ("jpeg", "reason"),
    [
        (as_jpeg(black(1281, 16)), "1280x720 pixels, found 1281x16"),
        (as_jpeg(black(16, 721)), "1280x720 pixels, found 16x721"),
        (as_jpeg(black(640, 480), progressive=True), "found several"),
        (in_scans(as_jpeg(black(640, 480))), "found several"),
        (as_jpeg(black(640, 480))[:500], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"", "not a picture"),
    ],
)
def test_a_picture_is_looked_at_before_it_is_opened(jpeg: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        open_picture(jpeg)


def test_a_picture_is_opened_as_it_was_taken() -> None:
    rgb = np.full((480, 640, 3), (200, 40, 90), np.uint8)
    opened = open_picture(as_jpeg(rgb))
    assert opened.shape == rgb.shape
    assert np.abs(opened.astype(int) - rgb).max() <= 3
