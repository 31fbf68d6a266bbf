"""What outputs are fed in the tests, and a driver who brings a served call on air."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)

from mimaface.types import Pixels
from mimaface.video import VideoReader
from server.program import Picture, Piece
from server.tracks import PIECE, RATE, SoundTrack

PORTRAIT = np.full((96, 96, 3), (40, 90, 160), np.uint8)


def picture(time_s: float, shade: int, call: str | None = "abcdef", size_px: int = 96) -> Picture:
    pixels = np.full((size_px, size_px, 3), shade, np.uint8)
    return Picture(time_s=time_s, pixels=pixels, portrait=PORTRAIT, call=call)


def tone(time_s: float, loudness: float = 0.3) -> Piece:
    times_s = time_s + np.arange(PIECE) / RATE
    wave = loudness * 32767 * np.sin(2 * np.pi * 440 * times_s)
    return Piece(time_s=time_s, samples=wave.astype(np.int16))


class Film(VideoStreamTrack):
    """A webcam that shows a clip over and over."""

    def __init__(self, clip: Path) -> None:
        super().__init__()
        with VideoReader(clip) as video:
            self._frames: list[Pixels] = [rgb for _, rgb in video]
        self._sent = 0

    async def recv(self) -> av.VideoFrame:
        pts, time_base = await self.next_timestamp()
        rgb = self._frames[self._sent % len(self._frames)]
        self._sent += 1
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


@asynccontextmanager
async def driven(url: str, portrait: Path, clip: Path) -> AsyncIterator[dict[str, Any]]:
    """Start a call, drive it with a looping clip and a tone, and end it with the block."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        session = (await client.post("/v1/sessions", json={"source": portrait.stem})).json()
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.addTransceiver(Film(clip), direction="sendonly")
        connection.addTransceiver(
            SoundTrack(lambda now_s: tone(now_s).samples), direction="sendonly"
        )
        try:
            await connection.setLocalDescription(await connection.createOffer())
            answered = await client.post(
                session["whip_url"],
                content=connection.localDescription.sdp,
                headers={
                    "Authorization": f"Bearer {session['tokens']['publish']}",
                    "Content-Type": "application/sdp",
                },
            )
            assert answered.status_code == 201, answered.text
            await connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))
            yield session
        finally:
            await connection.close()
            await client.delete(session["url"])
