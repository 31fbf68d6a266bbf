"""Carry a stream from the standard input to an RTMP server: a process of its own.

FFmpeg, called by PyAV, connects while it holds the interpreter's lock, so that a server that does
not answer would stop every session. It cannot be told to give up either, but a process can.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

import av

ADDRESS: Final = "MIMAFACE_PUSH"  # in the environment, because everybody sees a command line
UP: Final = "up"
_STALLED_S: Final = 10.0


def main() -> int:
    """Say that the server takes the stream, or why it does not; return the exit status."""
    try:
        with (
            av.open(sys.stdin.buffer, "r", format="flv") as source,
            av.open(os.environ[ADDRESS], "w", format="flv") as target,
        ):
            streams = [target.add_stream_from_template(stream) for stream in source.streams]
            # Whoever waits for longer is ended by the signal.
            signal.setitimer(signal.ITIMER_REAL, _STALLED_S)
            target.start_encoding()
            _say(UP)
            for packet in source.demux():
                signal.setitimer(signal.ITIMER_REAL, _STALLED_S)
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
    except av.FFmpegError as error:
        _say(error.strerror or "it failed")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
