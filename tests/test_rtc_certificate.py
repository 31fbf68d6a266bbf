"""Handshakes with whoever has an RSA certificate.

A test that takes `is_repaired` is expected to fail with aiortc as it is.
"""

from __future__ import annotations

import asyncio

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, rtcpeerconnection
from aiortc.rtcdtlstransport import RTCCertificate, generate_certificate
from cryptography.hazmat.primitives.asymmetric import rsa

from server.rtc_certificate import OpenCertificate


def rsa_certificate() -> RTCCertificate:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    return OpenCertificate(key=key, cert=generate_certificate(key))


async def connected_states(certificate: RTCCertificate) -> set[str]:
    """Offer a connection with a certificate; return what became of both ends."""
    offering, answering = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    offering._RTCPeerConnection__certificates = [certificate]  # type: ignore[attr-defined]
    offering.createDataChannel("any")
    over = [asyncio.Event(), asyncio.Event()]
    for peer, event in zip((offering, answering), over, strict=True):

        def follow(peer: RTCPeerConnection = peer, event: asyncio.Event = event) -> None:
            if peer.connectionState in ("connected", "failed"):
                event.set()

        peer.on("connectionstatechange", follow)
    await offering.setLocalDescription(await offering.createOffer())
    await answering.setRemoteDescription(offering.localDescription)
    await answering.setLocalDescription(await answering.createAnswer())
    await offering.setRemoteDescription(answering.localDescription)
    for event in over:
        await event.wait()
    states = {offering.connectionState, answering.connectionState}
    await offering.close()
    await answering.close()
    return states


@pytest.mark.parametrize(
    "is_repaired",
    [True, pytest.param(False, marks=pytest.mark.xfail(strict=True, raises=AssertionError))],
    ids=["repaired", "stock"],
)
def test_an_offer_with_an_rsa_certificate_is_connected(
    is_repaired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_repaired:
        monkeypatch.setattr(rtcpeerconnection, "RTCCertificate", OpenCertificate)
    states = asyncio.run(asyncio.wait_for(connected_states(rsa_certificate()), 30))
    assert states == {"connected"}
