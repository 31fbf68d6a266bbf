"""No camera pixel reaches an output: not live, not when lost, not on errors, not at either end.

The webcam's pictures carry a checker of colours that the portrait does not have.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from mimaface.animate import animate, draw_ahead, encode_source
from mimaface.model import load
from mimaface.motion import FaceMeshExtractor
from mimaface.types import Clip, ClipRequest, Motion, Pixels
from mimaface.video import VideoReader
from server.broadcast import Broadcast
from server.latency_marker import LatencyMarker, MarkedExtractor
from server.tracks import AvatarTrack, pump
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from streaming.types import DrivingFrame
from tests.fakes import Clock, Extractor, nothing_ahead, one_rung, paint
from tests.fakes import portrait as shade_of

MAGENTA, GREEN = (255, 0, 255), (0, 255, 0)
SQUARE_PX = 8


def mark(picture: Pixels) -> Pixels:
    """Return a picture with a frame of checkers around it, a fifth of its width."""
    marked = picture.copy()
    height, width = picture.shape[:2]
    y, x = np.indices((height, width)) // SQUARE_PX
    checker = np.where(((x + y) % 2 == 0)[..., None], MAGENTA, GREEN).astype(np.uint8)
    band = width // 5
    for part in (np.s_[:, :band], np.s_[:, -band:], np.s_[-band // 2 :]):
        marked[part] = checker[part]
    return marked


def marked_share(picture: Pixels) -> float:
    """Return the share of a picture that is as saturated as the mark; a codec may dull it."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    magenta = np.minimum(red, blue) - green
    grass = green - np.maximum(red, blue)
    return float((np.maximum(magenta, grass) > 90).mean())


class Camera(MediaStreamTrack):
    """Shows what it is given."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.pictures: asyncio.Queue[Pixels | None] = asyncio.Queue()

    async def recv(self) -> av.VideoFrame:
        picture = await self.pictures.get()
        if picture is None:
            raise MediaStreamError
        return av.VideoFrame.from_ndarray(picture, format="rgb24")


class BreakableExtractor(FaceMeshExtractor):
    is_broken = False

    def extract(self, time_s: float, rgb: Pixels) -> Motion:
        if self.is_broken:
            raise RuntimeError("broken extractor")
        return super().extract(time_s, rgb)


@pytest.mark.parametrize("has_latency_marker", [False, True])
def test_the_mark_never_appears(
    portrait: Path, driving_clip: Path, has_latency_marker: bool
) -> None:
    model = load("tiny", weights="none")
    appearance = encode_source(model, portrait)
    with VideoReader(driving_clip) as video:
        driver = [mark(rgb) for _, rgb in video]
    nobody = [mark(np.full_like(driver[0], shade)) for shade in (90, 92) * 10]
    assert min(marked_share(picture) for picture in driver + nobody) > 0.3
    assert marked_share(appearance.source) == 0.0

    is_device_broken = threading.Event()
    extractors: list[BreakableExtractor] = []
    marker = LatencyMarker()

    def build() -> BreakableExtractor | MarkedExtractor:
        extractors.append(BreakableExtractor())
        return MarkedExtractor(extractors[0], marker) if has_latency_marker else extractors[0]

    def make(requests: Sequence[ClipRequest]) -> list[Clip]:
        if is_device_broken.is_set():
            raise RuntimeError("broken device")
        return animate(model, requests)

    sent: list[Pixels] = []

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        backend = LocalBackend(make, clock=clock)
        live = LiveSession(
            "test",
            appearance,
            extractor=build,
            draw=draw_ahead,
            backend=backend,
            clock=clock,
            new_frames=1,
            ladder=one_rung(),
        )
        camera = Camera()
        draw = marker.draw if has_latency_marker else None
        avatar = AvatarTrack(Broadcast(live, draw=draw))
        pumping = asyncio.create_task(pump(camera, live))

        async def show(pictures: Sequence[Pixels], until: str | None = None) -> None:
            for picture in cycle(pictures) if until else pictures:
                camera.pictures.put_nowait(picture)
                frame = await avatar.recv()
                sent.append(frame.to_ndarray(format="rgb24"))
                if live.state(clock()) == until:
                    return

        await show(driver[:20])  # the first frames come before the extractor is ready
        await show(driver[20:], until="live")
        await show(nobody, until="lost")
        await show(nobody)
        await show(driver, until="live")
        extractors[0].is_broken = True
        await show(driver, until="lost")
        extractors[0].is_broken = False
        await show(driver, until="live")
        is_device_broken.set()
        await show(driver[:10])
        is_device_broken.clear()
        await show(driver[10:])
        camera.pictures.put_nowait(None)
        await pumping
        sent.append((await avatar.recv()).to_ndarray(format="rgb24"))
        await asyncio.get_running_loop().run_in_executor(None, live.close)
        sent.append((await avatar.recv()).to_ndarray(format="rgb24"))
        assert live.stats(clock()).failed > 2
        backend.close()

    logging.disable(logging.ERROR)  # two kinds of expected tracebacks
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        logging.disable(logging.NOTSET)
    assert max(marked_share(frame) for frame in sent) == 0.0
    assert len({frame.tobytes() for frame in sent}) > 20, "the avatar must have moved"


def test_driving_frames_are_opened_by_the_motion_thread_alone() -> None:
    openers = []

    def rgb() -> Pixels:
        openers.append(threading.current_thread().name)
        return np.full((48, 64, 3), 200, np.uint8)

    clock = Clock()
    is_made = threading.Semaphore(0)
    backend = LocalBackend(paint, clock=clock)
    live = LiveSession(
        "test",
        shade_of(10),
        extractor=Extractor,
        draw=nothing_ahead,
        backend=backend,
        clock=clock,
        new_frames=1,
        ladder=one_rung(),
    )
    live.on_frame = is_made.release
    for _ in range(5):
        clock.now_s += 1 / 30
        live.feed(DrivingFrame(time_s=clock.now_s, rgb=rgb))
        assert is_made.acquire(timeout=20)
        live.pull(clock.now_s)
        live.stats(clock.now_s)
    live.pause(True)
    live.feed(DrivingFrame(time_s=clock.now_s + 1, rgb=rgb))
    live.change_source(shade_of(20))
    live.close()
    live.feed(DrivingFrame(time_s=clock.now_s + 2, rgb=rgb))
    backend.close()
    assert openers == ["motion-test"] * 5
