"""What the C library does with memory that is free again."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def share_one_heap() -> None:
    """Let all threads allocate from one heap, before there are any (Linux with glibc).

    By itself glibc gives new threads heaps of their own, up to eight a core, each of which keeps
    the most that was ever taken of it. A call has threads of its own: a server that should stay as
    it is grows with each, for the first hundred of them by more than the model takes.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)
