"""Packets of a received video stream, put together to coded frames within a bounded time.

Knows no socket and no decoder; what is asked for again is decided in `server/rtc_nack.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aiortc.codecs.vpx import VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from server.rtc_nack import WINDOW, unwrap

_H264_IDR: Final = 5  # types of NAL units (RFC 6184, 1.3)
_H264_SPS: Final = 7


class VideoJitterBuffer:
    """Puts the packets of one video stream in order and cuts them into coded frames.

    A frame is complete with its marker bit (RFC 3550, 5.1), or when the next one has begun. A hole
    is waited for as long as `patience_s` says, counted from the first packet behind it; then
    everything is left out until a keyframe. aiortc's own buffer waits for the next frame's first
    packet, and for a lost packet until 512 others have come.
    """

    def __init__(
        self,
        codecs: Mapping[int, RTCRtpCodecParameters],
        *,
        patience_s: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        """Start empty; `codecs` goes from payload types, `clock` returns monotonic seconds."""
        self._codecs = codecs
        self._patience_s = patience_s
        self._clock = clock
        self._ssrc: int | None = None
        self._packets: dict[int, tuple[RtpPacket, float]] = {}
        self._oldest = 0  # the first number not yet given out or left out
        self._is_torn = True  # packets in front of the oldest may be missing
        self._needs_keyframe = True
        self._complete: list[tuple[RTCRtpCodecParameters, JitterFrame]] = []

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Store a packet that holds aiortc's depayloaded `_data`.

        Returns whether a keyframe is wanted, and None: `take` has the frames, because one packet
        may complete several.
        """
        now_s = self._clock()
        if packet.ssrc != self._ssrc:
            self._ssrc = packet.ssrc
            self._restart(packet.sequence_number)
        number = unwrap(packet.sequence_number, self._oldest)
        if abs(number - self._oldest) >= WINDOW:
            self._restart(number)
        if number < self._oldest:
            return False, None
        self._packets.setdefault(number, (packet, now_s))
        is_wanted = False
        while True:
            packets = self._next_frame()
            if packets:
                is_wanted |= not self._give_out(packets)
            elif self._is_stuck(now_s):
                self._oldest = min(self._packets)
                self._is_torn = self._needs_keyframe = is_wanted = True
            else:
                return is_wanted, None

    def take(self) -> list[tuple[RTCRtpCodecParameters, JitterFrame]]:
        """Return the coded frames that became complete since the last call, in their order."""
        complete, self._complete = self._complete, []
        return complete

    def wait_for_keyframe(self) -> None:
        """Leave out what cannot be decoded without a frame that was just left out."""
        self._complete.clear()
        self._needs_keyframe = True

    def _restart(self, number: int) -> None:
        self._packets.clear()
        self._oldest = number
        self._is_torn = self._needs_keyframe = True

    def _next_frame(self) -> list[RtpPacket]:
        packets: list[RtpPacket] = []
        number = self._oldest
        while number in self._packets:
            packet, _ = self._packets[number]
            if packets and packet.timestamp != packets[0].timestamp:
                return packets
            packets.append(packet)
            if packet.marker:
                return packets
            number += 1
        return []

    def _is_stuck(self, now_s: float) -> bool:
        hole = self._oldest
        while hole in self._packets:
            hole += 1
        behind = [arrival_s for number, (_, arrival_s) in self._packets.items() if number > hole]
        if not behind or now_s - min(behind) <= self._patience_s():
            return False
        for number in [number for number in self._packets if number < hole]:
            del self._packets[number]
        return True

    def _give_out(self, packets: list[RtpPacket]) -> bool:
        # Returns False for a frame that cannot be decoded without an earlier one.
        for _ in packets:
            del self._packets[self._oldest]
            self._oldest += 1
        is_torn, self._is_torn = self._is_torn, False
        data = b"".join(packet._data for packet in packets)  # type: ignore[attr-defined]
        if not data:
            self._is_torn = is_torn
            return True  # padding; an empty frame would end PyAV's decoder
        codec = self._codecs[packets[0].payload_type]
        if self._needs_keyframe and not _is_keyframe(codec.name, packets, data, is_torn=is_torn):
            return False
        self._needs_keyframe = False
        self._complete.append((codec, JitterFrame(data, packets[0].timestamp)))
        return True


def _is_keyframe(codec: str, packets: list[RtpPacket], data: bytes, *, is_torn: bool) -> bool:
    if codec == "VP8":
        descriptor, _ = VpxPayloadDescriptor.parse(packets[0].payload)
        is_start = descriptor.partition_start == 1 and descriptor.partition_id == 0
        return is_start and data[0] & 1 == 0  # RFC 7741, 4.3
    types = {unit[0] & 0x1F for unit in data.split(b"\0\0\1")[1:] if unit}
    # A parameter set comes first: with one, nothing of the picture is missing in front.
    return _H264_IDR in types and (_H264_SPS in types or not is_torn)
