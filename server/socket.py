"""A call over one WebSocket, for networks that let no UDP through.

Text messages are those of `ctrl` and, both ways, `{"type": "credit", "n": 2}`: so many more
pictures may be sent. Nobody sends a picture without credit, so nothing queues on the way, and what
is sent with it is the newest there is. `{"type": "keyframe"}` asks the server for one.

- Up, a binary message is one webcam picture, a baseline JPEG of at most 1280x720.
- Down, it is one avatar frame: `HEADER`, in network order (1 byte: whether it is a keyframe;
  8 bytes: its time in microseconds), then an H.264 access unit, Annex B, Baseline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from mimaface.types import Pixels
from server.control import Control, MessageError, parse
from server.jpeg import PictureError, open_picture
from server.registry import Call, Sources
from server.rtc_encoders import START_BPS, LiveH264Encoder
from server.tracks import AvatarTrack
from streaming.types import DrivingFrame

# For uvicorn. Its own queue holds what one read brought, and nothing more is read meanwhile.
SOCKET_OPTIONS: Final[dict[str, Any]] = {
    "ws": "websockets-sansio",
    "ws_max_size": 256 * 1024,
    "ws_per_message_deflate": False,  # a small message could unfold to a large one
}
HEADER: Final = struct.Struct("!?Q")
MAX_CREDIT: Final = 8
GONE: Final = 4404  # closes a socket whose call has ended; browsers do not show an HTTP status

_SILENT_S: Final = 10.0  # without a message, or with a send that does not get through: it is gone
_PROBE_S: Final = 1.0
_MAX_TEXTS: Final = 32  # that wait to be sent; beyond it the other side does not read
_FPS: Final = 30
_MOST_STARVED: Final = 0.2


class _Over(Exception):  # noqa: N818 # no error: it ends the tasks of a connection
    """The connection is to end."""


class SocketPeer:
    """Stands where a driver's peer connection does, until either side ends it."""

    def __init__(
        self,
        socket: WebSocket,
        call: Call,
        *,
        sources: Sources,
        on_close: Callable[[SocketPeer], None],
    ) -> None:
        """Prepare to carry `call` over an accepted `socket`."""
        self._socket = socket
        self._call = call
        self._control = Control(self, call, sources=sources)
        self._on_close = on_close
        self._event_loop = asyncio.get_running_loop()
        self._texts: asyncio.Queue[str] = asyncio.Queue(_MAX_TEXTS)
        self._is_closing = asyncio.Event()
        self._is_over = asyncio.Event()

        self._credit = 0  # avatar frames the other side waits for
        self._has_credit = asyncio.Event()
        self._granted = 0  # webcam pictures that may still come
        self._wants_keyframe = True
        self._has_refused = False

        self._pinged_s = 0.0
        self._rtt_s: float | None = None
        self._least_rtt_s = math.inf  # of the way itself: what queues on it makes others longer

    async def run(self) -> None:
        """Carry the call until it is closed from either side, or the other side is gone."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    self._listen(),
                    self._speak(),
                    self._show(),
                    self._probe(),
                    self._control.run(),
                    self._end_when_asked(),
                ):
                    group.create_task(work)
        except* (_Over, WebSocketDisconnect, TimeoutError):
            pass
        finally:
            self._on_close(self)
            self._is_over.set()
            # One that does not read gets no farewell; the connection below times out by itself.
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(1.0):
                    await self._socket.close()

    async def rtt_s(self) -> float | None:
        """Return the round trip to the other side, None while it is unknown."""
        return self._rtt_s

    async def close(self) -> None:
        """End the connection and all its tasks."""
        self._is_closing.set()
        await self._is_over.wait()

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return not self._is_closing.is_set()

    def send(self, text: str) -> None:
        """Send a message, or leave it out when the other side does not read."""
        with contextlib.suppress(asyncio.QueueFull):
            self._texts.put_nowait(text)

    async def _end_when_asked(self) -> None:
        await self._is_closing.wait()
        raise _Over

    async def _speak(self) -> None:
        while True:
            text = await self._texts.get()
            async with asyncio.timeout(_SILENT_S):
                await self._socket.send_text(text)

    async def _probe(self) -> None:
        while True:
            self._pinged_s = self._event_loop.time()
            self.send(json.dumps({"type": "ping", "t": round(1000 * self._pinged_s)}))
            self._grant()
            await asyncio.sleep(_PROBE_S)

    async def _listen(self) -> None:
        while True:
            async with asyncio.timeout(_SILENT_S):
                message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise _Over
            if (picture := message.get("bytes")) is not None:
                self._take_picture(picture)
            else:
                self._take_text(message["text"])

    def _take_text(self, text: str) -> None:
        message: dict[str, Any] = {}
        with contextlib.suppress(MessageError):  # which `control` tells of
            message = parse(text)
        match message:
            case {"type": "credit", "n": int(n)} if n > 0:
                self._credit = min(self._credit + n, MAX_CREDIT)
                self._has_credit.set()
            case {"type": "keyframe"}:
                self._wants_keyframe = True
            case {"type": "pong", "t": int(t)}:
                if t == round(1000 * self._pinged_s):
                    self._rtt_s = self._event_loop.time() - self._pinged_s
                    self._least_rtt_s = min(self._least_rtt_s, self._rtt_s)
            case _:
                self._control.receive(text)

    def _take_picture(self, jpeg: bytes) -> None:
        # One that comes without credit harms who sent it: what is not looked at is replaced.
        self._granted = max(self._granted - 1, 0)
        now_s = self._event_loop.time()
        self._call.live.feed(DrivingFrame(time_s=now_s, rgb=partial(self._open, jpeg)))
        self._grant()

    def _grant(self) -> None:
        # What is under way both ways while a picture a frame interval is sent, and one to spare.
        rtt_s = self._least_rtt_s if self._rtt_s is not None else 0.0
        more = min(2 + math.ceil(rtt_s * _FPS), MAX_CREDIT) - self._granted
        # Half of the room stays for answers; credit is never lost, it goes with the next probe.
        if more > 0 and self._texts.qsize() < _MAX_TEXTS // 2:
            self._granted += more
            self.send(json.dumps({"type": "credit", "n": more}))

    def _open(self, jpeg: bytes) -> Pixels:
        # Called by the motion thread, also while the loop shuts down.
        try:
            return open_picture(jpeg)
        except PictureError as error:
            if not self._event_loop.is_closed():
                self._event_loop.call_soon_threadsafe(self._refuse, str(error))
            raise

    def _refuse(self, reason: str) -> None:
        if not self._has_refused:  # a spoilt camera would say it thirty times a second
            self._has_refused = True
            self.send(json.dumps({"type": "error", "error": reason}))

    async def _show(self) -> None:
        encoder = LiveH264Encoder()
        track = AvatarTrack(self._call.broadcast)
        try:
            starved_s, since_s = 0.0, self._event_loop.time()
            while True:
                asked_s = self._event_loop.time()
                await self._has_credit.wait()
                starved_s += self._event_loop.time() - asked_s
                frame = await track.recv()
                self._credit -= 1
                if self._credit == 0:
                    self._has_credit.clear()
                is_wanted, self._wants_keyframe = self._wants_keyframe, False
                # The loop's default executor is there for encoders.
                unit, is_keyframe = await self._event_loop.run_in_executor(
                    None, encoder.access_unit, frame, is_wanted
                )
                self._call.broadcast.on_coded("H264", is_keyframe)
                assert frame.time is not None, "the track gives each frame a time"
                header = HEADER.pack(is_keyframe, round(1e6 * frame.time))
                async with asyncio.timeout(_SILENT_S):
                    await self._socket.send_bytes(header + unit)
                elapsed_s = self._event_loop.time() - since_s
                if elapsed_s >= 1:
                    encoder.target_bitrate = next_bps(
                        encoder.target_bitrate, starved=starved_s / elapsed_s
                    )
                    starved_s, since_s = 0.0, since_s + elapsed_s
        finally:
            track.stop()


def next_bps(bps: int, *, starved: float) -> int:
    """Return the bitrate for the coming second.

    Credit runs out when the frames under way take longer than the way does when it is free.

    Args:
        bps: bitrate of the last second.
        starved: share of it that passed without credit, 0 to 1.
    """
    if starved > _MOST_STARVED:
        return bps * 3 // 4  # the encoder has a lowest one
    return min(bps * 9 // 8, START_BPS)
