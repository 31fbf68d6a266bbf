"""A camera, a link whose losses and delays are scripted, and aiortc's receiver at its end.

Time passes only as far as the script waits; the codecs are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc.codecs import get_encoder
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack, RTCRtpReceiver
from aiortc.rtp import RtcpPacket, RtcpPsfbPacket, RtcpRtpfbPacket, RtpPacket

from mimaface.types import Pixels
from server.rtc_receiver import RepairedReceiver
from tests.fakes import SimulatedLoop

FPS = 30
SSRC = 1234
CODECS = {
    name: RTCRtpCodecParameters(mimeType=f"video/{name}", clockRate=90_000, payloadType=payload)
    for name, payload in (("VP8", 97), ("H264", 99))
}

# The delay in seconds of a try, counted from 0, to bring the packet of a number; None loses it.
Fate = Callable[[int, int], float | None]


def flawless(_number: int, _attempt: int) -> float | None:
    return 0.0


class Wire:
    """Stands for a connected transport: remembers what is sent, as bytes, or hands it on."""

    state = "connected"
    _stats_id = "wire"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.take = self.sent.append

    async def _send_rtp(self, data: bytes) -> None:
        self.take(data)

    def _get_stats(self) -> dict[str, Any]:
        return {}

    def _register_rtp_receiver(self, receiver: object, parameters: object) -> None:
        pass

    def _unregister_rtp_receiver(self, receiver: object) -> None:
        pass

    def _register_rtp_sender(self, sender: object, parameters: object) -> None:
        pass

    def _unregister_rtp_sender(self, sender: object) -> None:
        pass


class _TimedQueue(queue.Queue[Any]):
    """Notes when each coded frame is given to the decoder, which takes some while it is open."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.times: list[tuple[float, int]] = []
        self.most = 0
        self.is_open = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block:  # the decoder; the receiver may take them away
            self.is_open.wait()
        return super().get(block, timeout)

    def drain(self) -> None:
        """Let the decoder take all there is."""
        self.is_open.set()
        while not self.empty():
            time.sleep(0.001)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is not None:
            self.times.append((self.clock(), item[1].timestamp))
        super().put(item, block, timeout)
        self.most = max(self.most, self.qsize())


@dataclass
class Heard:
    """What came out of the link.

    Attributes:
        delays_s: for each frame given to the decoder, by its number: its age then.
        decoded: the pictures by the number of their frame.
        keyframes_asked_s: when the receiver asked for a keyframe.
        longest_freeze_s: the longest time without a new frame, the end included.
        most_waiting: frames before the decoder at a time.
    """

    delays_s: dict[int, float] = field(default_factory=dict)
    decoded: dict[int, Pixels] = field(default_factory=dict)
    keyframes_asked_s: list[float] = field(default_factory=list)
    longest_freeze_s: float = 0.0
    most_waiting: int = 0


def picture(number: int, side_px: int) -> Pixels:
    """Return a frame of the camera: a fixed texture that moves."""
    texture = np.random.default_rng(0).integers(60, 190, (8, 8, 3)).astype(np.uint8)
    large = np.kron(texture, np.ones((side_px // 8, side_px // 8, 1), np.uint8))
    return np.roll(large, number * 3, axis=1)


class Camera:
    """Encodes its pictures to packets, numbered from `first`."""

    def __init__(self, codec: str, *, side_px: int, first: int = 0) -> None:
        self.codec = CODECS[codec]
        self.side_px = side_px
        self.encoder: Any = get_encoder(self.codec)
        self.first = first
        self.packets: list[RtpPacket] = []

    def shoot(self, number: int, *, is_keyframe: bool) -> list[int]:
        """Return the indices in `packets` of a frame's packets."""
        frame = av.VideoFrame.from_ndarray(picture(number, self.side_px), format="rgb24")
        frame.pts, frame.time_base = number * 90_000 // FPS, Fraction(1, 90_000)
        payloads, timestamp = self.encoder.encode(frame, is_keyframe)
        start = len(self.packets)
        for payload in payloads:
            self.add(timestamp, payload)
        self.packets[-1].marker = 1
        return list(range(start, len(self.packets)))

    def add(self, timestamp: int, payload: bytes) -> int:
        self.packets.append(
            RtpPacket(
                payload_type=self.codec.payloadType,
                sequence_number=(self.first + len(self.packets)) & 0xFFFF,
                timestamp=timestamp,
                ssrc=SSRC,
                payload=payload,
            )
        )
        return len(self.packets) - 1


async def transmit(
    is_repaired: bool,
    camera: Camera,
    *,
    frames: int,
    fate: Fate = flawless,
    rtt_s: float = 0.04,
    has_padding: bool = False,
    stuck_s: tuple[float, float] = (0.0, 0.0),
) -> Heard:
    """Send frames through the link; its `fate` is asked for every packet and every repetition.

    The decoder takes no time, but for the span `stuck_s`, in which it takes nothing.
    """
    loop = asyncio.get_running_loop()
    wire, heard, start_s = Wire(), Heard(), loop.time()

    def clock() -> float:
        return loop.time() - start_s

    nowhere: Any = wire
    receiver: Any = (
        RepairedReceiver("video", nowhere, clock=clock)
        if is_repaired
        else RTCRtpReceiver("video", nowhere)
    )
    released = receiver._RTCRtpReceiver__decoder_queue = _TimedQueue(clock)
    receiver._track = track = RemoteStreamTrack("video")
    receiver._set_rtcp_ssrc(1)
    await receiver.receive(RTCRtpReceiveParameters(codecs=list(CODECS.values())))

    order = itertools.count()
    events: list[tuple[float, int, str, int]] = []
    has_news = asyncio.Event()
    attempts: dict[int, int] = {}
    is_keyframe_wanted = False

    def post(time_s: float, kind: str, number: int) -> None:
        heapq.heappush(events, (time_s, next(order), kind, number))
        has_news.set()

    def launch(index: int) -> None:
        attempt = attempts[index] = attempts.get(index, -1) + 1
        delay_s = fate(index, attempt)
        if delay_s is not None:
            post(clock() + delay_s, "packet", index)

    def obey(data: bytes) -> None:
        for report in RtcpPacket.parse(data):
            if isinstance(report, RtcpRtpfbPacket):
                for lost in report.lost:
                    post(clock() + rtt_s, "again", (lost - camera.first) & 0xFFFF)
            elif isinstance(report, RtcpPsfbPacket) and report.fmt == 1:
                heard.keyframes_asked_s.append(clock())
                post(clock() + rtt_s / 2, "keyframe", 0)

    wire.take = obey
    for number in range(frames):
        post(number / FPS, "frame", number)
    while events:
        if (wait_s := events[0][0] - clock()) > 1e-9:
            has_news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(has_news.wait(), wait_s)
            continue
        _, _, kind, number = heapq.heappop(events)
        if stuck_s[0] <= clock() < stuck_s[1]:
            released.is_open.clear()
        else:
            released.drain()
        if kind == "frame":
            for index in camera.shoot(number, is_keyframe=is_keyframe_wanted):
                launch(index)
            is_keyframe_wanted = False
            if has_padding:
                launch(camera.add(camera.packets[-1].timestamp, b""))
        elif kind == "again":
            launch(number)
        elif kind == "keyframe":
            is_keyframe_wanted = True
        else:
            await receiver._handle_rtp_packet(camera.packets[number], round(clock() * 1000))
    released.is_open.set()
    await receiver.stop()
    while True:
        try:
            frame: Any = await track.recv()
        except MediaStreamError:
            break
        heard.decoded[round(frame.pts * FPS / 90_000)] = frame.to_ndarray(format="rgb24")
    heard.most_waiting = released.most
    numbers = [(time_s, round(timestamp * FPS / 90_000)) for time_s, timestamp in released.times]
    heard.delays_s = {number: time_s - number / FPS for time_s, number in numbers}
    times = [0.0, *(time_s for time_s, _ in numbers), frames / FPS]
    heard.longest_freeze_s = max(b - a for a, b in itertools.pairwise(times))
    return heard


def send(is_repaired: bool, camera: Camera, **script: Any) -> Heard:
    """Run `transmit` to its end."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(transmit(is_repaired, camera, **script))
