"""Keeps the log lines of MediaPipe's C++ off a person's terminal.

They go straight to file descriptor 2, a dozen for every tracker that starts, and no option or
environment variable of MediaPipe 0.10.21 stops them.
"""

from __future__ import annotations

import os
import sys


def hide_native_logs() -> None:
    """Give Python's stderr a descriptor of its own and send descriptor 2 to nowhere.

    For programs, first thing. Where stderr is not a terminal but a file or a pipe, nothing is
    changed and nothing is lost.
    """
    if not sys.stderr.isatty():
        return
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
