"""What is read from offers and fragments, as far as no request shows it."""

from __future__ import annotations

import pytest

from server.signaling import OfferError
from server.whip_sdp import finish_answer, read_fragment, read_offer

SESSION = (
    "v=0",
    "o=- 1 1 IN IP4 0.0.0.0",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE audio0 video1",
    "a=ice-ufrag:ufrag",
    "a=ice-pwd:a password of the session",
    "a=fingerprint:sha-256 00",
)
AUDIO = ("m=audio 9 UDP/TLS/RTP/SAVPF 97", "a=mid:audio0", "a=sendonly", "a=rtpmap:97 opus/48000/2")
VIDEO = ("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:video1", "a=sendonly", "a=rtpmap:96 VP8/90000")
CHANNEL = ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:data2")
PUBLIC, PRIVATE = "8.8.8.8", "10.0.0.7"


def text(*parts: tuple[str, ...]) -> str:
    return "\r\n".join(line for part in parts for line in part) + "\r\n"


def candidate(address: str, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2113937151 {address} 5000 typ host"


def test_credentials_of_the_session_are_those_of_its_sections() -> None:
    offer = read_offer(text(SESSION, AUDIO, VIDEO), direction="sendonly")
    assert offer.kinds == ("audio", "video")
    assert (offer.ufrag, offer.pwd) == ("ufrag", "a password of the session")


def test_a_section_without_a_direction_goes_both_ways() -> None:
    both = text(SESSION, tuple(line for line in VIDEO if line != "a=sendonly"))
    for direction in ("sendonly", "recvonly"):
        assert read_offer(both, direction=direction).kinds == ("video",)


def test_the_direction_of_the_session_is_that_of_a_section_without_one() -> None:
    silent = tuple(line for line in VIDEO if line != "a=sendonly")
    with pytest.raises(OfferError, match="found recvonly"):
        read_offer(text((*SESSION, "a=recvonly"), silent), direction="sendonly")


def test_a_channel_has_no_direction() -> None:
    offer = read_offer(text(SESSION, VIDEO, CHANNEL), direction="sendonly")
    assert offer.kinds == ("video", "application")


def test_an_msid_without_a_stream_is_no_second_one() -> None:
    offered = text(SESSION, (*AUDIO, "a=msid:- sound"), (*VIDEO, "a=msid:camera picture"))
    assert read_offer(offered, direction="sendonly").kinds == ("audio", "video")


def test_an_answer_says_once_that_it_may_be_trickled_to() -> None:
    lines = finish_answer(text(SESSION, AUDIO, VIDEO)).split("\r\n")
    assert lines.count("a=ice-options:trickle") == 1
    assert lines.index("a=ice-options:trickle") < lines.index(AUDIO[0]), "in the session's part"
    assert [line for line in lines if line != "a=ice-options:trickle"] == text(
        SESSION, AUDIO, VIDEO
    ).split("\r\n")


def test_a_fragment_gives_the_candidates_that_may_be_contacted_their_sections() -> None:
    lines = (candidate(PUBLIC), candidate(PRIVATE), candidate(PUBLIC, "tcp"))
    found = read_fragment(text(("a=ice-ufrag:ufrag",), AUDIO, lines, VIDEO, (candidate(PUBLIC),)))
    assert [(each.ip, each.sdpMid) for each in found.candidates] == [
        (PUBLIC, "audio0"),
        (PUBLIC, "video1"),
    ]
    assert found.found == 4
    assert not found.is_last


def test_a_fragment_may_hold_nothing_but_the_end() -> None:
    found = read_fragment(text(("a=ice-ufrag:ufrag", "a=end-of-candidates")))
    assert (found.candidates, found.is_last, found.pwd) == ((), True, None)


def test_a_fragment_belongs_to_the_offer_unless_it_says_otherwise() -> None:
    offer = read_offer(text(SESSION, VIDEO), direction="sendonly")
    own, other = ("a=ice-ufrag:ufrag",), ("a=ice-ufrag:another",)
    assert offer.owns(read_fragment(text(VIDEO)))
    assert offer.owns(read_fragment(text(own, VIDEO)))
    assert not offer.owns(read_fragment(text(other, VIDEO)))
    assert not offer.owns(read_fragment(text((*own, "a=ice-pwd:another"), VIDEO)))


def test_a_candidate_outside_of_a_section_is_refused() -> None:
    with pytest.raises(OfferError, match="needs a section"):
        read_fragment(text((candidate(PUBLIC),)))
