"""What the server holds: portraits, uploaded photos and calls.

All of it is bounded, uploads and calls expire; the event loop alone touches it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mimaface.types import Appearance
from server.broadcast import Broadcast
from server.drain import Drain
from server.legs import Leg
from server.sound import Sound
from streaming.live import LiveSession


@dataclass(frozen=True, kw_only=True)
class Source:
    """A portrait that can be driven.

    Attributes:
        id: its name in URLs; unguessable if it was uploaded.
        name: shown to people.
        jpeg: its picture, made from the decoded pixels alone.
        appearance: the encoded portrait.
        is_private: whether only who knows the id may find it.
    """

    id: str
    name: str
    jpeg: bytes = field(repr=False)
    appearance: Appearance = field(repr=False)
    is_private: bool

    @property
    def url(self) -> str:
        """Where its picture is served."""
        return f"/v1/{'sources' if self.is_private else 'portraits'}/{self.id}.jpg"


class Sources:
    """The built-in portraits, and the uploads until they expire or too many newer ones come."""

    def __init__(self, *, max_uploads: int, upload_ttl_s: float) -> None:
        self._max_uploads = max_uploads
        self._upload_ttl_s = upload_ttl_s
        self._portraits: dict[str, Source] = {}
        self._uploads: dict[str, tuple[float, Source]] = {}  # (expires_s, source), oldest first

    def add_portrait(self, source: Source) -> None:
        """Keep a built-in portrait for good."""
        self._portraits[source.id] = source

    def add_upload(self, source: Source, now_s: float) -> None:
        """Keep an upload for a while."""
        self._uploads[source.id] = now_s + self._upload_ttl_s, source
        if len(self._uploads) > self._max_uploads:
            del self._uploads[next(iter(self._uploads))]

    def portraits(self) -> list[Source]:
        """Return the built-in portraits."""
        return list(self._portraits.values())

    def get(self, source_id: str) -> Source | None:
        """Return a portrait or an upload that has not expired."""
        if source_id in self._portraits:
            return self._portraits[source_id]
        return self._uploads[source_id][1] if source_id in self._uploads else None

    def sweep(self, now_s: float, used: Iterable[Source] = ()) -> None:
        """Forget the uploads that have expired; those that calls use are as good as new."""
        for source in used:
            if self._uploads.pop(source.id, None) is not None:
                self.add_upload(source, now_s)
        for source_id, (expires_s, _) in list(self._uploads.items()):
            if expires_s <= now_s:
                del self._uploads[source_id]


class Connection(Protocol):
    """What a driver is connected by: a peer connection or a WebSocket."""

    async def rtt_s(self) -> float | None:
        """Return the round trip to the other side, None while it is unknown."""

    async def close(self) -> None:
        """End the connection and all its tasks."""


@dataclass(kw_only=True)
class Call:
    """One person driving one portrait; it outlives its peer connection for a while.

    Attributes:
        id: unguessable; who knows it may act on the call.
        source: the portrait driven now.
        live: the avatar.
        broadcast: hands the avatar to everybody who watches.
        sound: hands the driver's voice to everybody who listens.
        expires_s: when the call ends unless the driver is connected by then.
        address: of who started it.
        ends_s: when it ends whether or not the driver is connected.
        ttl_s: how long the call then waits for a driver who has left.
        public_id: its name towards viewers and in tokens; alone it opens nothing.
        peer: the driver's connection, if there is one.
        publisher: the same as a WHIP session, if it is one.
        viewers: the WHEP sessions by their ids.
        drain: tells whether the server is about to end, and the call with it.
        is_changing: held while the driver's connection is replaced or the call ends.
    """

    id: str
    source: Source
    live: LiveSession
    broadcast: Broadcast
    expires_s: float
    ttl_s: float
    address: str = ""
    ends_s: float = math.inf
    public_id: str
    peer: Connection | None = None
    publisher: Leg | None = None
    sound: Sound = field(default_factory=Sound)
    viewers: dict[str, Leg] = field(default_factory=dict)
    drain: Drain = field(default_factory=Drain)
    is_changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Calls:
    """The calls, up to the server's limit."""

    def __init__(self, *, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._calls: dict[str, Call] = {}

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._calls.values()))

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another call."""
        return len(self) >= self._max_sessions

    def add(self, call: Call) -> None:
        """Hold a call."""
        assert not self.is_full, "the caller has looked whether there is room"
        self._calls[call.id] = call

    def get(self, call_id: str) -> Call | None:
        """Return a call."""
        return self._calls.get(call_id)

    def named(self, public_id: str) -> Call | None:
        """Return the call with a public id."""
        return next((call for call in self if call.public_id == public_id), None)

    def remove(self, call: Call) -> bool:
        """Forget a call; return whether it was still held, and so is the caller's to close."""
        return self._calls.pop(call.id, None) is not None

    def expired(self, now_s: float) -> list[Call]:
        """Return the calls without a connection, or there at all, for too long, or broken."""
        return [
            call
            for call in self
            if call.ends_s <= now_s
            or (call.peer is None and call.expires_s <= now_s)
            or call.live.has_failed
        ]

    def count_of(self, address: str) -> int:
        """Return how many calls were started from an address."""
        return sum(call.address == address for call in self)
