"""What the browser tests and the browser bench share: a face, a fake webcam, a server, Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from mimaface.animate import animate, encode_source
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import load
from mimaface.types import ClipRequest, Motion, Pixels

ROOT = Path(__file__).parents[1]
FPS = 30
WIDTH_PX, HEIGHT_PX = 640, 480
PATIENCE_MS = 60_000  # for what a page is expected to show: a busy machine takes its time
STRIP_PX = HEIGHT_PX // 12  # kept free at the top, for the bench's block counter


def find_chromium() -> str | None:
    """Return the path of the system's Chromium or Chrome, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def launch(playwright: Playwright, *arguments: str) -> Browser:
    """Start Chromium without a window, without its own network traffic, with a fake camera."""
    expect.set_options(timeout=PATIENCE_MS)
    return playwright.chromium.launch(
        executable_path=find_chromium(),
        args=[
            "--no-sandbox",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-device-for-media-stream",
            *arguments,
        ],
    )


@contextlib.contextmanager
def run_browser(webcam: Path, *arguments: str) -> Iterator[Browser]:
    """Run Chromium, whose camera plays a clip again and again, until the block ends."""
    with sync_playwright() as playwright:
        browser = launch(playwright, f"--use-file-for-fake-video-capture={webcam}", *arguments)
        yield browser
        browser.close()


def moving_face(portrait: Path, frames: int) -> list[Pixels]:
    """Return pictures of a portrait that sways, speaks and blinks, as a webcam would show it.

    The pictures, uint8 [480, 640, 3], go back to where they began, so that they can be repeated.
    """
    model = load("tiny", size_px=448, weights="none")
    appearance = encode_source(model, portrait)
    motion = scripted_motion(frames // 2, fps=FPS)
    requests = [ClipRequest(appearance=appearance, motion=row) for row in _rows(motion)]
    pictures = [_as_seen_by_a_webcam(clip.pixels[0]) for clip in animate(model, requests)]
    return pictures + pictures[::-1]


def _rows(motion: Motion) -> list[Motion]:
    return [motion[index : index + 1] for index in range(len(motion))]


def _as_seen_by_a_webcam(face: Pixels) -> Pixels:
    side = HEIGHT_PX - STRIP_PX
    picture = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (96, 100, 104))
    picture.paste(Image.fromarray(face).resize((side, side)), ((WIDTH_PX - side) // 2, STRIP_PX))
    return np.asarray(picture)


def write_webcam_clip(path: Path, pictures: Iterable[Pixels]) -> None:
    """Write a motion JPEG file that Chromium plays, again and again, as the camera."""
    with av.open(path, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=FPS, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuvj420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server process and where it listens."""

    url: str
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid


@contextlib.contextmanager
def run_server(*arguments: str, module: str = "server", **environ: str) -> Iterator[RunningServer]:
    """Run the real server on a free port of this machine, until the block ends.

    `module` may be one that runs it with something added.
    """
    command = [sys.executable, "-m", module, "--port", "0", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environ, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None, "it was asked for"
            # The server says where it listens once it is ready.
            for line in process.stdout:
                if found := re.search(r"http://localhost:(\d+)", line):
                    yield RunningServer(url=f"http://127.0.0.1:{found[1]}", process=process)
                    break
            else:
                raise RuntimeError(f"the server ended with status {process.wait()}")
        finally:
            process.send_signal(signal.SIGINT)  # at SIGTERM it would let the calls go on
