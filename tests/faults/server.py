"""The real server, whose device does what its standard input says: python -m tests.faults.server.

A line is `work`, `raise`, `full` (no memory for denoising steps) or `hang SECONDS` (once). Clips
are made without denoising steps whatever the rung, so that a small machine stays on the first one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from mimaface.animate import animate
from mimaface.model import Model
from mimaface.native_logs import hide_native_logs
from mimaface.types import Clip, ClipRequest
from server import __main__, startup


class Device:
    """Stands before the real one."""

    def __init__(self) -> None:
        self._mode = "work"

    def animate(self, model: Model, requests: Sequence[ClipRequest]) -> list[Clip]:
        match self._mode.split():
            case ["raise"]:
                raise RuntimeError("the device is broken")
            case ["full"] if any(request.steps for request in requests):
                raise MemoryError("the device has no memory left")
            case ["hang", seconds]:
                self._mode = "work"
                time.sleep(float(seconds))
        return animate(model, [replace(request, steps=0) for request in requests])

    def obey(self) -> None:
        while said := os.read(sys.stdin.fileno(), 100):  # no lock to be held when all ends
            self._mode = said.decode().strip()


if __name__ == "__main__":
    hide_native_logs()
    device = Device()
    startup.animate = device.animate  # type: ignore[assignment] # it has no stages to watch
    threading.Thread(target=device.obey, daemon=True).start()
    sys.exit(__main__.main())
