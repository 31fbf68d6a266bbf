"""The media tracks of a call; the only place that knows pts, time base and video frames."""

from __future__ import annotations

import asyncio
import fractions
from collections.abc import Callable
from functools import partial
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.reformatter import VideoReformatter

from mimaface.types import Pixels
from server.alpha import WHOLE, Form
from server.broadcast import Broadcast
from streaming.live import LiveSession
from streaming.types import DrivingFrame

_CLOCK_RATE: Final = 90_000  # of RTP video
_TIME_BASE: Final = fractions.Fraction(1, _CLOCK_RATE)

RATE: Final = 48_000  # samples of sound in a second
PIECE: Final = RATE // 50  # samples that are sent together, 20 ms
_SOUND_BASE: Final = fractions.Fraction(1, RATE)
_GIVEN_UP_S: Final = 0.1  # a track that is so late does not hurry, it leaves sound out

Samples = npt.NDArray[np.int16]
"""Sound [N], mono, `RATE` samples a second."""


async def pump(
    track: MediaStreamTrack,
    live: LiveSession,
    *,
    note: Callable[[av.VideoFrame, float], None] = lambda _frame, _arrived_s: None,
) -> None:
    """Hand every frame of the webcam's track to the session until the track ends.

    The track's own queue has no bound, so it is always read; the session keeps the newest frame.
    `note` is told of each frame and its arrival.
    """
    loop = asyncio.get_running_loop()
    reformatter = VideoReformatter()  # a frame's own would start and end threads for each frame
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, av.VideoFrame), "only video tracks are pumped"
        arrived_s = loop.time()
        note(frame, arrived_s)
        live.feed(DrivingFrame(time_s=arrived_s, rgb=partial(_to_rgb, reformatter, frame)))


def _to_rgb(reformatter: VideoReformatter, frame: av.VideoFrame) -> Pixels:
    return reformatter.reformat(frame, format="rgb24").to_ndarray().astype(np.uint8, copy=False)


async def listen(
    track: MediaStreamTrack, hear: Callable[[Samples, int, av.AudioFrame, float], None]
) -> None:
    """Hand the microphone's track on until it ends, whatever it was coded with.

    `hear` takes samples, the position of the first one in the track, the frame that they came in
    and when it came.
    """
    loop = asyncio.get_running_loop()
    resampler, shape = av.AudioResampler("s16", "mono", RATE), None
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        arrived_s = loop.time()
        assert isinstance(frame, av.AudioFrame), "only sound is listened to"
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
            resampler = av.AudioResampler("s16", "mono", RATE)
        for piece in resampler.resample(frame):
            assert piece.pts is not None, "the frame had one"
            assert piece.time_base is not None, "the frame had one"
            position = round(piece.pts * piece.time_base * RATE)
            hear(piece.to_ndarray()[0], position, frame, arrived_s)


class AvatarTrack(MediaStreamTrack):
    """Sends a session's avatar to one viewer: each new frame at once, the last one when none comes.

    Attributes:
        broadcast: where the frames come from.
        form: what they are sent as.
        missed: frames that were replaced by newer ones while this viewer's were being sent.
    """

    kind = "video"

    def __init__(self, broadcast: Broadcast, form: Form = WHOLE) -> None:
        """Send the frames of `broadcast` from the newest one on, in one form."""
        super().__init__()
        self.broadcast = broadcast
        self.form = form
        self.missed = 0
        self._is_fresh = broadcast.join()
        self._number = 0
        self._event_loop = asyncio.get_running_loop()
        self._start_s = self._event_loop.time()
        self._sent_pts = -1

    async def recv(self) -> av.VideoFrame:
        """Return the next frame; raises MediaStreamError once the track is stopped."""
        if self._sent_pts >= 0:
            try:
                async with asyncio.timeout(self.broadcast.patience_s()):
                    await self._is_fresh.wait()
            except TimeoutError:
                pass
        if self.readyState != "live":
            raise MediaStreamError
        number, _ = self.broadcast.frame_after(self._number)
        self._is_fresh.clear()
        if self._number:
            self.missed += number - self._number - 1
        self._number = number
        # The encoder writes into its frames: each send needs one of its own.
        frame = av.VideoFrame.from_ndarray(self.broadcast.picture(self.form), format="rgb24")
        now_s = self._event_loop.time()
        frame.pts = max(round((now_s - self._start_s) * _CLOCK_RATE), self._sent_pts + 1)
        frame.time_base = _TIME_BASE
        self._sent_pts = frame.pts
        return frame

    def repeat(self) -> None:
        """Send the newest frame at once, even if it was sent before."""
        self._number = 0
        self._is_fresh.set()

    def stop(self) -> None:
        """End the track; the session and its other viewers go on without it."""
        super().stop()
        self._is_fresh.set()


class SoundTrack(MediaStreamTrack):
    """Sends sound to one listener, 20 ms at a time, by the loop's clock."""

    kind = "audio"

    def __init__(self, read: Callable[[float], Samples]) -> None:
        """Send what `read` returns for a time: the 20 ms that begin then."""
        super().__init__()
        self._read = read
        self._event_loop = asyncio.get_running_loop()
        self._start_s: float | None = None
        self._pts = 0

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due; raises MediaStreamError once stopped."""
        now_s = self._event_loop.time()
        if self._start_s is None:
            self._start_s = now_s
        due_s = self._start_s + self._pts / RATE
        if now_s - due_s > _GIVEN_UP_S:
            self._pts = round((now_s - self._start_s) * RATE)
            due_s = now_s
        await asyncio.sleep(due_s - now_s)
        if self.readyState != "live":
            raise MediaStreamError
        # The encoder writes into its frames: each send needs one of its own.
        frame = av.AudioFrame.from_ndarray(self._read(due_s)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts, frame.time_base = self._pts, _SOUND_BASE
        self._pts += PIECE
        return frame
