"""Break things on purpose and measure what the driver sees of it: python -m tests.faults [ROW ...].

Real peers call the real server, a child process, through a link that can be made worse; the camera
shows a portrait that moves. A row is a fault and what is promised of it. The last line is JSON; the
exit status is 1 if a promise does not hold. Without a quiet machine the figures say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import httpx
import numpy as np
from aiortc import rtcpeerconnection
from aiortc.rtcicetransport import RTCIceTransport
from PIL import Image

from mimaface.native_logs import hide_native_logs
from mimaface.photo import built_in_portraits
from server.rtc_patches import apply_patches
from tests.browser_setup import moving_face, run_server
from tests.faults import on_camera, on_device, on_link, on_peers
from tests.faults.bench import Bench, Outcome, Row
from tests.faults.link import Weather

_FRAMES: Final = 100  # of the driver's clip
_LIKE_LOSS: Final = "no freeze over 0.5 s, latency back within 2 s"
_LIKE_HIDDEN: Final = "at rest 0.6 s later, live again within 1 s"

ROWS: Final[dict[str, tuple[str, Row]]] = {
    "loss-2": (
        f"95 % of the frames, {_LIKE_LOSS}",
        on_link.weather(Weather(delay_s=0.02, loss=0.02), share=0.95),
    ),
    "loss-5": (
        f"90 % of the frames, {_LIKE_LOSS}",
        on_link.weather(Weather(delay_s=0.02, loss=0.05), share=0.9),
    ),
    "jitter-30ms": (
        f"95 % of the frames, {_LIKE_LOSS}",
        on_link.weather(Weather(delay_s=0.02, jitter_s=0.03), share=0.95),
    ),
    "burst-of-10": (_LIKE_LOSS, on_link.burst),
    "bandwidth-300k": ("half of the frames, the delay does not grow", on_link.bandwidth),
    "wraps": (f"95 % of the frames, {_LIKE_LOSS}", on_link.wraps),
    "device-raises": ("connected, frame held, live within 1 s after", on_device.device_raises),
    "device-hangs": ("connected, frame held, live within 1 s after", on_device.device_hangs),
    "out-of-memory": ("fewer steps within 3 s, frames go on, steps back", on_device.out_of_memory),
    "client-vanishes": ("device free in 3 s, session over in 15 s", on_peers.client_vanishes),
    "slow-viewer": (f"the driver: 95 % of the frames, {_LIKE_LOSS}", on_peers.slow_viewer),
    "restart": ("told, new calls 503, the call goes on, status 0", on_peers.restart),
    "camera-black": (
        f"told within 0.5 s, {_LIKE_HIDDEN}",
        on_camera.hidden(on_camera.black, told_s=0.5),
    ),
    "camera-frozen": (
        f"told within 1.5 s, {_LIKE_HIDDEN}",
        on_camera.hidden(on_camera.frozen, told_s=1.5),
    ),
    "no-face": (
        f"told within 0.5 s, {_LIKE_HIDDEN}",
        on_camera.hidden(on_camera.nobody, told_s=0.5),
    ),
    "two-faces": ("never jumps to the other face", on_camera.two_faces),
    "sizes": (f"90 % of the frames, {_LIKE_LOSS}", on_camera.sizes),
    "clock-jump": (f"90 % of the frames, {_LIKE_LOSS}", on_camera.clock_jump),
}


def main() -> int:
    """Run the rows and print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all if none")
    names = parser.parse_args().rows or list(ROWS)
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    logging.getLogger("aiortc").setLevel(logging.ERROR)
    apply_patches()
    # The client's own ICE; the server's would wait to be contacted first.
    rtcpeerconnection.RTCIceTransport = RTCIceTransport
    outcomes = asyncio.run(run(names))
    load = os.getloadavg()[0]
    report = {"cpus": os.cpu_count(), "load_1min": round(load, 2)}
    rows = {
        name: {"promise": ROWS[name][0]} | asdict(outcome) for name, outcome in outcomes.items()
    }
    sys.stdout.write(json.dumps(_plain(report | {"rows": rows})) + "\n")
    return 0 if all(each.holds for each in outcomes.values()) else 1


def _plain(value: Any) -> Any:
    # JSON has neither an endless time nor one that is no number.
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value


async def run(names: Sequence[str]) -> dict[str, Outcome]:
    """Run rows one after the other, and print each as it ends."""
    portraits = built_in_portraits()
    # Small, because this end's codecs take the processor from the server.
    faces = [
        np.asarray(Image.fromarray(picture).resize((320, 240)))
        for picture in moving_face(portraits[-1], frames=_FRAMES)
    ]
    settings = {"MIMAFACE_ADMISSION_FPS": "0", "MIMAFACE_REQUESTS_PER_MIN": "10000"}
    arguments = ("--size-px", "256", "--steps", "0", "--latency-marker")
    outcomes = {}
    with run_server(*arguments, module="tests.faults.server", **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            bench = Bench(client=client, server=server, portrait=portraits[0].stem, faces=faces)
            for name in names:
                promise, row = ROWS[name]
                outcome = outcomes[name] = await row(bench)
                holds = "yes" if outcome.holds else "NO"
                print(f"{name:16} {holds:4} {promise}\n{'':21} {outcome.measured}", flush=True)
    return outcomes


if __name__ == "__main__":
    hide_native_logs()
    sys.exit(main())
