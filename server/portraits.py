"""Photos to portraits, as blocking work for a thread; what needs the device runs on its own."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mimaface.animate import encode_source
from mimaface.half_size import add_half
from mimaface.model import Model
from mimaface.types import Appearance, Pixels
from server.auth import new_id
from server.decoding import decode_apart
from server.registry import Source
from streaming.backend import LocalBackend


def encode_built_in(model: Model, backend: LocalBackend, path: Path) -> Source:
    """Return one of the built-in portraits."""
    return Source(
        id=path.stem,
        name=path.stem.title(),
        jpeg=path.read_bytes(),
        appearance=_encode(model, backend, path),
        is_private=False,
    )


def encode_upload(model: Model, backend: LocalBackend, photo: bytes) -> Source:
    """Return the portrait of an uploaded photo, with a picture made of its pixels alone.

    Raises:
        UnreadableMediaError, SourceImageError: it cannot be a portrait.
    """
    appearance = _encode(model, backend, decode_apart(photo))
    picture = io.BytesIO()
    Image.fromarray(appearance.source).save(picture, "JPEG", quality=90)
    return Source(
        id=new_id(),
        name="Your photo",
        jpeg=picture.getvalue(),
        appearance=appearance,
        is_private=True,
    )


def _encode(model: Model, backend: LocalBackend, photo: Path | Pixels) -> Appearance:
    read = encode_source(model, photo, on_device=lambda read: backend.call(read).result())
    return add_half(read)
