"""A call over a WebSocket, against the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import server.socket
from mimaface.types import Pixels
from mimaface.video import VideoReader
from server.config import ServerConfig
from server.rtc_encoders import START_BPS
from server.socket import HEADER, MAX_CREDIT, next_bps
from tests.serving import serving
from tests.test_jpeg import as_jpeg, black


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ServerConfig(max_sessions=2, size_px=256, steps=0, admission_fps=0)) as url:
        yield url


@pytest.fixture
def session(url: str, portrait: Path) -> Iterator[str]:
    """The URL of a session that is deleted afterwards."""
    created = httpx.post(f"{url}/v1/sessions", json={"source": portrait.stem}, timeout=60)
    session = url + created.json()["url"]
    yield session
    httpx.delete(session, timeout=60)


@pytest.fixture(scope="module")
def webcam(driving_clip: Path) -> list[bytes]:
    """The pictures of a driver, as JPEG."""
    with VideoReader(driving_clip) as video:
        return [as_jpeg(rgb) for _, rgb in video]


class Page:
    """What the page does: it sends pictures as far as it may, and asks for frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.credit = 0
        self.frames: list[bytes] = []

    async def say(self, **message: object) -> None:
        await self.socket.send(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        """Return the next text message; frames that come before it are kept."""
        while isinstance(received := await self.socket.recv(), bytes):
            self.frames.append(received)
        message: dict[str, Any] = json.loads(received)
        if message["type"] == "credit":
            self.credit += message["n"]
        elif message["type"] == "ping":
            await self.say(type="pong", t=message["t"])
        return message

    async def message(self, kind: str) -> dict[str, Any]:
        while (message := await self.next())["type"] != kind:
            pass
        return message

    async def state(self, expected: str) -> None:
        while (await self.message("state"))["state"] != expected:
            pass

    async def film(self, pictures: list[bytes]) -> None:
        for picture in pictures:
            while not self.credit:
                await self.next()
            self.credit -= 1
            await self.socket.send(picture)
            await self.say(type="credit", n=1)

    async def frame(self) -> bytes:
        """Return the next frame; text messages that come before it are left out."""
        while not isinstance(received := await self.socket.recv(), bytes):
            pass
        return received


@asynccontextmanager
async def connected(session: str) -> AsyncIterator[Page]:
    address = session.replace("http:", "ws:") + "/socket"
    async with connect(address, compression=None, max_size=None) as socket:
        yield Page(socket)


def play(session: str, script: Callable[[Page], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), connected(session) as page:
            await script(page)

    asyncio.run(main())


def decode(frames: list[bytes]) -> list[Pixels]:
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(frame[HEADER.size :]) for frame in frames]
    pictures = [picture for packet in [*packets, None] for picture in decoder.decode(packet)]
    return [picture.to_ndarray(format="rgb24") for picture in pictures]


def is_keyframe(frame: bytes) -> bool:
    return bool(HEADER.unpack_from(frame)[0])


def test_the_webcams_pictures_go_up_and_the_avatar_comes_down(
    session: str, webcam: list[bytes]
) -> None:
    async def script(page: Page) -> None:
        while len(page.frames) < 20:
            await page.film(webcam)
        stats = await page.message("stats")
        assert stats["driving_fps"] > 0
        assert stats["failed"] == 0

        pictures = decode(page.frames)
        assert len(pictures) == len(page.frames)
        assert {picture.shape for picture in pictures} == {(256, 256, 3)}
        movement = np.abs(np.diff(np.stack(pictures).astype(int), axis=0)).mean((1, 2, 3))
        assert movement.max() > 1

    play(session, script)


def test_the_first_frame_is_the_only_keyframe_until_one_is_asked_for(session: str) -> None:
    async def script(page: Page) -> None:
        await page.say(type="credit", n=3)
        frames = [await page.frame() for _ in range(3)]
        assert [is_keyframe(frame) for frame in frames] == [True, False, False]
        times = [HEADER.unpack_from(frame)[1] for frame in frames]
        assert times == sorted(set(times))

        await page.say(type="keyframe")
        await page.say(type="credit", n=2)
        frames += [await page.frame() for _ in range(2)]
        assert [is_keyframe(frame) for frame in frames[3:]] == [True, False]
        assert decode(frames[3:])[0].shape == (256, 256, 3)

    play(session, script)


def test_a_page_without_credit_gets_no_frame_and_then_the_newest(session: str) -> None:
    async def script(page: Page) -> None:
        await page.say(type="credit", n=1)
        first_us = HEADER.unpack_from(await page.frame())[1]
        for _ in range(2):
            await page.message("stats")  # they come once a second
        assert not page.frames

        await page.say(type="credit", n=1)
        second_us = HEADER.unpack_from(await page.frame())[1]
        assert second_us - first_us > 1e6
        await page.message("stats")
        assert not page.frames

    play(session, script)


def test_each_picture_that_arrives_gives_credit_for_another(
    session: str, webcam: list[bytes]
) -> None:
    async def script(page: Page) -> None:
        for _ in range(2):
            await page.message("stats")
        assert 2 <= page.credit <= MAX_CREDIT
        for picture in webcam[: page.credit]:
            page.credit -= 1
            await page.socket.send(picture)
        assert page.credit == 0
        for _ in range(2):
            await page.message("stats")
        assert 2 <= page.credit <= MAX_CREDIT

    play(session, script)


def test_a_flood_of_pictures_breaks_nothing(session: str, webcam: list[bytes]) -> None:
    async def script(page: Page) -> None:
        for picture in 5 * webcam:
            await page.socket.send(picture)
        await page.say(type="ping", t=1)
        await page.message("pong")
        assert page.credit <= 5 * len(webcam) + MAX_CREDIT

    play(session, script)


def test_a_page_that_asks_for_more_than_it_reads_gets_a_few_frames(session: str) -> None:
    async def script(page: Page) -> None:
        for _ in range(3):
            await page.say(type="credit", n=1_000_000)
        for _ in range(4):
            await page.message("stats")
        # The avatar moves on meanwhile; some may have been sent before more was asked for.
        assert MAX_CREDIT <= len(page.frames) <= 3 * MAX_CREDIT

    play(session, script)


def test_a_silent_page_is_hung_up_on(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.socket, "_SILENT_S", 0.5)

    async def script(page: Page) -> None:
        await page.socket.wait_closed()

    play(session, script)


def test_the_round_trip_is_known_from_the_pings(session: str) -> None:
    async def script(page: Page) -> None:
        while (await page.message("stats"))["rtt_ms"] is None:
            pass

    play(session, script)


def test_messages_nobody_understands_are_answered_and_break_nothing(session: str) -> None:
    messages = [
        "hello",
        "[" * 4000,
        "x" * 5000,
        '{"type": "credit", "n": -1}',
        '{"type": "credit", "n": "many"}',
        '{"type": "pong", "t": null}',
        '{"type": "dance"}',
    ]

    async def script(page: Page) -> None:
        for message in messages:
            await page.socket.send(message)
            assert (await page.message("error"))["error"], message
        await page.say(type="ping", t=1)
        await page.message("pong")

    play(session, script)


def test_spoilt_pictures_are_counted_told_of_once_and_break_nothing(
    session: str, webcam: list[bytes]
) -> None:
    async def script(page: Page) -> None:
        errors = []
        for spoilt in (b"", b"not a picture", webcam[0][:400], as_jpeg(black(1288, 720))):
            while not page.credit:
                await page.next()
            page.credit -= 1
            await page.socket.send(spoilt)
            failed = -1
            while failed < 1:
                message = await page.next()
                errors += [message["error"]] if message["type"] == "error" else []
                failed = message.get("failed", -1)
        assert len(errors) == 1
        assert "JPEG" in errors[0]
        await page.film(webcam[:3])
        await page.say(type="ping", t=1)
        await page.message("pong")

    play(session, script)


def test_a_message_that_is_too_large_ends_the_connection(session: str) -> None:
    async def script(page: Page) -> None:
        await page.socket.send(bytes(256 * 1024 + 1))
        with pytest.raises(ConnectionClosed):
            await page.message("never")
        async with connected(session) as again:
            await again.message("stats")

    play(session, script)


def test_another_sites_page_is_refused(session: str) -> None:
    async def main() -> None:
        address = session.replace("http:", "ws:") + "/socket"
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, origin="https://elsewhere.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403

    asyncio.run(main())


def test_nobody_compresses(session: str) -> None:
    async def main() -> None:
        async with connect(session.replace("http:", "ws:") + "/socket") as socket:
            assert not socket.protocol.extensions

    asyncio.run(main())


def test_an_unknown_session_is_told_to_be_gone(url: str) -> None:
    async def script(page: Page) -> None:
        with pytest.raises(ConnectionClosed) as closed:
            await page.message("never")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            4404,
            "This session has ended. Start a new one.",
        )

    play(f"{url}/v1/sessions/nobody", script)


def test_a_second_connection_of_the_same_call_replaces_the_first(
    session: str, webcam: list[bytes]
) -> None:
    async def script(first: Page) -> None:
        await first.film(webcam[:5])
        async with connected(session) as second:
            with pytest.raises(ConnectionClosed):
                await first.message("never")
            await second.film(webcam[5:10])
            await second.message("stats")

    play(session, script)


def test_a_peer_connection_of_the_same_call_replaces_the_socket(session: str) -> None:
    async def offer() -> str:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver("video")
        await peer.setLocalDescription(await peer.createOffer())
        await peer.close()
        return str(peer.localDescription.sdp)

    async def script(page: Page) -> None:
        await page.message("stats")
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(
                f"{session}/rtc",
                content=await offer(),
                headers={"Content-Type": "application/sdp"},
            )
        assert answer.status_code == 201
        with pytest.raises(ConnectionClosed):
            await page.message("never")

    play(session, script)


def test_the_call_ends_with_its_session(session: str) -> None:
    async def script(page: Page) -> None:
        await page.message("stats")
        async with httpx.AsyncClient() as client:
            assert (await client.delete(session)).status_code == 204
        with pytest.raises(ConnectionClosed):
            await page.message("never")

    play(session, script)


def test_the_call_waits_for_a_driver_who_has_left(session: str) -> None:
    async def script(_: Page) -> None:
        pass

    play(session, script)
    play(session, script)


def test_the_bitrate_follows_what_gets_through() -> None:
    assert next_bps(START_BPS, starved=0.0) == START_BPS
    falling = next_bps(START_BPS, starved=0.5)
    assert falling < next_bps(falling, starved=0.1) < START_BPS
