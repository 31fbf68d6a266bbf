"""The sending end of a media track: aiortc's, whose viewers of one avatar share an encoder."""

from __future__ import annotations

import contextlib
from typing import Final

from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import RTCP_PSFB_APP, AnyRtcpPacket, RtcpPsfbPacket, unpack_remb_fci

from server.rtc_encoders import LIVE_ENCODERS
from server.shared_encoder import CodedTrack, join
from server.tracks import AvatarTrack

PRIVATE_METHODS: Final = ("_send_keyframe", "_handle_rtcp_packet")
"""Those of aiortc's sender that this one adds to."""


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
