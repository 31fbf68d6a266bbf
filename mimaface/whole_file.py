"""Files that are there whole or not at all, and a plain word where they cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from mimaface.errors import UnwritableMediaError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to; the file moves to `path` when the block ends without an error.

    Raises:
        UnwritableMediaError: the folder is missing, read-only or full.
    """
    if not path.parent.is_dir():
        raise UnwritableMediaError(f"there is no folder {path.parent}: create it first")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with naming_errors(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Say of any failure to write in the block that `path` cannot be written."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise UnwritableMediaError(f"{path} cannot be written: {error.strerror}") from error
