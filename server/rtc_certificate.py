"""A certificate for connections to whoever has an RSA one, as GStreamer does."""

from __future__ import annotations

from typing import Final

from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from OpenSSL import SSL

_CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    b":ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    b":ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
)


class OpenCertificate(RTCCertificate):
    """Our certificate is an ECDSA one, the other side's may be either.

    In an answer we are the one that begins the handshake (RFC 5763, 5). The ciphers offered then
    are for the other side's key, and aiortc has none for RSA.
    """

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(_CIPHERS)
        return context
