"""Which of aiortc's names are replaced, and that the replacements are in force.

A test that takes `is_repaired` is expected to fail with aiortc as it is.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription, rtcrtpreceiver
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.rtcrtpparameters import RTCRtcpParameters, RTCRtpSendParameters
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RtcpRtpfbPacket,
    RtpPacket,
    is_rtcp,
    unpack_header_extensions,
)

from server.rtc_encoders import LiveVp8Encoder
from server.rtc_patches import REPLACEMENTS, TESTED_VERSION, apply_patches
from server.rtc_receiver import RepairedReceiver
from server.signaling import MAX_CANDIDATES
from tests.scripted_link import CODECS, Wire

PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"


@pytest.fixture
def _stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give aiortc its own names back after the test."""
    for module, name, _ in REPLACEMENTS:
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.fixture(
    params=[True, pytest.param(False, marks=pytest.mark.xfail(strict=True, raises=AssertionError))],
    ids=["repaired", "stock"],
)
def _repaired(request: pytest.FixtureRequest, _stock: None) -> None:
    if request.param:
        assert apply_patches()


def are_replaced() -> list[bool]:
    return [getattr(module, name) is new for module, name, new in REPLACEMENTS]


def candidate(address: str, protocol: str = "udp", port: int = 5000) -> RTCIceCandidate:
    return RTCIceCandidate(
        component=1,
        foundation="1",
        ip=address,
        port=port,
        priority=1,
        protocol=protocol,
        type="host",
        sdpMid="0",
    )


async def trickled(*candidates: RTCIceCandidate | None) -> tuple[list[str], bool]:
    """Return the addresses that a connection keeps, and whether it knows that it has them all."""
    connection = RTCPeerConnection()
    connection.addTransceiver("video")
    transport: Any = connection.getSenders()[0].transport.transport
    for each in candidates:
        await transport.addRemoteCandidate(each)
    kept = [each.ip for each in transport.getRemoteCandidates()]
    is_complete = transport.iceGatherer._remote_candidates_end
    await connection.close()
    return kept, is_complete


@pytest.mark.usefixtures("_stock")
def test_everything_is_replaced_at_once_and_only_when_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not any(are_replaced())
    assert apply_patches()
    assert apply_patches()
    assert all(are_replaced())
    assert not caplog.records


@pytest.mark.usefixtures("_stock")
@pytest.mark.parametrize("version", ["1.15.0", "1.16.1", "2.0.0"])
def test_another_version_is_left_alone_with_one_warning(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not apply_patches(version)
    assert not any(are_replaced())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert version in record.getMessage()
    assert TESTED_VERSION in record.getMessage()


@pytest.mark.usefixtures("_stock")
@pytest.mark.parametrize("replacement", REPLACEMENTS, ids=lambda each: each[1])
def test_a_missing_name_leaves_all_alone_with_one_warning(
    replacement: tuple[Any, str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module, name, _ = replacement
    monkeypatch.delattr(module, name)
    assert not apply_patches()
    assert not any(getattr(m, n, None) is new for m, n, new in REPLACEMENTS)
    assert [f"it has no {name}" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.usefixtures("_stock")
def test_a_receiver_without_what_the_repair_uses_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Bare:
        def __init__(self, kind: str, transport: object) -> None:
            pass

    monkeypatch.setattr(rtcrtpreceiver, "RTCRtpReceiver", Bare)
    assert not apply_patches()
    assert "_RTCRtpReceiver__jitter_buffer" in caplog.text


@pytest.mark.usefixtures("_stock")
def test_a_sender_without_what_the_repair_adds_to_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(RTCRtpSender, "_send_keyframe")
    assert not apply_patches()
    assert "_send_keyframe" in caplog.text


@pytest.mark.usefixtures("_repaired")
def test_a_connection_receives_with_the_repaired_receiver() -> None:
    async def script() -> None:
        connection = RTCPeerConnection()
        connection.addTransceiver("video")
        connection.addTransceiver("audio")
        receivers = connection.getReceivers()
        await connection.close()
        assert all(isinstance(receiver, RepairedReceiver) for receiver in receivers)

    asyncio.run(script())


@pytest.mark.usefixtures("_repaired")
def test_no_stun_server_is_asked_by_default() -> None:
    async def script() -> None:
        connection = RTCPeerConnection()
        connection.addTransceiver("video")
        gatherer: Any = connection.getSenders()[0].transport.transport.iceGatherer
        await connection.close()
        assert gatherer._connection.stun_server is None

    asyncio.run(script())


@pytest.mark.usefixtures("_repaired")
@pytest.mark.parametrize(
    "unwanted",
    [
        candidate("224.0.0.251"),
        candidate("169.254.169.254"),
        candidate("::ffff:169.254.169.254"),
        candidate("0.0.0.0"),
    ],
    ids=lambda each: each.ip,
)
def test_a_trickled_candidate_the_server_must_not_contact_is_left_out(
    unwanted: RTCIceCandidate,
) -> None:
    kept, is_complete = asyncio.run(trickled(unwanted, candidate("8.8.8.8"), None))
    assert kept == ["8.8.8.8"]
    assert not is_complete  # the peer may still show its address by contacting the server


@pytest.mark.usefixtures("_repaired")
def test_a_flood_of_trickled_candidates_is_cut() -> None:
    flood = [candidate("8.8.8.8", port=1024 + number) for number in range(2 * MAX_CANDIDATES)]
    kept, _ = asyncio.run(trickled(*flood))
    assert len(kept) == MAX_CANDIDATES


@pytest.mark.usefixtures("_stock")
def test_other_trickled_candidates_are_kept_and_names_are_not_looked_up() -> None:
    assert apply_patches()
    names = (candidate("9b36eaac.local"), candidate("8.8.8.8", protocol="tcp"))
    assert asyncio.run(trickled(*names)) == ([], False)
    good = (candidate("8.8.8.8"), candidate("2001:4860:4860::8888"), None)
    assert asyncio.run(trickled(*good)) == (["8.8.8.8", "2001:4860:4860::8888"], True)


class Noise(MediaStreamTrack):
    """A few pictures of many packets each."""

    kind = "video"

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.left = frames
        self.is_over = asyncio.Event()

    async def recv(self) -> av.VideoFrame:
        if not self.left:
            self.is_over.set()
            raise MediaStreamError
        self.left -= 1
        pixels = np.random.default_rng(self.left).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = 3000 * (100 - self.left), Fraction(1, 90_000)
        return frame


async def sent_and_repeated(frames: int) -> tuple[list[int], list[int], object]:
    """Send frames and ask for the first packet again.

    Returns:
        The sequence numbers sent, those sent when asked, and the encoder that was used.
    """
    wire, track = Wire(), Noise(frames)
    nowhere: Any = wire
    sender = RTCRtpSender(track, nowhere)
    encoders: list[object] = []
    keep = track.recv

    async def recv() -> av.VideoFrame:
        encoders.append(sender._RTCRtpSender__encoder)  # type: ignore[attr-defined]
        return await keep()

    track.recv = recv  # type: ignore[method-assign]
    await sender.send(RTCRtpSendParameters(codecs=[CODECS["VP8"]], rtcp=RTCRtcpParameters("name")))
    await track.is_over.wait()
    numbers = media_numbers(wire)
    wire.sent.clear()
    report = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc)
    report.lost = numbers[:1]
    await sender._handle_rtcp_packet(report)
    repeated = media_numbers(wire)
    await sender.stop()
    return numbers, repeated, encoders[-1]


def media_numbers(wire: Wire) -> list[int]:
    return [RtpPacket.parse(data).sequence_number for data in wire.sent if not is_rtcp(data)]


@pytest.mark.usefixtures("_repaired")
def test_a_packet_from_hundreds_before_is_sent_again() -> None:
    numbers, repeated, _ = asyncio.run(sent_and_repeated(frames=40))
    assert len(numbers) > 200
    assert repeated == numbers[:1]


@pytest.mark.usefixtures("_repaired")
def test_a_sender_uses_the_encoder_for_live_pictures() -> None:
    _, _, encoder = asyncio.run(sent_and_repeated(frames=2))
    assert isinstance(encoder, LiveVp8Encoder)


@pytest.mark.usefixtures("_repaired")
def test_a_browser_is_told_to_show_frames_at_once() -> None:
    async def script() -> tuple[str, list[tuple[int, bytes]]]:
        viewer, server = RTCPeerConnection(), RTCPeerConnection()
        viewer.addTransceiver("video", "recvonly")
        offer = viewer_offer(await viewer.createOffer(), delay_id=9)
        server.addTrack(Noise(frames=0))
        await server.setRemoteDescription(offer)
        await server.setLocalDescription(await server.createAnswer())
        parameters = RTCRtpSendParameters(
            codecs=[CODECS["VP8"]],
            headerExtensions=server.getTransceivers()[0]._headerExtensions,
            rtcp=RTCRtcpParameters("name"),
        )
        wire, track = Wire(), Noise(frames=1)
        nowhere: Any = wire
        sender = RTCRtpSender(track, nowhere)
        await sender.send(parameters)
        await track.is_over.wait()
        await sender.stop()
        await viewer.close()
        answer = server.localDescription.sdp
        await server.close()
        [first, *_] = [data for data in wire.sent if not is_rtcp(data)]
        profile, words = struct.unpack("!HH", first[12:16])  # RFC 3550, 5.3.1
        return answer, unpack_header_extensions(profile, first[16 : 16 + 4 * words])

    answer, extensions = asyncio.run(script())
    assert f"a=extmap:9 {PLAYOUT_DELAY}" in answer
    at_least, at_most = divmod(int.from_bytes(dict(extensions)[9]), 1 << 12)
    assert at_least == 0
    assert 0 < at_most * 10 <= 500  # ms; browsers that hold back no more need not even out


def viewer_offer(offer: RTCSessionDescription, *, delay_id: int) -> RTCSessionDescription:
    """Return an offer as a browser makes it, which knows the extension by a number of its own."""
    lines = offer.sdp.splitlines(keepends=True)
    others = [line for line in lines if PLAYOUT_DELAY not in line]
    others.append(f"a=extmap:{delay_id} {PLAYOUT_DELAY}\r\n")
    return RTCSessionDescription("".join(others), offer.type)
