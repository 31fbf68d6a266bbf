"""What a person sees in a terminal, and what a log file keeps."""

import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="there are no such terminals here")

PROGRAM = """
import os, sys
from mimaface.native_logs import hide_native_logs
hide_native_logs()
os.write(2, b"W0000 native\\n")
print("for people", file=sys.stderr)
"""


def test_a_terminal_shows_what_python_says_and_no_native_log() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert shown.split() == [b"for", b"people"]


def test_a_log_file_keeps_everything() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert done.stderr.split() == [b"W0000", b"native", b"for", b"people"]
