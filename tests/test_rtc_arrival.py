"""When packets arrived, whatever the event loop was busy with.

A test that takes `is_repaired` is expected to fail with aiortc as it is.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

import pytest
from aioice import ice
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack, rtcpeerconnection
from aiortc.clock import current_ms

from server.rtc_arrival import Datagram, PunctualDtlsTransport, StampingProtocol

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells when a datagram arrived"
)

BUSY_MS = 60
ROUNDS = 20


class Receiver:
    """Stands for an ICE connection: keeps the datagrams and when it got them."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()

    def data_received(self, data: bytes, _component: int) -> None:
        self.received.put_nowait((data, current_ms()))

    def protocol_lost(self, _protocol: StampingProtocol) -> None:
        pass


async def busy_reception(payload: bytes) -> list[tuple[bytes, int, int, int]]:
    """Send to a loop that is busy for a while after each; return what it got of them.

    Each is the datagram, when it was sent (from, to) and when it was handed on.
    """
    receiver: Any = Receiver()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: StampingProtocol(receiver), local_addr=("127.0.0.1", 0)
    )
    protocol.local_candidate = ice.Candidate("1", 1, "udp", 1, "127.0.0.1", 1, "host")
    got = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(ROUNDS):
            before_ms = current_ms()
            sender.sendto(payload, transport.get_extra_info("sockname"))
            after_ms = current_ms()
            time.sleep(BUSY_MS / 1000)  # noqa: ASYNC251 # the loop is to be busy
            data, handed_on_ms = await receiver.received.get()
            got.append((data, before_ms, after_ms, handed_on_ms))
    await protocol.close()
    return got


def test_a_datagram_knows_when_it_arrived_while_the_loop_was_busy() -> None:
    got = asyncio.run(busy_reception(b"\x80 and so on"))
    # The kernel may start with its stamps a moment after it was asked to.
    for data, before_ms, after_ms, handed_on_ms in got[ROUNDS // 2 :]:
        assert data == b"\x80 and so on"
        assert isinstance(data, Datagram)
        assert before_ms <= data.arrived_ms <= after_ms
        assert handed_on_ms - data.arrived_ms >= BUSY_MS - 1


async def waited_ms(packets: int) -> list[int]:
    """Connect a camera to a receiver whose loop is busy; return how old it says packets are."""
    camera, viewer = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    camera.addTrack(VideoStreamTrack())
    await camera.setLocalDescription(await camera.createOffer())
    await viewer.setRemoteDescription(camera.localDescription)
    [receiver] = viewer.getReceivers()
    estimator = receiver._RTCRtpReceiver__remote_bitrate_estimator  # type: ignore[attr-defined]
    ages: list[int] = []
    are_enough = asyncio.Event()
    add = estimator.add

    def note(*, arrival_time_ms: int, **packet: int) -> object:
        ages.append(current_ms() - arrival_time_ms)
        if len(ages) >= packets:
            are_enough.set()
        return add(arrival_time_ms=arrival_time_ms, **packet)

    estimator.add = note
    await viewer.setLocalDescription(await viewer.createAnswer())
    await camera.setRemoteDescription(viewer.localDescription)
    while not are_enough.is_set():
        await asyncio.sleep(0.005)
        if ages:
            time.sleep(BUSY_MS / 1000)  # noqa: ASYNC251 # the loop is to be busy
    await camera.close()
    await viewer.close()
    return ages


@pytest.mark.parametrize(
    "is_repaired",
    [True, pytest.param(False, marks=pytest.mark.xfail(strict=True, raises=AssertionError))],
    ids=["repaired", "stock"],
)
def test_the_time_a_busy_loop_takes_is_not_the_networks(
    is_repaired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_repaired:
        monkeypatch.setattr(ice, "StunProtocol", StampingProtocol)
        monkeypatch.setattr(rtcpeerconnection, "RTCDtlsTransport", PunctualDtlsTransport)
    ages = asyncio.run(asyncio.wait_for(waited_ms(packets=30), 60))
    assert max(ages) >= BUSY_MS / 2
