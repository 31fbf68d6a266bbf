"""The sending end of a media track: aiortc's, whose viewers of one avatar share an encoder.

Browsers are told to show its frames as soon as they are decoded.
"""

from __future__ import annotations

import contextlib
from typing import Final

from aiortc import codecs
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
    pack_header_extensions,
    unpack_header_extensions,
    unpack_remb_fci,
)

from server.rtc_encoders import LIVE_ENCODERS
from server.shared_encoder import CodedTrack, join
from server.tracks import AvatarTrack

PRIVATE_METHODS: Final = ("_send_keyframe", "_handle_rtcp_packet")
"""Those of aiortc's sender that this one adds to."""

_PLAYOUT_DELAY: Final = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
# At least 0, at most 500 ms, in units of 10 ms. With no more than that browsers build on WebRTC's
# library hold no frame back to even out when they come, unless a page asks for it.
_AT_ONCE: Final = (0 << 12 | 50).to_bytes(3)

HEADER_EXTENSIONS: Final = codecs.HEADER_EXTENSIONS | {
    "video": [
        *codecs.HEADER_EXTENSIONS["video"],
        RTCRtpHeaderExtensionParameters(
            id=1 + max(each.id for each in codecs.HEADER_EXTENSIONS["video"]), uri=_PLAYOUT_DELAY
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
