"""Viewers of one session who share an encoder, on wires and over real connections."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import av
import httpx
import pytest
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.codecs import depayload
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtcpParameters, RTCRtpSendParameters
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtpPacket,
    is_rtcp,
    pack_remb_fci,
)

from server.alpha import WHOLE, Form
from server.broadcast import Broadcast
from server.config import ServerConfig
from server.peer import Peer
from server.rtc_encoders import MAX_BPS, START_BPS
from server.rtc_sender import SharingSender
from server.shared_encoder import KEYFRAME_INTERVAL_S, MOST_WAITING, CodedTrack, join, shared_bps
from server.tracks import AvatarTrack
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from tests.fakes import Extractor, nothing_ahead, one_rung, paint, portrait
from tests.scripted_link import CODECS, Wire
from tests.serving import serving

BOTH_CODECS = pytest.mark.parametrize("codec", ["VP8", "H264"])
SIDE = 256
ENOUGH = 1_507_328  # bit/s for a picture of that side


class Scene:
    """A session, and a count of what is coded of it."""

    def __init__(self, live: LiveSession) -> None:
        self.live = live
        self.coded: Counter[tuple[str, bool]] = Counter()
        self.broadcast = Broadcast(live, on_coded=self.note)

    def note(self, codec: str, is_keyframe: bool) -> None:
        self.coded[codec, is_keyframe] += 1

    def join(self, codec: str = "H264", form: Form = WHOLE) -> CodedTrack:
        return join(AvatarTrack(self.broadcast, form), codec)

    @property
    def shown(self) -> int:
        """How many frames the session was asked for."""
        counts = self.live.counts()
        return counts["playout", "out"] + counts["playout", "repeated"]


def play(script: Callable[[Scene], Awaitable[None]], *, fps: float = 30, side_px: int = 64) -> None:
    """Run a script with a session that repeats its frames at two thirds of a rate."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        backend = LocalBackend(paint, clock=clock)
        live = LiveSession(
            "test",
            portrait(10, side_px),
            extractor=Extractor,
            draw=nothing_ahead,
            backend=backend,
            clock=clock,
            new_frames=1,
            ladder=one_rung(fps=fps),
        )
        try:
            async with asyncio.timeout(60):
                await script(Scene(live))
        finally:
            live.close()
            backend.close()

    asyncio.run(main())


class Reader:
    """Takes packets like a decoder, which fails at the first that cannot be decoded."""

    def __init__(self, codec: str = "H264") -> None:
        self.decoder: Any = av.CodecContext.create({"VP8": "libvpx", "H264": "h264"}[codec], "r")
        self.packets: list[Any] = []
        self.shades: list[int] = []

    async def take(self, track: CodedTrack, count: int) -> None:
        for _ in range(count):
            packet = await track.recv()
            self.packets.append(packet)
            [frame] = self.decoder.decode(av.Packet(bytes(packet)))
            self.shades.append(int(frame.to_ndarray(format="rgb24")[0, 0, 0]))

    def keyframes_s(self) -> list[float]:
        return [float(each.pts * each.time_base) for each in self.packets if each.is_keyframe]


@BOTH_CODECS
def test_frames_are_coded_once_for_all_who_watch_the_same(codec: str) -> None:
    async def script(scene: Scene) -> None:
        tracks = [scene.join(codec) for _ in range(4)]
        readers = [Reader(codec) for _ in tracks]
        await asyncio.gather(*(r.take(t, 30) for r, t in zip(readers, tracks, strict=True)))
        for reader in readers:
            assert reader.packets == readers[0].packets
        assert 30 <= scene.coded.total() <= 30 + MOST_WAITING
        assert 0 <= scene.shown - scene.coded.total() <= 1, "one may be on its way"
        assert scene.coded[codec, True] == 1

    play(script)


def test_who_wants_another_codec_or_form_has_another_encoder() -> None:
    async def script(scene: Scene) -> None:
        key = Form(alpha="key")
        tracks = [scene.join("H264"), scene.join("VP8"), scene.join("H264", key)]
        for track, codec in zip(tracks, ("H264", "VP8", "H264"), strict=True):
            await Reader(codec).take(track, 1)
        assert set(scene.broadcast.encoders) == {("H264", WHOLE), ("VP8", WHOLE), ("H264", key)}

    play(script)


def test_an_encoder_ends_with_its_last_viewer_and_another_begins_anew() -> None:
    async def script(scene: Scene) -> None:
        tracks = [scene.join(), scene.join()]
        [first] = scene.broadcast.encoders.values()
        for track in tracks:
            assert list(scene.broadcast.encoders.values()) == [first]
            track.stop()
            with pytest.raises(MediaStreamError):
                await track.recv()
        assert not scene.broadcast.encoders
        await Reader().take(scene.join(), 2)
        assert list(scene.broadcast.encoders.values()) != [first]

    play(script)


@BOTH_CODECS
def test_who_joins_late_has_a_keyframe_at_once_and_the_others_lose_nothing(codec: str) -> None:
    async def script(scene: Scene) -> None:
        early, first = scene.join(codec), Reader(codec)
        await first.take(early, 1)
        late, second = scene.join(codec), Reader(codec)
        await second.take(late, 1)  # no frame is due for many minutes
        await first.take(early, 1)
        assert first.packets[1] is second.packets[0]
        assert second.packets[0].is_keyframe
        assert scene.coded == {(codec, True): 2}

    play(script, fps=0.001)


def test_a_stuck_viewer_costs_the_others_no_frame_and_no_keyframe() -> None:
    async def script(scene: Scene) -> None:
        moving, stuck = scene.join(), scene.join()
        quick, slow = Reader(), Reader()
        await asyncio.gather(quick.take(moving, 1), slow.take(stuck, 1))
        await quick.take(moving, 60)
        assert moving.missed == 0
        assert len({each.pts for each in quick.packets}) == 61
        assert scene.coded["H264", True] == 1
        assert stuck.missed >= 60 - MOST_WAITING
        await asyncio.gather(slow.take(stuck, 10), quick.take(moving, 40))
        assert scene.coded["H264", True] == 2, "it asks for a keyframe once it goes on"
        follows = dict(itertools.pairwise(quick.packets))
        for before, after in itertools.pairwise(slow.packets):
            assert after is follows[before] or after.is_keyframe, "it can be decoded"

    play(script)


def test_a_viewer_who_is_a_little_late_loses_nothing() -> None:
    async def script(scene: Scene) -> None:
        moving, late = scene.join(), scene.join()
        quick, slow = Reader(), Reader()
        await asyncio.gather(quick.take(moving, 1), slow.take(late, 1))
        for _ in range(5):
            await quick.take(moving, MOST_WAITING - 1)
            await slow.take(late, MOST_WAITING - 1)
        assert slow.packets == quick.packets
        assert late.missed == 0

    play(script)


def test_keyframes_that_viewers_ask_for_keep_a_distance() -> None:
    async def script(scene: Scene) -> None:
        tracks, reader = [scene.join(), scene.join()], Reader()
        while len(reader.keyframes_s()) < 4:
            await reader.take(tracks[0], 1)
            for track in tracks:
                track.ask_for_keyframe()
        gaps_s = [after - before for before, after in itertools.pairwise(reader.keyframes_s())]
        assert min(gaps_s) >= KEYFRAME_INTERVAL_S

    play(script)


def test_an_encoder_that_fails_ends_its_viewers(caplog: pytest.LogCaptureFixture) -> None:
    async def script(scene: Scene) -> None:
        tracks = [scene.join(), scene.join()]
        for track in tracks:
            with pytest.raises(MediaStreamError):
                await track.recv()
        assert not scene.broadcast.encoders

    play(script, side_px=65)  # which H.264 cannot halve
    records = [each for each in caplog.records if each.name == "server.shared_encoder"]
    assert [each.exc_info is not None for each in records] == [True, True], "another one was tried"


def test_an_encoder_that_breaks_is_replaced_and_its_viewers_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(scene: Scene) -> None:
        track, reader = scene.join(), Reader()
        await reader.take(track, 5)
        [encoder] = scene.broadcast.encoders.values()
        encoder._encoder = None  # type: ignore[assignment]
        await reader.take(track, 20)
        assert any(packet.is_keyframe for packet in reader.packets[5:]), "the new encoder's first"

    play(script)
    assert "an encoder of H264 failed" in caplog.text


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ([], START_BPS),
        ([300_000], 300_000),
        ([1_200_000], 1_200_000),
        ([90_000_000], ENOUGH),
        ([1_400_000, 700_000, 90_000_000], 700_000),
        ([1_400_000, 10_000], ENOUGH // 4),
        ([300_000, 200_000], 300_000),
    ],
)
def test_the_slowest_viewer_sets_the_bitrate_down_to_a_quarter(
    granted: list[int], expected: int
) -> None:
    assert shared_bps(granted, SIDE * SIDE) == expected


def test_a_large_picture_may_have_more_bits_and_a_small_one_has_what_a_stream_starts_with() -> None:
    assert shared_bps([90_000_000], 512 * 512) == MAX_BPS
    assert shared_bps([90_000_000], 64 * 64) == START_BPS


class Sending:
    """A sender of a session's avatar whose packets go nowhere."""

    def __init__(self, scene: Scene) -> None:
        self.wire = Wire()
        nowhere: Any = self.wire
        self.sender = SharingSender(AvatarTrack(scene.broadcast), nowhere)

    async def start(self) -> None:
        parameters = RTCRtpSendParameters(codecs=[CODECS["H264"]], rtcp=RTCRtcpParameters("name"))
        await self.sender.send(parameters)

    def keyframes(self) -> int:
        """Return how many were sent."""
        units = (depayload(CODECS["H264"], packet.payload) for packet in self.media())
        return sum(unit.count(b"\0\0\0\1\x65") for unit in units)

    def media(self) -> list[RtpPacket]:
        """Return the packets that were sent, repetitions included."""
        return [RtpPacket.parse(data) for data in self.wire.sent if not is_rtcp(data)]

    async def ask_again(self, numbers: Collection[int]) -> None:
        packet = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=self.sender._ssrc)
        packet.lost = sorted(numbers)
        await self.sender._handle_rtcp_packet(packet)

    async def report(self, fmt: int, fci: bytes = b"") -> None:
        ssrc = self.sender._ssrc
        packet = RtcpPsfbPacket(fmt=fmt, ssrc=1, media_ssrc=ssrc, fci=fci)
        await self.sender._handle_rtcp_packet(packet)


@pytest.mark.parametrize("fmt", [RTCP_PSFB_PLI, RTCP_PSFB_FIR])
def test_a_request_for_a_keyframe_reaches_the_shared_encoder(fmt: int) -> None:
    async def script(scene: Scene) -> None:
        viewers = [Sending(scene), Sending(scene)]
        for viewer in viewers:
            await viewer.start()
        track, reader = scene.join(), Reader()
        await reader.take(track, 20)
        before = [viewer.keyframes() for viewer in viewers]
        await viewers[0].report(fmt)
        await reader.take(track, 20)
        assert [viewer.keyframes() for viewer in viewers] == [count + 1 for count in before]
        track.stop()
        for viewer in viewers:
            await viewer.sender.stop()
        assert not scene.broadcast.encoders

    play(script)


@pytest.mark.usefixtures("_repaired")
def test_who_asks_for_everything_again_is_sent_a_part_of_it_and_a_keyframe() -> None:
    async def script(scene: Scene) -> None:
        viewer = Sending(scene)
        await viewer.start()
        track, reader = scene.join(), Reader()
        await reader.take(track, 1)
        # A connection on which nothing gets through any more.
        await viewer.report(RTCP_PSFB_APP, pack_remb_fci(100_000, [viewer.sender._ssrc]))
        await reader.take(track, 20)
        first, before = viewer.media(), viewer.keyframes()
        start_s = asyncio.get_running_loop().time()
        for _ in range(100):
            await viewer.ask_again({packet.sequence_number for packet in first})
        again = viewer.media()[len(first) :]
        assert again, "there is room for some"
        spent_s = asyncio.get_running_loop().time() - start_s
        assert 8 * sum(len(packet.payload) for packet in again) < 0.15 * 100_000 * (1 + spent_s)
        await reader.take(track, 20)
        assert viewer.keyframes() > before
        track.stop()
        await viewer.sender.stop()

    play(script, side_px=256)


def test_the_bitrate_that_viewers_grant_reaches_the_shared_encoder() -> None:
    async def script(scene: Scene) -> None:
        viewers = [Sending(scene), Sending(scene)]
        for viewer in viewers:
            await viewer.start()
        track, reader = scene.join(), Reader()
        await reader.take(track, 1)
        [encoder] = scene.broadcast.encoders.values()
        assert encoder.target_bitrate == START_BPS
        for viewer, bitrate in zip(viewers, (1_000_000, 500_000), strict=True):
            await viewer.report(RTCP_PSFB_APP, pack_remb_fci(bitrate, [viewer.sender._ssrc]))
        await viewers[0].report(RTCP_PSFB_APP, pack_remb_fci(1, [viewers[0].sender._ssrc ^ 1]))
        await viewers[0].report(RTCP_PSFB_APP, b"no estimate")
        await reader.take(track, 3)
        assert encoder.target_bitrate == pytest.approx(0.85 * 500_000, rel=0.01)
        await viewers[1].sender.stop()
        await reader.take(track, 3)
        assert encoder.target_bitrate == pytest.approx(0.85 * 1_000_000, rel=0.01)
        await viewers[0].sender.stop()
        track.stop()

    play(script)


@asynccontextmanager
async def connected(
    answer: Callable[[str], Awaitable[str]], sent: MediaStreamTrack | None = None
) -> AsyncIterator[MediaStreamTrack]:
    """Connect a viewer, or who sends a track; yield what the viewer sees."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    if sent is None:
        connection.addTransceiver("video", direction="recvonly")
    else:
        connection.addTransceiver(sent, direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    answered = await answer(connection.localDescription.sdp)
    await connection.setRemoteDescription(RTCSessionDescription(answered, "answer"))
    try:
        yield connection.getReceivers()[0].track
    finally:
        await connection.close()


@pytest.mark.usefixtures("_repaired")
def test_a_viewer_whose_connection_is_stuck_holds_nobody_up() -> None:
    async def script(scene: Scene) -> None:
        peers = [
            Peer(
                None,
                AvatarTrack(scene.broadcast),
                connect_timeout_s=30.0,
                on_close=lambda _peer: None,
            )
            for _ in range(2)
        ]
        async with connected(peers[0].answer) as moving, connected(peers[1].answer) as stuck:
            await moving.recv()
            await stuck.recv()
            assert peers[1]._sender is not None
            transport, is_free = peers[1]._sender.transport, asyncio.Event()
            send = transport._send_rtp

            async def send_when_free(data: bytes) -> None:
                await is_free.wait()
                await send(data)

            transport._send_rtp = send_when_free  # type: ignore[method-assign]
            times = [frame.pts for frame in [await moving.recv() for _ in range(60)]]
            assert times == sorted(set(times))
            assert scene.coded.total() <= scene.shown + 2, "those who joined had one more"
            is_free.set()
            while (await stuck.recv()).pts < times[-1]:
                pass
        for peer in peers:
            await peer.close()
        assert not scene.broadcast.encoders

    play(script)


@pytest.mark.usefixtures("_repaired")
def test_the_server_encodes_once_for_all_viewers_and_tells_so() -> None:
    config = ServerConfig(size_px=256, steps=0, admission_fps=0)

    async def script(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            portraits = (await client.get("/v1/portraits")).json()["portraits"]
            created = await client.post("/v1/sessions", json={"source": portraits[0]["id"]})
            session = created.json()

            async def offer(url: str, token: str, sdp: str) -> str:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/sdp"}
                answered = await client.post(url, content=sdp, headers=headers)
                assert answered.status_code == 201, answered.text
                return answered.text

            publish = partial(offer, session["whip_url"], session["tokens"]["publish"])
            watch = partial(offer, session["whep_url"], session["tokens"]["watch"])
            async with (
                connected(publish, VideoStreamTrack()),
                connected(watch) as one,
                connected(watch) as two,
                connected(watch) as three,
            ):
                for track in (one, two, three):
                    await track.recv()
                for _ in range(10):
                    for track in (one, two, three):
                        await track.recv()
                told = (await client.get("/metrics")).text

        def count(name: str, labels: str = "[^}]*") -> float:
            return sum(map(float, re.findall(rf"^{name}{{{labels}}} (.+)$", told, re.MULTILINE)))

        pulled = count("avatar_frames_total", 'outcome="(?:out|repeated)",stage="playout"')
        assert 11 <= count("avatar_encoded_frames_total") <= pulled + 2, "two joined later"

    with serving(config) as url:
        asyncio.run(asyncio.wait_for(script(url), 120))
