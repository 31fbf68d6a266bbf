"""What the page and the server tell each other during a call: small JSON messages both ways."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any, Final, Protocol

from aiortc import RTCDataChannel

from server.registry import Call, Sources

MAX_MESSAGE_CHARS: Final = 4096
MAX_MESSAGES_PER_S: Final = 20
_MAX_BUFFERED_BYTES: Final = 64 * 1024  # beyond it the other side does not read: say nothing more
_TICK_S: Final = 0.1
_TICKS_PER_STATS: Final = 10


class MessageError(ValueError):
    """A message that asks for nothing the server knows."""


class Channel(Protocol):
    """What the messages go over: a peer connection's data channel, or a WebSocket."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""

    def send(self, text: str) -> None:
        """Send a message, or leave it out when the other side does not read."""


class DataChannel:
    """The `ctrl` data channel of a peer connection."""

    def __init__(self, channel: RTCDataChannel) -> None:
        self._channel = channel

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return bool(self._channel.readyState == "open")

    def send(self, text: str) -> None:
        """Send a message, or leave it out when the other side does not read."""
        if self.is_open and self._channel.bufferedAmount < _MAX_BUFFERED_BYTES:
            self._channel.send(text)


class Control:
    """Carries out what the page asks for and tells it how the call goes."""

    def __init__(self, channel: Channel, call: Call, *, sources: Sources) -> None:
        self._channel = channel
        self._call = call
        self._sources = sources
        self._allowance = MAX_MESSAGES_PER_S

    async def run(self) -> None:
        """Report changes of state as they come, and the statistics once a second.

        The other side is told once when the server is about to restart.
        """
        loop = asyncio.get_running_loop()
        told: dict[str, Any] = {}
        tick, is_warned = 0, False
        while self._channel.is_open:
            now_s = loop.time()
            live = self._call.live
            state = {"state": live.state(now_s), "calibration": round(live.calibration, 2)}
            if state != told:
                self._send({"type": "state"} | state)
                told = state
            if self._call.drain.is_on and not is_warned:
                left_s = self._call.drain.left_s(now_s)
                self._send({"type": "restarting", "within_s": round(left_s, 1)})
                is_warned = True
            if tick % _TICKS_PER_STATS == 0:
                self._allowance = MAX_MESSAGES_PER_S
                stats = await describe(self._call, now_s)
                self._send({"type": "stats"} | stats)
            tick += 1
            await asyncio.sleep(_TICK_S)

    def receive(self, text: str | bytes) -> None:
        """Carry out a message of the other side; one too many in a second is passed over."""
        self._allowance -= 1
        if self._allowance < 0:
            return
        try:
            reply = self._carry_out(parse(text))
        except MessageError as error:
            reply = {"type": "error", "error": str(error)}
        if reply is not None:
            self._send(reply)

    def _carry_out(self, message: dict[str, Any]) -> dict[str, Any] | None:
        live = self._call.live
        match message:
            case {"type": "recalibrate"}:
                live.recalibrate()
            case {"type": "pause", "paused": bool(is_paused)}:
                live.pause(is_paused)
            case {"type": "source", "source": str(source_id)}:
                own = self._call.source
                source = own if source_id == own.id else self._sources.get(source_id)
                if source is None:
                    raise MessageError("There is no such portrait any more. Choose another one.")
                self._call.source = source
                live.change_source(source.appearance)
            case {"type": "ping", "t": int() | float() as t}:
                return {"type": "pong", "t": t}
            case _:
                raise MessageError("This message is not known.")
        return None

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.send(json.dumps(message))


def parse(text: str | bytes) -> dict[str, Any]:
    """Return a message.

    Raises:
        MessageError: it is not one.
    """
    if not isinstance(text, str) or len(text) > MAX_MESSAGE_CHARS:
        raise MessageError(f"A message is JSON text of at most {MAX_MESSAGE_CHARS} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError("This message is not JSON.") from error
    if not isinstance(message, dict):
        raise MessageError("A message is a JSON object.")
    return message


async def describe(call: Call, now_s: float) -> dict[str, Any]:
    """Return the figures of a call as JSON values."""
    rtt_s = None if call.peer is None else await call.peer.rtt_s()
    return asdict(call.live.stats(now_s)) | {
        "rtt_ms": None if rtt_s is None else round(1000 * rtt_s, 1),
        "portrait": call.source.id,
        "viewers": len(call.viewers),
    }
