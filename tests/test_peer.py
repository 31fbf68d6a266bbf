"""One peer connection, with aiortc on both ends."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
    rtcpeerconnection,
)
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcicetransport import RTCIceTransport

from server.broadcast import Broadcast
from server.control import MAX_MESSAGES_PER_S, Control, DataChannel
from server.peer import Peer
from server.registry import Call, Source, Sources
from server.rtc_patches import REPLACEMENTS, apply_patches
from server.signaling import OfferError
from server.tracks import AvatarTrack
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from tests.fakes import Extractor, nothing_ahead, one_rung, paint, portrait


class Scene:
    """A server's side with a fake model, and a browser's side to talk to it."""

    def __init__(self, *, connect_timeout_s: float, silence_s: float) -> None:
        self.clock = asyncio.get_running_loop().time
        self.backend = LocalBackend(paint, clock=self.clock)
        self.live = LiveSession(
            "test",
            portrait(10),
            extractor=Extractor,
            draw=nothing_ahead,
            backend=self.backend,
            clock=self.clock,
            new_frames=1,
            ladder=one_rung(),
        )
        self.sources = Sources(max_uploads=2, upload_ttl_s=60)
        for name, shade in (("ada", 10), ("bea", 90)):
            self.sources.add_portrait(
                Source(id=name, name=name, jpeg=b"", appearance=portrait(shade), is_private=False)
            )
        ada = self.sources.get("ada")
        assert ada is not None
        broadcast = Broadcast(self.live)
        self.call = Call(
            id="c",
            public_id="p",
            source=ada,
            live=self.live,
            broadcast=broadcast,
            expires_s=0.0,
            ttl_s=30.0,
        )
        self.closed = asyncio.Event()
        self.peer = self.call.peer = Peer(
            self.live,
            AvatarTrack(broadcast),
            connect_timeout_s=connect_timeout_s,
            silence_s=silence_s,
            on_channel=self.control,
            on_close=lambda _peer: self.closed.set(),
        )
        self.browser = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.avatar: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        self.browser.on("track", self.avatar.set_result)
        self.browser.addTransceiver(VideoStreamTrack(), direction="sendrecv")
        self.channel = self.browser.createDataChannel("ctrl")
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.channel.on("message", lambda text: self.messages.put_nowait(json.loads(text)))

    async def control(self, channel: RTCDataChannel) -> None:
        control = Control(DataChannel(channel), self.call, sources=self.sources)
        channel.on("message", control.receive)
        await control.run()

    async def offer(self) -> str:
        await self.browser.setLocalDescription(await self.browser.createOffer())
        return self.browser.localDescription.sdp

    async def connect(self) -> None:
        answer = await self.peer.answer(await self.offer())
        await self.browser.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def shade(self) -> int:
        frame = await (await self.avatar).recv()
        return int(frame.to_ndarray(format="rgb24")[32, 32, 0])  # type: ignore[union-attr]

    async def until_shade(self, expected: int) -> None:
        while abs(await self.shade() - expected) > 4:  # the codec rounds
            pass

    async def message(self, kind: str) -> dict[str, Any]:
        while (message := await self.messages.get())["type"] != kind:
            pass
        return message

    async def say(self, message: object) -> None:
        await self.message("state")  # the channel is open
        self.send(message)

    def send(self, message: object) -> None:
        self.channel.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def close(self) -> None:
        await self.peer.close()
        await self.browser.close()
        self.live.close()
        self.backend.close()


def play(
    script: Callable[[Scene], Awaitable[None]],
    *,
    connect_timeout_s: float = 30.0,
    silence_s: float = 60.0,
) -> None:
    async def main() -> None:
        scene = Scene(connect_timeout_s=connect_timeout_s, silence_s=silence_s)
        try:
            async with asyncio.timeout(60):
                await script(scene)
        finally:
            await scene.close()

    asyncio.run(main())


def test_the_webcam_drives_and_the_avatar_comes_back() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)

    play(script)


def test_the_page_is_told_the_state_and_the_figures() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        while (await scene.message("state"))["state"] != "live":
            pass
        stats = await scene.message("stats")
        assert (stats["rung"], stats["steps"], stats["most_fps"]) == (0, 0, 30)
        assert stats["portrait"] == "ada"
        assert stats["driving_fps"] > 0
        assert stats["fps"] > 0
        for stage in ("wait", "motion", "queue", "render", "playout", "server"):
            assert 0 <= stats[f"{stage}_ms"]["p50"] <= stats[f"{stage}_ms"]["p95"]
        assert stats["dropped"] >= 0

    play(script)


def test_the_page_changes_the_portrait() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        await scene.say({"type": "source", "source": "bea"})
        await scene.until_shade(91)
        while (await scene.message("stats"))["portrait"] != "bea":
            pass

    play(script)


def test_the_page_pauses_and_goes_on() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.say({"type": "pause", "paused": True})
        while (await scene.message("state"))["state"] != "paused":
            pass
        scene.channel.send(json.dumps({"type": "pause", "paused": False}))
        while (await scene.message("state"))["state"] not in ("calibrating", "live"):
            pass

    play(script)


def test_the_page_asks_for_a_new_calibration() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        while (await scene.message("state"))["state"] != "live":
            pass
        scene.channel.send(json.dumps({"type": "recalibrate"}))
        while (await scene.message("state"))["state"] != "calibrating":
            pass

    play(script)


def test_a_ping_is_answered() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.say({"type": "ping", "t": 12.5})
        assert await scene.message("pong") == {"type": "pong", "t": 12.5}

    play(script)


def test_messages_nobody_understands_are_answered_and_break_nothing() -> None:
    messages: list[tuple[object, str]] = [
        ("hello", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("x" * 5000, "at most 4096 characters"),
        (b"\0\1", "at most 4096 characters"),
        ([1, 2], "a JSON object"),
        ({"type": "dance"}, "not known"),
        ({"type": "pause", "paused": "yes"}, "not known"),
        ({"type": "source", "source": "nobody"}, "no such portrait"),
    ]

    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.message("state")  # the channel is open
        for message, reason in messages:
            scene.send(message)
            assert reason in (await scene.message("error"))["error"], message
        scene.send({"type": "ping", "t": 1})
        await scene.message("pong")

    play(script)


def test_a_flood_of_messages_is_not_answered() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.message("stats")
        for _ in range(10 * MAX_MESSAGES_PER_S):
            scene.channel.send("nonsense")
        await scene.message("stats")
        while not scene.messages.empty():
            scene.messages.get_nowait()
        await scene.message("stats")  # a second later pings are answered again
        scene.channel.send(json.dumps({"type": "ping", "t": 1}))
        await scene.message("pong")

    play(script)


def test_a_connection_that_never_comes_up_is_closed() -> None:
    async def script(scene: Scene) -> None:
        await scene.peer.answer(await scene.offer())  # and the answer never arrives
        await scene.closed.wait()

    play(script, connect_timeout_s=0.2)


def test_an_avatar_that_is_not_coded_any_more_ends_the_connection() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        scene.peer._sender.track.stop()  # type: ignore[union-attr]
        await scene.closed.wait()

    play(script, silence_s=5.0)


def test_a_connection_has_one_channel_for_control() -> None:
    async def script(scene: Scene) -> None:
        closed = [asyncio.Event() for _ in range(3)]
        for event, label in zip(closed, ("ctrl", "ctrl", "chat"), strict=True):
            scene.browser.createDataChannel(label).on("close", event.set)
        await scene.connect()
        await scene.say({"type": "ping", "t": 5})
        assert (await scene.message("pong"))["t"] == 5
        await asyncio.gather(*(event.wait() for event in closed))
        assert scene.channel.readyState == "open"

    play(script)


def test_the_server_notices_when_the_other_side_leaves() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        await scene.browser.close()
        await scene.closed.wait()

    play(script)


def test_the_server_notices_when_nothing_comes_from_the_other_side_any_more() -> None:
    async def swallow(_data: bytes) -> None:
        pass

    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        # It still answers the checks of ICE, by which alone aiortc looks whether it is there.
        scene.browser.getSenders()[0].transport.transport._send = swallow
        await scene.closed.wait()

    play(script, silence_s=1.0)


def test_a_camera_that_sends_nothing_is_no_silence() -> None:
    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        scene.browser.getSenders()[0].replaceTrack(None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scene.closed.wait(), 5.0)

    play(script, silence_s=3.0)


def test_closing_leaves_no_thread_of_the_connection() -> None:
    async def script(scene: Scene) -> None:
        before = {thread.ident for thread in threading.enumerate()}
        await scene.connect()
        await scene.until_shade(11)
        await scene.peer.close()
        await scene.browser.close()
        left = {t.name for t in threading.enumerate() if t.ident not in before}
        assert not {name for name in left if not name.startswith("asyncio")}

    play(script)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _sdp: "nonsense",
        lambda sdp: sdp.replace("VP8", "VP9").replace("H264", "H265"),
        lambda sdp: sdp.replace("a=rtcp-mux\r\n", ""),
        lambda sdp: sdp.replace("m=video ", "m=video nine"),
        lambda sdp: sdp[: len(sdp) // 2],
        lambda sdp: sdp.replace("a=setup:actpass", "a=setup:sideways"),
    ],
)
def test_an_unusable_offer_is_refused(spoil: Callable[[str], str]) -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(OfferError):
            await scene.peer.answer(spoil(await scene.offer()))

    play(script)


def test_the_answer_multiplexes_rtcp_in_every_media_section() -> None:
    async def script(scene: Scene) -> None:
        answer = await scene.peer.answer(await scene.offer())
        sections = answer.split("m=")[1:]
        assert ["a=rtcp-mux-only\r\n" in part for part in sections] == [
            part.startswith(("audio", "video")) for part in sections
        ]

    play(script)


def test_the_avatar_starts_at_a_bitrate_that_shows_a_face(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module, name, _ in REPLACEMENTS:  # aiortc has its own back after the test
        monkeypatch.setattr(module, name, getattr(module, name))
    assert apply_patches()
    # Its browser's side, which is patched here too, would wait as well to be contacted first.
    monkeypatch.setattr(rtcpeerconnection, "RTCIceTransport", RTCIceTransport)

    async def script(scene: Scene) -> None:
        await scene.connect()
        await scene.until_shade(11)
        [encoder] = scene.call.broadcast.encoders.values()
        assert encoder.target_bitrate >= 1_000_000

    play(script)
