"""Uploads are decoded in a process of their own."""

import io
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimaface import picture
from mimaface.errors import SourceImageError, UnreadableMediaError
from mimaface.photo import read_photo
from server.decoding import decode_apart


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, body: bytes) -> bytes:
    """A grey PNG with the size and the compressed body that somebody wants it to have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_comes_out_as_the_library_reads_it(portrait: Path, kind: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    photo = encoded(Image.open(portrait), kind, exif=turned)
    assert np.array_equal(decode_apart(photo), read_photo(photo))


@pytest.mark.parametrize(
    "photo",
    [
        b"",
        b"hello",
        b"GIF89a" + bytes(64),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff" + bytes(64),
        b"RIFF\0\0\0\0WEBP" + bytes(64),
        png(100, 100, b"no zlib stream"),
        png(0, 100, zlib.compress(b"")),
    ],
)
def test_what_is_no_photo_is_refused(photo: bytes) -> None:
    with pytest.raises(UnreadableMediaError, match="cannot be read as a JPEG, PNG or WebP"):
        decode_apart(photo)


@pytest.mark.parametrize("size", [(4000, 2001), (65_500, 65_500), (2_000_000_000, 4)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises((SourceImageError, UnreadableMediaError)):
        decode_apart(png(*size, zlib.compress(bytes(1000))))


def test_of_a_film_the_first_picture_alone_is_decoded() -> None:
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (200, 100, 50)]
    film = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_apart(film), np.asarray(frames[0]))


def test_the_process_is_limited_and_starts_without_the_model() -> None:
    script = (
        "import runpy, resource, sys, io\n"
        "try:\n"
        "    runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "limits = [getattr(resource, 'RLIMIT_' + n) for n in ('AS', 'CPU', 'FSIZE', 'CORE')]\n"
        "print([resource.getrlimit(limit)[0] for limit in limits], 'numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, picture.__file__],
        input=b"",
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == f"[{1 << 30}, 8, 0, 0] False\n"
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY, "not our own"
