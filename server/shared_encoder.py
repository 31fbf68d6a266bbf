"""One encoder for everybody who watches a session in the same form and codec.

It knows no connection: a viewer's track takes what is coded, asks for keyframes and tells which
bitrate its connection can take.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Collection
from typing import Final

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.stream import Stream

from server.rtc_encoders import LIVE_ENCODERS, MAX_BPS, START_BPS, to_packet
from server.tracks import AvatarTrack

logger = logging.getLogger(__name__)

KEYFRAME_INTERVAL_S: Final = 0.5  # between two that are asked for: no freeze takes longer
MOST_WAITING: Final = 4  # frames for one viewer; a connection that takes none loses them
_ENOUGH_BPS: Final = 23  # for each pixel: 1.5 Mbit/s for 256 of them squared
_MOST_FAILURES: Final = 2  # an encoder may break, a second one has another reason
_MEDIA_SHARE: Final = 0.85  # of what a connection can take: repetitions need room, too
_LEAST_SHARE: Final = 1 / 4  # of what is enough: who can take less does not hold up the others


class CodedTrack(MediaStreamTrack):
    """Sends one viewer what a shared encoder makes, from a keyframe on.

    Attributes:
        granted_bps: the bitrate its connection can take, None before it tells.
        is_new: whether no keyframe came yet.
        keyframe_s: when the last keyframe was taken, on the loop's clock.
        missed: frames that were left out since the first keyframe.
    """

    kind = "video"

    def __init__(self, encoder: SharedEncoder) -> None:
        """Join the viewers of `encoder`, until the track is stopped."""
        super().__init__()
        self.granted_bps: int | None = None
        self.is_new = True
        self.keyframe_s = -math.inf
        self.missed = 0
        self._encoder = encoder
        self._is_behind = True  # what comes cannot be decoded before the next keyframe
        self._queue: deque[av.Packet[Stream]] = deque()
        self._has_some = asyncio.Event()
        encoder.add(self)

    async def recv(self) -> av.Packet[Stream]:
        """Return the next coded frame; raises MediaStreamError once the track is stopped."""
        # Asked for only by who takes frames again: one who is stuck costs the others nothing.
        if self._is_behind and not self.is_new:
            self.ask_for_keyframe()
        await self._has_some.wait()
        if self.readyState != "live":
            raise MediaStreamError
        packet = self._queue.popleft()
        if not self._queue:
            self._has_some.clear()
        if packet.is_keyframe:
            self.keyframe_s = asyncio.get_running_loop().time()
        return packet

    def put(self, packet: av.Packet[Stream]) -> None:
        """Take a coded frame; when too many wait they are left out, up to the next keyframe."""
        if len(self._queue) == MOST_WAITING:
            self.missed += MOST_WAITING
            self._queue.clear()
            self._has_some.clear()
            self._is_behind = True
        if packet.is_keyframe:
            self.is_new = self._is_behind = False
        if not self._is_behind:
            self._queue.append(packet)
            self._has_some.set()
        elif not self.is_new:
            self.missed += 1

    def ask_for_keyframe(self) -> None:
        """Have a keyframe made soon."""
        self._encoder.ask_for_keyframe()

    def stop(self) -> None:
        """End the track; the other viewers go on without it."""
        super().stop()
        self._encoder.remove(self)
        self._has_some.set()


class SharedEncoder:
    """Codes each frame of a session once, while there is a viewer.

    Who joins has a keyframe at once; the keyframes that viewers ask for keep a distance.
    """

    def __init__(self, frames: AvatarTrack, codec: str) -> None:
        """Code the frames of a track that nobody else reads; `codec` is one of LIVE_ENCODERS."""
        self._frames = frames
        self._codec = codec
        self._encoder = LIVE_ENCODERS[codec]()
        self._viewers: set[CodedTrack] = set()
        self._is_keyframe_asked = False
        self._keyframe_s = -math.inf  # when there was one, on the track's clock
        self._event_loop = asyncio.get_running_loop()
        self._work = self._event_loop.create_task(self._run())

    @property
    def target_bitrate(self) -> int:
        """The bitrate in bit/s that all viewers are sent."""
        return self._encoder.target_bitrate

    def add(self, viewer: CodedTrack) -> None:
        """Take another viewer."""
        self._viewers.add(viewer)
        self._frames.repeat()

    def remove(self, viewer: CodedTrack) -> None:
        """Forget a viewer; with the last one the work ends, and others need another encoder."""
        self._viewers.discard(viewer)
        if not self._viewers and self._frames.readyState == "live":
            self._frames.stop()
            del self._frames.broadcast.encoders[self._codec, self._frames.form]

    def ask_for_keyframe(self) -> None:
        """Have a keyframe made, once the last one is old enough."""
        self._is_keyframe_asked = True

    async def _run(self) -> None:
        failures = 0  # in a row
        try:
            while failures < _MOST_FAILURES:
                try:
                    await self._code(await self._frames.recv())
                    failures = 0
                except MediaStreamError:  # the last viewer has left
                    return
                except Exception:
                    logger.exception("an encoder of %s failed", self._codec)
                    failures += 1
                    self._encoder = LIVE_ENCODERS[self._codec]()
        finally:
            for viewer in tuple(self._viewers):
                viewer.stop()

    async def _code(self, frame: av.VideoFrame) -> None:
        assert frame.time is not None, "the track gives each frame a time"
        time_s = frame.time
        granted = [
            round(_MEDIA_SHARE * viewer.granted_bps)
            for viewer in self._viewers
            if viewer.granted_bps is not None
        ]
        self._encoder.target_bitrate = shared_bps(granted, frame.width * frame.height)
        is_due = self._is_keyframe_asked and time_s - self._keyframe_s >= KEYFRAME_INTERVAL_S
        is_forced = is_due or any(viewer.is_new for viewer in self._viewers)
        if is_forced:
            self._is_keyframe_asked = False
        # The loop's default executor is there for encoders.
        packet = await self._event_loop.run_in_executor(
            None, to_packet, self._encoder, frame, is_forced
        )
        if packet.is_keyframe:
            self._keyframe_s = time_s
        self._frames.broadcast.on_coded(self._codec, packet.is_keyframe)
        for viewer in self._viewers:
            viewer.put(packet)


def join(frames: AvatarTrack, codec: str) -> CodedTrack:
    """Return a track of what `frames` shows, coded together with all who watch the same.

    `frames` itself is no longer to be read.
    """
    encoders, key = frames.broadcast.encoders, (codec, frames.form)
    if key not in encoders:
        encoders[key] = SharedEncoder(frames, codec)
    return CodedTrack(encoders[key])


def shared_bps(granted: Collection[int], pixels: int) -> int:
    """Return the bitrate for viewers who can take different ones, in bit/s.

    It is the slowest viewer's, though not below a quarter of what is enough for a picture of so
    many pixels, if anybody can take that; one viewer alone has what it can take. H.264 spends it on
    30 frames a second, so a rung with fewer takes less.
    """
    enough = max(START_BPS, min(_ENOUGH_BPS * pixels, MAX_BPS))
    if not granted:
        return START_BPS
    return min(enough, max(granted), max(min(granted), round(_LEAST_SHARE * enough)))
