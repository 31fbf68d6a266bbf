"""Decodes a photo's file into its pixels; knows Pillow and nothing else, so that it starts quickly.

Run as a script it decodes its standard input under limits on memory and processor time, and writes
a PPM file to its standard output: a photo made to do harm breaks that process and no other.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, ImageOps

MOST_PX: Final = 8_000_000
FORMATS: Final = ("JPEG", "PNG", "WEBP")
UNREADABLE: Final = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # by Pillow

_MEMORY_BYTES: Final = 1 << 30  # of address space; 8 megapixels and their copies take a fifth
_PROCESSOR_S: Final = 8


class TooLargeError(Exception):
    """The picture has more than `MOST_PX` pixels; `size` is its width and height."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.size = size


def decode(file: Path | BinaryIO) -> Image.Image:
    """Return the upright picture in RGB, transparency laid over grey; of several, the first one.

    Raises:
        TooLargeError: its header says so; nothing was decoded.
        UNREADABLE: the file is missing, damaged or not a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked just below
        opened = Image.open(file, formats=FORMATS)
    with opened as image:
        if image.width * image.height > MOST_PX:
            raise TooLargeError(image.size)
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            grey = Image.new("RGBA", rgba.size, (128, 128, 128, 255))
            upright = Image.alpha_composite(grey, rgba)
        return upright.convert("RGB")


def main() -> int:
    """Decode standard input; of a picture that is too large only the header is written."""
    import resource  # which Windows lacks

    for limit, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _PROCESSOR_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    try:
        decode(io.BytesIO(sys.stdin.buffer.read())).save(sys.stdout.buffer, "PPM")
    except TooLargeError as error:
        sys.stdout.buffer.write(b"P6\n%d %d\n255\n" % error.size)
    except UNREADABLE:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
