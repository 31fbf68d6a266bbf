"""A call of which every frame is timed: sent with a number, and recognised by it on the avatar.

Needs a server with --latency-marker. The numbers have 16 bits: a call may last half an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import av
import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from mimaface.types import Pixels
from server.latency_marker import draw_counter, read_counter
from tests.faults.link import Link

FPS = 25
_STILL = 1.0  # levels; the codec alone changes less


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the driver saw of the avatar in a while.

    Attributes:
        share: of the driving frames sent meanwhile, those whose avatar frame came, then or later.
        freeze_s: the longest time without an avatar frame of another driving frame.
        p50_ms, p95_ms: age of a driving frame when its avatar frame came; nan if none did.
    """

    share: float
    freeze_s: float
    p50_ms: float
    p95_ms: float


class _Camera(MediaStreamTrack):
    """Shows what `call.show` returns, `FPS` times a second."""

    kind = "video"

    def __init__(self, call: WatchedCall) -> None:
        super().__init__()
        self._call = call
        self._start_s = time.monotonic()
        self._count = 0

    async def recv(self) -> av.VideoFrame:
        due_s = self._start_s + self._count / FPS
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        self._count += 1
        frame = av.VideoFrame.from_ndarray(self._call.next_picture(), format="rgb24")
        frame.pts = round((self._count / FPS + self._call.clock_offset_s) * 90_000)
        frame.time_base = fractions.Fraction(1, 90_000)
        return frame


class WatchedCall:
    """The page's side of a call, behind a link.

    Attributes:
        show: returns the camera's picture, uint8 [H, W, 3], of a number.
        is_numbered: whether the pictures get their numbers; without them nothing can be timed.
        clock_offset_s: by which the camera's clock is off.
        session: what the server answered when it was created.
        link: between here and the server.
        told: every message on `ctrl`, with its time.
        is_closed: set when the connection has ended.
    """

    link: Link

    def __init__(self, show: Callable[[int], Pixels]) -> None:
        self.show = show
        self.is_numbered = True
        self.clock_offset_s = 0.0
        self.session: dict[str, Any] = {}
        self.told: list[tuple[float, dict[str, Any]]] = []
        self.is_closed = asyncio.Event()
        self._sent_s: list[float] = []
        self._came: list[tuple[float, int]] = []  # when, and of which driving frame
        self._moved_s = 0.0
        self._shape: tuple[int, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("track", self._start_watching)
        self._connection.on("connectionstatechange", self._follow)
        self._connection.addTransceiver(_Camera(self), direction="sendrecv")
        self._channel = self._connection.createDataChannel("ctrl")
        self._channel.on("message", self._note)

    async def open(self, client: httpx.AsyncClient, session: dict[str, Any]) -> None:
        """Connect."""
        self.session = session
        await self._connection.setLocalDescription(await self._connection.createOffer())
        answered = await client.post(
            f"{session['url']}/rtc",
            content=self._connection.localDescription.sdp,
            headers={"Content-Type": "application/sdp"},
        )
        answered.raise_for_status()
        self.link = await Link.to_the_server_of(answered.text)
        answer = RTCSessionDescription(self.link.answer, "answer")
        await self._connection.setRemoteDescription(answer)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._connection.close()
        with contextlib.suppress(AttributeError):
            self.link.close()

    def next_picture(self) -> Pixels:
        number = len(self._sent_s)
        picture = self.show(number)
        self._sent_s.append(time.monotonic())
        return draw_counter(picture, number & 0xFFFF) if self.is_numbered else picture

    @property
    def sent(self) -> int:
        """How many driving frames were sent so far."""
        return len(self._sent_s)

    @property
    def came(self) -> int:
        """How many avatar frames of other driving frames came so far."""
        return len({number for _, number in self._came})

    def seen(self, start_s: float, end_s: float) -> Seen:
        """Return what was seen of the driving frames sent between two times."""
        sent = {n for n, sent_s in enumerate(self._sent_s) if start_s <= sent_s < end_s}
        first_s: dict[int, float] = {}
        for came_s, number in self._came:
            first_s.setdefault(number, came_s)
        ages_s = [first_s[n] - self._sent_s[n] for n in sent & first_s.keys()]
        new_s = sorted(came_s for came_s in first_s.values() if start_s <= came_s < end_s)
        gaps_s = itertools.pairwise([start_s, *new_s, end_s])
        p50, p95 = np.percentile(ages_s, (50, 95)) if ages_s else (np.nan, np.nan)
        return Seen(
            share=len(ages_s) / max(len(sent), 1),
            freeze_s=max(after - before for before, after in gaps_s),
            p50_ms=1000 * float(p50),
            p95_ms=1000 * float(p95),
        )

    def settled_s(self, since_s: float, *, base_ms: float) -> float:
        """Return how long after a time the latency was back, for half a second, at its base."""
        for start_s in np.arange(since_s, time.monotonic() - 0.5, 0.1):
            seen = self.seen(start_s, start_s + 0.5)
            if seen.share > 0.8 and seen.p50_ms <= base_ms + 40:  # a frame interval
                return float(start_s - since_s)
        return float("inf")

    def still_since_s(self) -> float:
        """Return when the avatar last moved, whatever its numbers say."""
        return self._moved_s

    def stats(self) -> dict[str, Any]:
        """Return the figures the server told last."""
        return next(m for _, m in reversed(self.told) if m["type"] == "stats")

    async def until(self, wanted: Callable[[], Any], *, within_s: float = 30.0) -> float:
        """Wait for something and return when it came; inf if it did not."""
        end_s = time.monotonic() + within_s
        while (now_s := time.monotonic()) < end_s:
            if wanted():
                return now_s
            await asyncio.sleep(0.02)
        return float("inf")

    def has_heard(self, kind: str) -> bool:
        """Return whether the server told something of a kind."""
        return any(message["type"] == kind for _, message in self.told)

    def state(self) -> str:
        """Return the state the server told last."""
        states = (m["state"] for _, m in reversed(self.told) if m["type"] == "state")
        return next(states, "")

    def _note(self, text: str) -> None:
        self.told.append((time.monotonic(), json.loads(text)))

    def _follow(self) -> None:
        if self._connection.connectionState in ("closed", "failed"):
            self.is_closed.set()

    def _start_watching(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.create_task(self._watch(track)))

    async def _watch(self, track: MediaStreamTrack) -> None:
        before = np.zeros((1, 1, 3), np.uint8)
        last: int | None = None
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.VideoFrame)
            came_s, rgb = time.monotonic(), frame.to_ndarray(format="rgb24").astype(np.uint8)
            number = read_counter(rgb)
            if number != last and number < len(self._sent_s):
                self._came.append((came_s, number))
                last = number
            face = rgb[rgb.shape[0] // 8 :: 4, ::4]
            if face.shape != before.shape or np.abs(face.astype(int) - before).mean() > _STILL:
                self._moved_s, before = came_s, face


@asynccontextmanager
async def watched(
    client: httpx.AsyncClient, source: str, show: Callable[[int], Pixels], *, ttl_s: float = 30.0
) -> AsyncIterator[WatchedCall]:
    """Place a call, wait until it is calibrated, and end it with the block."""
    created = await client.post("/v1/sessions", json={"source": source, "ttl_s": ttl_s})
    created.raise_for_status()
    call = WatchedCall(show)
    try:
        await call.open(client, created.json())
        assert await call.until(lambda: call.state() == "live") < float("inf"), "it came up"
        yield call
    finally:
        await call.close()
        with contextlib.suppress(httpx.TransportError):  # the server may have ended meanwhile
            await client.delete(created.json()["url"])
