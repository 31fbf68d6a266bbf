"""The media tracks of a call; the only place that knows pts, time base and video frames."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
from functools import partial
from typing import Final

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.reformatter import VideoReformatter

from mimaface.types import Pixels
from server.broadcast import Broadcast
from streaming.live import LiveSession
from streaming.types import DrivingFrame

_CLOCK_RATE: Final = 90_000  # of RTP video
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


async def drain(track: MediaStreamTrack) -> None:
    """Read a track nobody listens to until it ends: its queue has no bound."""
    with contextlib.suppress(MediaStreamError):
        while True:
            await track.recv()


class AvatarTrack(MediaStreamTrack):
    """Sends a session's avatar to one viewer: each new frame at once, the last one when none comes.

    Attributes:
        missed: frames that were replaced by newer ones while this viewer's were being sent.
    """

    kind = "video"

    def __init__(self, broadcast: Broadcast) -> None:
        """Send the frames of `broadcast` from the newest one on."""
        super().__init__()
        self.missed = 0
        self._broadcast = broadcast
        self._is_fresh = broadcast.join()
        self._number = 0
        self._event_loop = asyncio.get_running_loop()
        self._start_s = self._event_loop.time()
        self._sent_pts = -1

    async def recv(self) -> av.VideoFrame:
        """Return the next frame; raises MediaStreamError once the track is stopped."""
        if self._sent_pts >= 0:
            try:
                async with asyncio.timeout(self._broadcast.patience_s()):
                    await self._is_fresh.wait()
            except TimeoutError:
                pass
        if self.readyState != "live":
            raise MediaStreamError
        number, shown = self._broadcast.frame_after(self._number)
        self._is_fresh.clear()
        if self._number:
            self.missed += number - self._number - 1
        self._number = number
        # The encoder writes into its frames: each send needs one of its own.
        frame = av.VideoFrame.from_ndarray(shown.pixels, format="rgb24")
        now_s = self._event_loop.time()
        frame.pts = max(round((now_s - self._start_s) * _CLOCK_RATE), self._sent_pts + 1)
        frame.time_base = _TIME_BASE
        self._sent_pts = frame.pts
        return frame

    def stop(self) -> None:
        """End the track; the session and its other viewers go on without it."""
        super().stop()
        self._is_fresh.set()
