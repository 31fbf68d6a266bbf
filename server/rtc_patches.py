"""aiortc repaired for live video: loss, bitrate, shared encoders, times, and whom it contacts.

`apply_patches` replaces names in aiortc's modules, for the whole process. It does so for the one
version that the repairs were tested with; with any other aiortc stays as it is.
"""

from __future__ import annotations

import logging
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import aiortc
from aioice import ice
from aiortc import rtcpeerconnection, rtcrtpreceiver, rtcrtpsender, rtp
from aiortc.rtcconfiguration import RTCIceServer
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceGatherer, RTCIceTransport
from aiortc.sdp import candidate_to_sdp

from server.rtc_arrival import PunctualDtlsTransport, StampingProtocol
from server.rtc_certificate import OpenCertificate
from server.rtc_decoders import get_decoder
from server.rtc_encoders import get_encoder
from server.rtc_receiver import PRIVATE_NAMES, RepairedReceiver
from server.rtc_sender import (
    HEADER_EXTENSIONS,
    HISTORY_PACKETS,
    PRIVATE_METHODS,
    PromptExtensions,
    SharingSender,
)
from server.rtc_sender import PRIVATE_NAMES as SENDERS_NAMES
from server.signaling import MAX_CANDIDATES, is_reachable

logger = logging.getLogger(__name__)

TESTED_VERSION: Final = "1.16.0"


class QuietIceGatherer(RTCIceGatherer):
    """Contacts no server that the settings do not name; aiortc's asks a public one by default."""

    @classmethod
    def getDefaultIceServers(cls) -> list[RTCIceServer]:  # noqa: N802
        """Return none."""
        return []


class CarefulIceTransport(RTCIceTransport):
    """Leaves out the candidates the server must not contact, wherever they come from.

    An offer's are left out before aiortc reads it; this one sees those that come later (RFC 9725,
    4.3.2).
    """

    _has_left_out = False

    async def addRemoteCandidate(self, candidate: RTCIceCandidate | None) -> None:  # noqa: N802
        """Take a candidate, or None for the end of them."""
        if candidate is not None and (
            len(self.getRemoteCandidates()) >= MAX_CANDIDATES
            or not is_reachable(candidate_to_sdp(candidate))
        ):
            self._has_left_out = True
        elif candidate is not None or not self._has_left_out:
            # With some left out the end stays open: the peer shows its address by contacting us.
            await super().addRemoteCandidate(candidate)


REPLACEMENTS: Final[tuple[tuple[ModuleType, str, Any], ...]] = (
    (ice, "StunProtocol", StampingProtocol),
    (rtcpeerconnection, "HEADER_EXTENSIONS", HEADER_EXTENSIONS),
    (rtcpeerconnection, "RTCCertificate", OpenCertificate),
    (rtcpeerconnection, "RTCDtlsTransport", PunctualDtlsTransport),
    (rtcpeerconnection, "RTCIceGatherer", QuietIceGatherer),
    (rtcpeerconnection, "RTCIceTransport", CarefulIceTransport),
    (rtcpeerconnection, "RTCRtpReceiver", RepairedReceiver),
    (rtcpeerconnection, "RTCRtpSender", SharingSender),
    (rtp, "HeaderExtensionsMap", PromptExtensions),
    (rtcrtpreceiver, "get_decoder", get_decoder),
    (rtcrtpsender, "RTP_HISTORY_SIZE", HISTORY_PACKETS),
    (rtcrtpsender, "get_encoder", get_encoder),
)


def apply_patches(version: str = aiortc.__version__) -> bool:
    """Repair aiortc, of which `version` is in use; return whether that was done.

    Either everything is replaced or, after one warning, nothing. A second call changes nothing.
    """
    if version != TESTED_VERSION:
        reason = f"the repairs are for {TESTED_VERSION}"
    elif missing := _missing_names():
        reason = f"it has no {', '.join(missing)}"
    else:
        for module, name, replacement in REPLACEMENTS:
            setattr(module, name, replacement)
        return True
    logger.warning("aiortc %s is used as it is: %s. Video will suffer from loss.", version, reason)
    return False


def is_repaired() -> bool:
    """Return whether aiortc was repaired in this process."""
    return all(getattr(module, name) is new for module, name, new in REPLACEMENTS)


def _missing_names() -> list[str]:
    missing = [name for module, name, _ in REPLACEMENTS if not hasattr(module, name)]
    # The names of an object are known only of an object; this one receives nothing.
    nowhere: Any = SimpleNamespace(state="new")
    probe = rtcrtpreceiver.RTCRtpReceiver("video", nowhere)
    missing += [name for name in PRIVATE_NAMES if not hasattr(probe, name)]
    sender = rtcrtpsender.RTCRtpSender
    missing += [name for name in PRIVATE_METHODS if not hasattr(sender, name)]
    if not missing:  # a sender is made where a loop runs only, so that its code has to tell
        missing += [n for n in SENDERS_NAMES if n not in sender._retransmit.__code__.co_names]
    return missing
