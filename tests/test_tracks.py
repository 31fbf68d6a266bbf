"""Frames in from the webcam's track, frames out to the avatar's."""

import asyncio
from typing import Any

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from server.broadcast import Broadcast
from server.tracks import AvatarTrack, pump
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from streaming.types import AvatarFrame
from tests.fakes import Extractor, driving_frame, nothing_ahead, one_rung, paint, portrait


class Camera(MediaStreamTrack):
    """A frame of each shade, then the end."""

    kind = "video"

    def __init__(self, *shades: int) -> None:
        super().__init__()
        self.shades = list(shades)

    async def recv(self) -> av.VideoFrame:
        if not self.shades:
            raise MediaStreamError
        picture = np.full((48, 64, 3), self.shades.pop(0), np.uint8)
        return av.VideoFrame.from_ndarray(picture, format="rgb24")


def run(scene: Any, *, fps: float = 30) -> None:
    """Run a scene with a live session on the loop's clock."""

    async def main() -> None:
        backend = LocalBackend(paint, clock=asyncio.get_running_loop().time)
        live = LiveSession(
            "test",
            portrait(10),
            extractor=Extractor,
            draw=nothing_ahead,
            backend=backend,
            clock=asyncio.get_running_loop().time,
            new_frames=1,
            ladder=one_rung(fps=fps),
        )
        try:
            async with asyncio.timeout(30):
                await scene(live)
        finally:
            live.close()
            backend.close()

    asyncio.run(main())


def shade(frame: av.VideoFrame) -> int:
    return int(frame.to_ndarray(format="rgb24")[32, 32, 0])


async def until(track: AvatarTrack, expected: int) -> av.VideoFrame:
    while shade(frame := await track.recv()) != expected:
        pass
    return frame


def test_the_still_comes_first_and_then_every_new_frame() -> None:
    async def scene(live: LiveSession) -> None:
        track = AvatarTrack(Broadcast(live))
        assert shade(await track.recv()) == 10
        live.feed(driving_frame(asyncio.get_running_loop().time()))
        await until(track, 11)

    run(scene)


def test_repeats_are_new_frames_with_rising_times() -> None:
    async def scene(live: LiveSession) -> None:
        track = AvatarTrack(Broadcast(live))
        frames = [await track.recv() for _ in range(5)]
        assert len({id(frame) for frame in frames}) == 5
        times = [frame.pts for frame in frames]
        assert times == sorted(set(times))
        assert {frame.time_base for frame in frames} == {frames[0].time_base}
        assert live.stats(asyncio.get_running_loop().time()).repeated == 5

    run(scene, fps=1000)


def test_a_stopped_track_ends_at_once() -> None:
    async def scene(live: LiveSession) -> None:
        track = AvatarTrack(Broadcast(live))
        await track.recv()
        waiting = asyncio.ensure_future(track.recv())
        await asyncio.sleep(0)
        track.stop()
        with pytest.raises(MediaStreamError):
            await waiting

    run(scene, fps=0.001)  # it would repeat after 25 minutes


def test_what_is_drawn_on_a_frame_is_sent() -> None:
    def draw(frame: AvatarFrame) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return frame.pixels + np.uint8(100)

    async def scene(live: LiveSession) -> None:
        assert shade(await AvatarTrack(Broadcast(live, draw=draw)).recv()) == 110

    run(scene)


def test_the_pump_feeds_the_webcams_frames_until_its_track_ends() -> None:
    async def scene(live: LiveSession) -> None:
        await pump(Camera(50, 100, 150), live)
        await until(AvatarTrack(Broadcast(live)), 11)
        assert live.stats(asyncio.get_running_loop().time()).driving_fps > 0

    run(scene)


def test_a_webcam_that_ends_before_its_first_frame_leaves_the_still() -> None:
    async def scene(live: LiveSession) -> None:
        await pump(Camera(), live)
        track = AvatarTrack(Broadcast(live))
        assert {shade(await track.recv()) for _ in range(5)} == {10}
        assert live.state(asyncio.get_running_loop().time()) == "waiting"

    run(scene, fps=1000)


def test_frames_after_the_loop_has_ended_do_no_harm() -> None:
    now_s = 0.0
    backend = LocalBackend(paint, clock=lambda: now_s)
    live = LiveSession(
        "test",
        portrait(10),
        extractor=Extractor,
        draw=nothing_ahead,
        backend=backend,
        clock=lambda: now_s,
        new_frames=1,
        ladder=one_rung(),
    )

    async def make_track() -> AvatarTrack:
        return AvatarTrack(Broadcast(live))

    asyncio.run(make_track())
    live.on_frame()
    live.close()
    backend.close()
