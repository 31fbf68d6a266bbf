"""The receiving end of a media track: aiortc's, with its handling of loss and time replaced.

The names it reaches into are checked in `server/rtc_patches.py` before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from aiortc.jitterbuffer import JitterFrame
from aiortc.rate import BandwidthUsage, RemoteBitrateEstimator
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket

from server.rtc_jitter import VideoJitterBuffer
from server.rtc_nack import RepeatedNack
from server.rtc_order import SoundJitterBuffer
from server.sender_clock import SenderClock

UPLINK_BPS: Final = 2_500_000  # what a webcam at 640x480 can use

_EARLY_MS: Final = 4000
_EARLY_INTERVAL_MS: Final = 100
_KEYFRAME_INTERVAL_S: Final = 0.3
_PAUSE_S: Final = 0.5
# A decoder that has not caught up for so long, and has so many frames before it, is too slow. After
# a loss more than that may come at once, and are soon decoded.
_MOST_BEHIND_S: Final = 0.3
_MOST_CODED: Final = 8


class EarlyEstimator(RemoteBitrateEstimator):
    """Grants a good bitrate from the first packet on (REMB), then estimates as aiortc does.

    aiortc's own says nothing for three seconds and then grows from what a browser starts with,
    which is so little that it shrinks its picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first_ms: int | None = None
        self._granted_ms = 0

    def add(
        self, arrival_time_ms: int, abs_send_time: int, payload_size: int, ssrc: int
    ) -> tuple[int, list[int]] | None:
        """Return the bitrate to grant, in bit/s, and to which streams; None to say nothing."""
        if self._first_ms is None:
            self._first_ms = arrival_time_ms
            self._granted_ms = arrival_time_ms - _EARLY_INTERVAL_MS
            self.rate_control.set_estimate(UPLINK_BPS, arrival_time_ms)
        granted = super().add(arrival_time_ms, abs_send_time, payload_size, ssrc)
        if (
            granted is None
            and arrival_time_ms - self._first_ms < _EARLY_MS
            and arrival_time_ms - self._granted_ms >= _EARLY_INTERVAL_MS
            and self.detector.state() != BandwidthUsage.OVERUSING
        ):
            granted = self.rate_control.current_bitrate, list(self.ssrcs)
        if granted is not None:
            self._granted_ms = arrival_time_ms
        return granted


class RepairedReceiver(RTCRtpReceiver):
    """A receiver whose video survives loss, whose sound is not held back, and that knows times.

    Video that a slow decoder leaves waiting is left out, up to a keyframe.

    Attributes:
        sender_clock: places the decoded frames on the sender's clock.
    """

    _RTCRtpReceiver__codecs: dict[int, RTCRtpCodecParameters]
    _RTCRtpReceiver__decoder_queue: queue.Queue[tuple[RTCRtpCodecParameters, JitterFrame] | None]
    _RTCRtpReceiver__decoder_thread: threading.Thread | None
    _RTCRtpReceiver__jitter_buffer: VideoJitterBuffer | SoundJitterBuffer
    _RTCRtpReceiver__nack_generator: RepeatedNack
    _RTCRtpReceiver__remote_bitrate_estimator: RemoteBitrateEstimator
    _RTCRtpReceiver__timestamp_mapper: SenderClock

    def __init__(
        self, kind: str, transport: RTCDtlsTransport, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Receive from `transport`; `clock` returns monotonic seconds."""
        super().__init__(kind, transport)
        self._clock = clock
        self._keyframe_asked_s = -math.inf
        self._heard_s = -math.inf
        self._kept_up_s = -math.inf
        self._clock_rate: int | None = None
        self._asking: asyncio.Task[None] | None = None
        self._nack: RepeatedNack | None = None
        self._buffer: VideoJitterBuffer | SoundJitterBuffer
        if kind == "video":
            self._nack = self._RTCRtpReceiver__nack_generator = RepeatedNack(clock=clock)
            self._buffer = VideoJitterBuffer(
                self._RTCRtpReceiver__codecs,
                patience_s=self._nack.patience_s,
                clock=clock,
            )
            self._RTCRtpReceiver__remote_bitrate_estimator = EarlyEstimator()
        else:
            self._buffer = SoundJitterBuffer(self._RTCRtpReceiver__codecs)
        self._RTCRtpReceiver__jitter_buffer = self._buffer
        self.sender_clock = self._RTCRtpReceiver__timestamp_mapper = SenderClock()

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        now_s = self._clock()
        if now_s - self._heard_s > _PAUSE_S:
            self.sender_clock.forget_reports()
        self._heard_s = now_s
        if codec := self._RTCRtpReceiver__codecs.get(packet.payload_type):
            self._clock_rate = codec.clockRate
        await super()._handle_rtp_packet(packet, arrival_time_ms)
        is_asking = self._asking is not None and not self._asking.done()
        if self._nack is not None and not is_asking and self._nack.wait_s() is not None:
            self._asking = asyncio.create_task(self._ask_again(self._nack))
        if isinstance(self._buffer, VideoJitterBuffer) and self._is_behind(now_s):
            # What waits to be decoded gets old where no deadline sees it.
            with contextlib.suppress(queue.Empty):
                while True:
                    self._RTCRtpReceiver__decoder_queue.get_nowait()
            self._buffer.wait_for_keyframe()
            await self._send_rtcp_pli(packet.ssrc)
        for codec, frame in self._buffer.take():
            if self._RTCRtpReceiver__decoder_thread:
                frame.timestamp = self._RTCRtpReceiver__timestamp_mapper.map(frame.timestamp)
                self._RTCRtpReceiver__decoder_queue.put((codec, frame))

    async def _ask_again(self, nack: RepeatedNack) -> None:
        # Until the next packet comes, a round trip or more may be lost.
        while (wait_s := nack.wait_s()) is not None:
            await asyncio.sleep(wait_s)
            if (missing := nack.repeat()) and nack.ssrc is not None:
                await self._send_rtcp_nack(nack.ssrc, missing)

    async def stop(self) -> None:
        """End for good."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await super().stop()

    def _is_behind(self, now_s: float) -> bool:
        waiting = self._RTCRtpReceiver__decoder_queue.qsize()
        if not waiting or self._RTCRtpReceiver__decoder_thread is None:
            self._kept_up_s = now_s
        return waiting >= _MOST_CODED and now_s - self._kept_up_s > _MOST_BEHIND_S

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.packet_count:
            report = packet.sender_info
            if self._clock_rate is not None:
                self.sender_clock.report(
                    report.ntp_timestamp, report.rtp_timestamp, clock_rate=self._clock_rate
                )

    async def _send_rtcp_pli(self, media_ssrc: int) -> None:
        # A keyframe takes a round trip, and asking again meanwhile brings several large ones.
        now_s = self._clock()
        if now_s - self._keyframe_asked_s >= _KEYFRAME_INTERVAL_S:
            self._keyframe_asked_s = now_s
            await super()._send_rtcp_pli(media_ssrc)


PRIVATE_NAMES: Final = tuple(RepairedReceiver.__annotations__)
"""The names of aiortc's receiver that this one uses."""
