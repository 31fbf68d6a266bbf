"""Measure glass to glass in a real Chromium: python -m tests.browser_bench [--seconds 60].

A 16-bit counter is drawn as blocks along the top of each driving picture. The server, started
with --latency-marker, copies the number onto the avatar frame made from that picture. The page
notes when it drew a number and when the avatar shows it, by one clock. Included is everything
from the drawing to the presentation; not included are a camera's exposure and a screen's scan.
Figures go to stderr for people, and as one JSON line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import math
import os
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Route

from mimaface.photo import built_in_portraits
from mimaface.types import Pixels
from server.config import SIZES_PX
from tests.browser_setup import (
    FPS,
    STRIP_PX,
    WIDTH_PX,
    moving_face,
    run_browser,
    run_server,
    write_webcam_clip,
)
from tests.faults.link import CLEAR, Link, Weather

BITS = 16
WARM_UP = 60  # samples left out at the start
CLIP_FRAMES = 300  # of the looped webcam file; longer than any latency to be measured

# The page's camera is a canvas on which the face and the counter are drawn.
CANVAS_CAMERA = """
(faces) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 480];
  const context = canvas.getContext("2d");
  window.sent = new Map();
  window.drawn = 0;
  const pictures = faces.map((face) => Object.assign(new Image(), { src: face }));
  navigator.mediaDevices.getUserMedia = async () => {
    await Promise.all(pictures.map((picture) => picture.decode()));
    setInterval(() => {
      const n = ++window.drawn % 65536;
      context.drawImage(pictures[n % pictures.length], 0, 0);
      for (let bit = 0; bit < 16; bit++) {
        context.fillStyle = (n >> bit) & 1 ? "white" : "black";
        context.fillRect(40 * bit, 0, 40, 40);
      }
      sent.set(n, performance.now());
      sent.delete((n + 65536 - 600) % 65536);
    }, 1000 / 30);
    return canvas.captureStream(30);
  };
}
"""

# The counter of a video, called with its number and the time at each presented frame.
READER = """
window.read = (video, tell) => {
  const context = new OffscreenCanvas(640, 40).getContext("2d", { willReadFrequently: true });
  const look = (_, { presentedFrames }) => {
    const now = performance.now();
    context.drawImage(video, 0, 0, video.videoWidth, video.videoHeight / 12, 0, 0, 640, 40);
    const { data } = context.getImageData(0, 20, 640, 1);
    let n = 0;
    for (let bit = 0; bit < 16; bit++) if (data[4 * (40 * bit + 20)] > 128) n |= 1 << bit;
    tell(n, now, presentedFrames);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
};
"""

START_READING = """
([source, frames]) => {
  window.samples = [];
  window.estimates = [];
  setInterval(() => estimates.push(Number(document.getElementById("latency").textContent)), 1000);
  window.sent ??= new Map();
  if (source === "webcam") {
    read(document.getElementById("self"), (n, now) => {
      sent.set(n, now);
      sent.delete((n + frames / 2) % frames); // From the clip's round before.
    });
  }
  read(document.getElementById("avatar"), (n, now, presented) =>
    samples.push([now, n, now - sent.get(n), presented]),
  );
}
"""


def main() -> int:
    """Run the bench; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.browser_bench",
        description=__doc__.partition("\n")[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--source",
        choices=("canvas", "webcam"),
        default="canvas",
        help="canvas: from the drawing on; webcam: a file, from the local preview on",
    )
    parser.add_argument("--transport", choices=("rtc", "socket"), default="rtc")
    parser.add_argument(
        "--delay-ms", type=float, default=0.0, help="that a packet takes, each way, over WebRTC"
    )
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets lost, each way")
    parser.add_argument(
        "--kbps", type=float, default=math.inf, help="thousands of bits a second that get through"
    )
    parser.add_argument("--size", type=int, choices=SIZES_PX, default=256, help="of the avatar")
    parser.add_argument(
        "--server-arg", action="append", default=[], help="passed on to python -m server"
    )
    arguments = parser.parse_args()
    weather = Weather(
        delay_s=arguments.delay_ms / 1000, loss=arguments.loss, bits_per_s=1000 * arguments.kbps
    )
    if arguments.transport == "socket" and weather != CLEAR:
        parser.error("--delay-ms, --kbps and --loss are for WebRTC alone")
    faces = moving_face(built_in_portraits()[0], frames=CLIP_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        webcam = Path(folder) / "face.mjpeg"
        write_webcam_clip(webcam, map(with_counter, faces, range(CLIP_FRAMES)))
        options = ("--latency-marker", "--size-px", str(arguments.size), *arguments.server_arg)
        with (
            run_server(*options) as server,
            run_browser(webcam) as browser,
            link_behind(browser.new_context(permissions=["camera"]).new_page(), weather) as page,
        ):
            page.add_init_script(READER)
            if arguments.source == "canvas":
                urls = json.dumps([data_url(face) for face in faces])
                page.add_init_script(f"({CANVAS_CAMERA})({urls})")
            page.goto(f"{server.url}/?transport={arguments.transport}")
            figures = measure(page, server.pid, arguments.source, arguments.seconds)
            page.click("#stop")
    report = {
        "source": arguments.source,
        "transport": arguments.transport,
        "delay_ms": arguments.delay_ms,
        "loss": arguments.loss,
        "kbps": arguments.kbps if math.isfinite(arguments.kbps) else None,
        "size_px": arguments.size,
        "server_arguments": arguments.server_arg,
        "seconds": arguments.seconds,
        "cpus": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
    } | figures
    sys.stderr.writelines(f"{name:>24}  {value}\n" for name, value in report.items())
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


@contextmanager
def link_behind(page: Page, weather: Weather) -> Iterator[Page]:
    """Send a page's calls through a link, unless it would do nothing."""
    if weather == CLEAR:
        yield page
        return
    loop, links = asyncio.new_event_loop(), list[Link]()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def answer(route: Route) -> None:
        response = route.fetch()
        if not response.ok:
            route.fulfill(response=response)
            return
        opening = asyncio.run_coroutine_threadsafe(Link.to_the_server_of(response.text()), loop)
        links.append(opening.result(10))
        loop.call_soon_threadsafe(links[-1].set, weather)
        route.fulfill(response=response, body=links[-1].answer)

    page.route("**/rtc", answer)
    try:
        yield page
    finally:
        for link in links:
            loop.call_soon_threadsafe(link.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def with_counter(picture: Pixels, counter: int) -> Pixels:
    """Return a copy of a picture, uint8 [H, W, 3], with the number in its top strip."""
    marked = picture.copy()
    bits = counter >> (np.arange(WIDTH_PX) * BITS // WIDTH_PX) & 1
    marked[:STRIP_PX] = (255 * bits).astype(np.uint8)[:, None]
    return marked


def data_url(picture: Pixels) -> str:
    """Return a picture as a URL that holds it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def measure(page: Page, server_pid: int, source: str, seconds: float) -> dict[str, Any]:
    """Go live and return the figures of so many seconds."""
    page.click("#start")
    page.wait_for_selector("[data-state=live]", timeout=30_000)
    page.evaluate(START_READING, [source, CLIP_FRAMES])
    page.wait_for_function("count => samples.length > count", arg=WARM_UP)
    page.evaluate("samples.length = estimates.length = 0")
    first_rss = resident_mib(server_pid)
    rungs: Counter[str] = Counter()
    for _ in range(round(seconds)):
        page.wait_for_timeout(1000)
        metrics = page.evaluate("fetch('/metrics').then((response) => response.text())")
        rungs.update(re.findall(r"avatar_quality_rung{(.*)} 1", metrics))
    samples, estimates = page.evaluate("[samples, estimates]")
    return summarise(samples, seconds) | {
        "page_estimate_p50_ms": round(float(np.median(estimates))),
        "seconds_on_rungs": rungs,
        "server_mib_first_last": [first_rss, resident_mib(server_pid)],
    }


def summarise(samples: Sequence[tuple[float, int, float, int]], seconds: float) -> dict[str, Any]:
    """Turn what was read of the avatar into figures.

    Args:
        samples: presented at ms, counter, latency ms, frames presented so far.
        seconds: how long the bench was asked to run.
    """
    times_ms, counters, latency_ms, presented = np.array(samples).T
    # A repeated frame is no new measurement, and a number never sent was misread.
    is_new = np.append(True, np.diff(counters) != 0)
    is_read = ~np.isnan(latency_ms)
    good = is_new & is_read
    edge_ms = min(60.0, seconds / 3) * 1000
    early = good & (times_ms < times_ms[0] + edge_ms)
    late = good & (times_ms > times_ms[-1] - edge_ms)
    duration_s = (times_ms[-1] - times_ms[0]) / 1000
    # A busy page misses callbacks, so the frames are counted by the browser, not by the reader.
    presented_fps = float(np.ptp(presented)) / duration_s
    avatar_fps = presented_fps * float(is_new.mean())
    p50, p95, p99 = np.percentile(latency_ms[good], (50, 95, 99))
    return {
        "glass_to_glass_ms": {"p50": round(p50), "p95": round(p95), "p99": round(p99)},
        "first_and_last_p50_ms": [
            round(float(np.median(latency_ms[early]))),
            round(float(np.median(latency_ms[late]))),
        ],
        "longest_freeze_ms": round(float(np.diff(times_ms[is_new]).max())),
        "samples": int(good.sum()),
        "avatar_fps": round(avatar_fps, 1),
        "presented_fps": round(presented_fps, 1),
        "driving_frames_not_shown": round((FPS - avatar_fps) * duration_s),
        "misread": int((~is_read).sum()),
    }


def resident_mib(pid: int) -> int:
    """Return a process's resident memory (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    sys.exit(main())
