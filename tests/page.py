"""The page's side of a call, as far as a test without a browser needs it."""

from __future__ import annotations

import asyncio
import fractions
import json
from collections.abc import Awaitable, Callable
from typing import Any

import av
import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from mimaface.types import Pixels


class Webcam(MediaStreamTrack):
    """Plays the driver's pictures again and again."""

    kind = "video"

    def __init__(self, pictures: list[Pixels], fps: float = 30) -> None:
        super().__init__()
        self._fps = fps
        self._pictures = pictures
        self._count = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(1 / self._fps)
        picture = self._pictures[self._count % len(self._pictures)]
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = round(self._count * 90_000 / self._fps)
        frame.time_base = fractions.Fraction(1, 90_000)
        self._count += 1
        return frame


class Page:
    """What the browser does in a call."""

    def __init__(self, pictures: list[Pixels], fps: float = 30) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.avatar: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        self.is_closed = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connection.on("track", self.avatar.set_result)
        self.connection.on("connectionstatechange", self._follow)
        self.connection.addTransceiver(Webcam(pictures, fps), direction="sendrecv")
        channel = self.connection.createDataChannel("ctrl")
        channel.on("message", lambda text: self.messages.put_nowait(json.loads(text)))

    def _follow(self) -> None:
        if self.connection.connectionState in ("closed", "failed"):
            self.is_closed.set()

    async def call(self, client: httpx.AsyncClient, session: str) -> None:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        answered = await client.post(
            f"{session}/rtc",
            content=self.connection.localDescription.sdp,
            headers={"Content-Type": "application/sdp"},
        )
        assert answered.status_code == 201
        assert answered.headers["Content-Type"].startswith("application/sdp")
        await self.connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))

    async def frame(self) -> Pixels:
        frame = await (await self.avatar).recv()
        assert isinstance(frame, av.VideoFrame)
        return frame.to_ndarray(format="rgb24").astype(np.uint8)

    async def message(self, **wanted: str) -> dict[str, Any]:
        while True:
            message = await self.messages.get()
            if wanted.items() <= message.items():
                return message


def call(url: str, script: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=url, timeout=60) as client:
            await script(client)

    asyncio.run(main())
