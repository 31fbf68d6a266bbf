"""The two media tracks of a call; the only place that knows pts, time base and video frames."""

from __future__ import annotations

import asyncio
import fractions
from collections.abc import Callable
from functools import partial
from typing import Final

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.reformatter import VideoReformatter

from mimaface.types import Pixels
from streaming.live import LiveSession
from streaming.types import AvatarFrame, DrivingFrame

_CLOCK_RATE: Final = 90_000  # of RTP video
_REST_FPS: Final = 5.0
_TIME_BASE: Final = fractions.Fraction(1, _CLOCK_RATE)


async def pump(track: MediaStreamTrack, live: LiveSession) -> None:
    """Hand every frame of the webcam's track to the session until the track ends.

    The track's own queue has no bound, so it is always read; the session keeps the newest frame.
    """
    loop = asyncio.get_running_loop()
    reformatter = VideoReformatter()  # a frame's own would start and end threads for each frame
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, av.VideoFrame), "only video tracks are pumped"
        live.feed(DrivingFrame(time_s=loop.time(), rgb=partial(_to_rgb, reformatter, frame)))


def _to_rgb(reformatter: VideoReformatter, frame: av.VideoFrame) -> Pixels:
    return reformatter.reformat(frame, format="rgb24").to_ndarray().astype(np.uint8, copy=False)


class AvatarTrack(MediaStreamTrack):
    """Sends the avatar of a session: each new frame at once, the last one again when none comes.

    The session keeps the avatar moving at the rate of its rung, so a repeat is rare; it comes half
    an interval late, because a new frame may only just have missed its time. While the avatar
    rests, a few repeats a second keep the connection alive.
    """

    kind = "video"

    def __init__(
        self,
        live: LiveSession,
        *,
        draw: Callable[[AvatarFrame], Pixels] | None = None,
    ) -> None:
        """Send the frames of `live`; `draw` may return one's pixels with something added."""
        super().__init__()
        self._live = live
        self._draw = draw
        self._is_fresh = asyncio.Event()
        self._event_loop = asyncio.get_running_loop()
        self._start_s = self._event_loop.time()
        self._sent_pts = -1
        live.on_frame = self._wake

    async def recv(self) -> av.VideoFrame:
        """Return the next frame; raises MediaStreamError once the track is stopped."""
        if self._sent_pts >= 0:
            try:
                async with asyncio.timeout(self._patience_s()):
                    await self._is_fresh.wait()
            except TimeoutError:
                pass
        if self.readyState != "live":
            raise MediaStreamError
        self._is_fresh.clear()
        now_s = self._event_loop.time()
        # The encoder writes into its frames: each send needs one of its own.
        shown = self._live.pull(now_s)
        pixels = shown.pixels if self._draw is None else self._draw(shown)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = max(round((now_s - self._start_s) * _CLOCK_RATE), self._sent_pts + 1)
        frame.time_base = _TIME_BASE
        self._sent_pts = frame.pts
        return frame

    def _patience_s(self) -> float:
        # Of a chunk the first frame is announced, the others are due one after the other.
        now_s, due_s = self._event_loop.time(), self._live.due_s
        fps = _REST_FPS if self._live.is_at_rest(now_s) else self._live.rung.fps
        return 1.5 / fps if due_s is None else min(1.5 / fps, due_s - now_s)

    def stop(self) -> None:
        """End the track; the session goes on without it."""
        super().stop()
        self._is_fresh.set()

    def _wake(self) -> None:
        # Called by the backend's thread, also while the loop shuts down.
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(self._is_fresh.set)
