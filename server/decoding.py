"""Decodes uploaded photos in a process of their own, which may break; blocking work for a thread.

That process is mimaface/picture.py: Pillow alone, limited in memory, time and files.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

import numpy as np

from mimaface import picture
from mimaface.photo import too_large, unreadable
from mimaface.types import Pixels

_WITHIN_S: Final = 15.0
_NAME: Final = "the picture"
_IS_PHOTO: Final = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
_PPM: Final = re.compile(rb"P6\n(\d{1,9}) (\d{1,9})\n255\n")


def decode_apart(photo: bytes) -> Pixels:
    """Return the upright RGB picture uint8 [H, W, 3] of a file that nobody vouches for.

    Raises:
        UnreadableMediaError: it is damaged, or takes too much to decode.
        SourceImageError: it has too many pixels.
    """
    if not _IS_PHOTO.match(photo):
        raise unreadable(_NAME)
    try:
        done = subprocess.run(
            [sys.executable, "-I", picture.__file__],
            input=photo,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            timeout=_WITHIN_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise unreadable(_NAME) from error
    header = _PPM.match(done.stdout)
    assert header is not None, "what the process writes is a PPM file"
    width, height = int(header[1]), int(header[2])
    if width * height > picture.MOST_PX:
        raise too_large(width, height)
    pixels = np.frombuffer(done.stdout, np.uint8, offset=header.end())
    return pixels.reshape(height, width, 3)
