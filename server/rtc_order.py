"""Packets of a received sound stream in their order, at once where nothing is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from server.rtc_nack import WINDOW, unwrap

_PATIENCE: Final = 3  # packets that overtake a missing one before it is left out, 60 ms as a rule


class SoundJitterBuffer:
    """Gives out sound as it comes; who plays it waits, and knows from its timestamps until when.

    aiortc's own holds four packets back, so that sound is 80 ms late, and sixteen from the first
    loss on.
    """

    def __init__(self, codecs: Mapping[int, RTCRtpCodecParameters]) -> None:
        """Start empty; `codecs` goes from payload types."""
        self._codecs = codecs
        self._ssrc: int | None = None
        self._packets: dict[int, RtpPacket] = {}  # at most as many as the patience
        self._next = 0
        self._complete: list[tuple[RTCRtpCodecParameters, JitterFrame]] = []

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Store a packet that holds aiortc's depayloaded `_data`; one that comes late is dropped.

        Returns False, as sound has no keyframes, and None: `take` has the frames.
        """
        number = unwrap(packet.sequence_number, self._next)
        if packet.ssrc != self._ssrc or abs(number - self._next) >= WINDOW:
            self._ssrc = packet.ssrc
            self._packets.clear()
            self._next = number
        if number >= self._next:
            self._packets[number] = packet
        if len(self._packets) >= _PATIENCE:
            self._next = min(self._packets)
        while (packet_due := self._packets.pop(self._next, None)) is not None:
            self._next += 1
            self._give_out(packet_due)
        return False, None

    def take(self) -> list[tuple[RTCRtpCodecParameters, JitterFrame]]:
        """Return the coded pieces that became due since the last call, in their order."""
        complete, self._complete = self._complete, []
        return complete

    def _give_out(self, packet: RtpPacket) -> None:
        data: bytes = packet._data  # type: ignore[attr-defined]
        if data:  # padding has none; an empty piece would end PyAV's decoder
            codec = self._codecs[packet.payload_type]
            self._complete.append((codec, JitterFrame(data, packet.timestamp)))
