"""The sending end of a media track: aiortc's, whose viewers of one avatar share an encoder.

Browsers are told to show its frames as soon as they are decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from aiortc import clock, codecs
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import (
    RTCRtpHeaderExtensionParameters,
    RTCRtpParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    RTCP_PSFB_APP,
    AnyRtcpPacket,
    HeaderExtensions,
    HeaderExtensionsMap,
    RtcpPsfbPacket,
    RtpPacket,
    pack_header_extensions,
    unpack_header_extensions,
    unpack_remb_fci,
)

from server.rtc_encoders import LIVE_ENCODERS, START_BPS
from server.rtc_repeats import RepeatLimit
from server.shared_encoder import CodedTrack, join
from server.tracks import AvatarTrack

PRIVATE_METHODS: Final = ("_send_keyframe", "_retransmit", "_handle_rtcp_packet")
"""Those of aiortc's sender that this one adds to."""

PRIVATE_NAMES: Final = ("_RTCRtpSender__rtp_history",)
"""The names that its `_retransmit` has for what this one reads."""

HISTORY_PACKETS: Final = 1024  # that can be sent again: over two seconds at 4 Mbit/s

_PLAYOUT_DELAY: Final = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
# At least 0, at most 500 ms, in units of 10 ms. With no more than that browsers build on WebRTC's
# library hold no frame back to even out when they come, unless a page asks for it.
_AT_ONCE: Final = (0 << 12 | 50).to_bytes(3)

HEADER_EXTENSIONS: Final = codecs.HEADER_EXTENSIONS | {
    "video": [
        *codecs.HEADER_EXTENSIONS["video"],
        RTCRtpHeaderExtensionParameters(
            id=1 + max(each.id for kind in codecs.HEADER_EXTENSIONS.values() for each in kind),
            uri=_PLAYOUT_DELAY,
        ),
    ]
}
"""aiortc's, with what tells the receiver of video how long to hold it back."""


class PromptExtensions(HeaderExtensionsMap):
    """Tells a receiver that understands it to show frames at once."""

    def __init__(self) -> None:
        super().__init__()
        self._delay_id: int | None = None

    def configure(self, parameters: RTCRtpParameters) -> None:
        """Take what was negotiated."""
        super().configure(parameters)
        for extension in parameters.headerExtensions:
            if extension.uri == _PLAYOUT_DELAY:
                self._delay_id = extension.id

    def set(self, values: HeaderExtensions) -> tuple[int, bytes]:
        """Return the profile and the bytes of a packet's header extensions."""
        profile, value = super().set(values)
        if self._delay_id is None:
            return profile, value
        extensions = unpack_header_extensions(profile, value)
        return pack_header_extensions([*extensions, (self._delay_id, _AT_ONCE)])


class SharingSender(RTCRtpSender):
    """Sends an avatar as it was coded for all its viewers; aiortc's sender codes for itself.

    aiortc packs what is coded already, but then neither asks for keyframes nor sets a bitrate.
    """

    _RTCRtpSender__rtp_history: dict[int, RtpPacket]

    def __init__(self, track_or_kind: MediaStreamTrack | str, transport: RTCDtlsTransport) -> None:
        super().__init__(track_or_kind, transport)
        self._repeats = RepeatLimit()

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Start to send, now that the codec is known."""
        codec = parameters.codecs[0].name
        if isinstance(self.track, AvatarTrack) and codec in LIVE_ENCODERS:
            self.replaceTrack(join(self.track, codec))
        await super().send(parameters)

    def _send_keyframe(self) -> None:
        super()._send_keyframe()
        if isinstance(self.track, CodedTrack):
            self.track.ask_for_keyframe()

    async def _retransmit(self, sequence_number: int) -> None:
        sequence_number &= 0xFFFF  # aiortc's parser counts on
        packet = self._RTCRtpSender__rtp_history.get(sequence_number % HISTORY_PACKETS)
        if packet is None or packet.sequence_number != sequence_number:
            return
        track, now_s, age_s = self.track, asyncio.get_running_loop().time(), _age_s(packet)
        if not isinstance(track, CodedTrack) or self._repeats.admits(
            len(packet.payload),
            age_s=age_s,
            granted_bps=START_BPS if track.granted_bps is None else track.granted_bps,
            now_s=now_s,
        ):
            await super()._retransmit(sequence_number)
        elif now_s - age_s > track.keyframe_s:
            track.ask_for_keyframe()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if (
            isinstance(self.track, CodedTrack)
            and isinstance(packet, RtcpPsfbPacket)
            and packet.fmt == RTCP_PSFB_APP
        ):
            with contextlib.suppress(ValueError):  # no estimate of a bitrate
                bitrate, streams = unpack_remb_fci(packet.fci)
                if self._ssrc in streams:
                    self.track.granted_bps = bitrate


def _age_s(packet: RtpPacket) -> float:
    # The time in its header counts 1/2**18 of a second and begins again every 64 s.
    now = clock.current_ntp_time() >> 14
    age = (now - (packet.extensions.abs_send_time or 0)) % (1 << 24)
    return age / (1 << 18) if age < 1 << 23 else 0.0  # the clock was set back
