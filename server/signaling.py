"""Session descriptions as text: what an offer may hold, and what the answer adds.

aiortc accepts anything; what it cannot use must be refused or removed before it sees it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

MAX_OFFER_BYTES: Final = 64 * 1024
MAX_CANDIDATES: Final = 64
MAX_MEDIA: Final = 3
_MAX_LINE_CHARS: Final = 1024

# Their addresses hold IPv4 ones, which may be private: NAT64 and 6to4.
_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "2002::/16")))

# Without a hint Chromium starts at 0.3 Mbps and shrinks the picture for most of a minute.
_START_KBPS: Final = 2000
_MIN_KBPS: Final = 600


class OfferError(ValueError):
    """An offer that cannot become a session; the message says why."""


def accept_offer(offer: str) -> str:
    """Return the offer without the candidates the server must not contact.

    Raises:
        OfferError: the offer is not usable.
    """
    if "\0" in offer or not offer.startswith("v=0"):
        raise OfferError("This is not a session description.")
    lines = offer.splitlines()
    if max(map(len, lines)) > _MAX_LINE_CHARS:
        raise OfferError(f"A line of an offer may have {_MAX_LINE_CHARS} characters.")
    media = [line.split()[0] for line in lines if line.startswith("m=")]
    if len(media) > MAX_MEDIA:
        raise OfferError(f"An offer may have {MAX_MEDIA} media sections, found {len(media)}.")
    if media.count("m=video") != 1:
        raise OfferError(f"An offer needs one video section, found {media.count('m=video')}.")
    for attribute in ("a=fingerprint:", "a=ice-ufrag:", "a=ice-pwd:", "a=mid:"):
        if not any(line.startswith(attribute) for line in lines):
            raise OfferError(f"The offer has no {attribute}")
    candidates = sum(line.startswith("a=candidate:") for line in lines)
    if candidates > MAX_CANDIDATES:
        raise OfferError(f"An offer may have {MAX_CANDIDATES} candidates, found {candidates}.")
    # Removed candidates leave the end open: the peer then shows its address by contacting us.
    kept = [
        line
        for line in lines
        if not line.startswith("a=end-of-candidates")
        and (not line.startswith("a=candidate:") or is_reachable(line))
    ]
    return "\r\n".join(kept) + "\r\n"


def wants_sound(offer: str) -> bool:
    """Return whether an offer asks for the driver's voice back, which a page does not."""
    audio = [section for section in offer.split("\nm=") if section.startswith("audio")]
    return any(not re.search(r"^a=(sendonly|inactive)", part, re.MULTILINE) for part in audio)


def is_reachable(line: str) -> bool:
    """Return whether a candidate's line names an address that the server may contact.

    It sends packets there before anybody proved to be there, so whoever makes an offer could have
    it knock at its neighbours' doors: only public addresses are taken. A peer nearby contacts the
    server, which then answers whatever its address is.
    """
    # a=candidate:<foundation> <component> <protocol> <priority> <address> <port> typ <type> ...
    parts = line.split()
    if len(parts) < 8 or parts[2].lower() != "udp" or parts[6] != "typ":
        return False
    if parts[7] not in ("host", "srflx", "relay"):
        return False
    if not re.fullmatch(r"[1-9][0-9]{0,4}", parts[5]) or int(parts[5]) > 65535:
        return False
    try:
        address = ipaddress.ip_address(parts[4])
    except ValueError:
        return False  # a name: mDNS costs a second and may ask the network for anything
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_global and not (
        address.is_multicast or any(address in network for network in _TRANSLATED)
    )


def require_rtcp_mux(answer: str) -> str:
    """Return the answer with `rtcp-mux-only` in every media section that has `rtcp-mux`.

    WHIP asks for it in answers too (RFC 9725, 4.4.1); RFC 8858, 4.3 knows it of offers only, and
    who does not know it in an answer passes over it.
    """
    return re.sub(r"^a=rtcp-mux\r?$", "a=rtcp-mux\r\na=rtcp-mux-only\r", answer, flags=re.MULTILINE)


def declare_generated(answer: str) -> str:
    """Return the answer saying to people and programs that the video in it is generated."""
    return re.sub(
        r"^(s=.*?)\r?$", r"\1\r\ni=AI-generated video\r", answer, count=1, flags=re.MULTILINE
    )


def raise_uplink_bitrate(answer: str) -> str:
    """Return the answer with a hint to Chromium to send a good picture from the first second."""
    hint = f"x-google-start-bitrate={_START_KBPS};x-google-min-bitrate={_MIN_KBPS}"
    codecs = re.findall(r"^a=rtpmap:(\d+) (?:VP8|H264)/90000\r?$", answer, flags=re.MULTILINE)
    for payload in codecs:
        rtpmap, fmtp = rf"^(a=rtpmap:{payload} .*?)\r?$", rf"^(a=fmtp:{payload} .*?)\r?$"
        answer, had_parameters = re.subn(fmtp, rf"\1;{hint}\r", answer, flags=re.MULTILINE)
        if not had_parameters:
            hinted = rf"\1\r\na=fmtp:{payload} {hint}\r"
            answer = re.sub(rtpmap, hinted, answer, flags=re.MULTILINE)
    return answer
