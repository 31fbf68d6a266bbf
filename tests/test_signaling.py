"""What an offer may hold, and what the answer adds."""

import pytest

from server.signaling import (
    OfferError,
    accept_offer,
    declare_generated,
    raise_uplink_bitrate,
)

OFFER = """v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0 1
m=video 9 UDP/TLS/RTP/SAVPF 96
a=mid:0
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 00:11
a=candidate:1 1 udp 2113937151 8.8.8.8 5000 typ host
a=end-of-candidates
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=mid:1
""".replace("\n", "\r\n")


def with_candidate(text: str) -> str:
    return OFFER.replace("1 1 udp 2113937151 8.8.8.8 5000 typ host", text)


def test_a_good_offer_keeps_its_candidate_and_an_open_end() -> None:
    accepted = accept_offer(OFFER)
    assert accepted == OFFER.replace("a=end-of-candidates\r\n", "")


@pytest.mark.parametrize(
    "candidate",
    [
        "1 1 udp 1 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 5000 typ host",
        "1 1 udp 1 metadata.internal 80 typ host",
        "1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
        "1 1 udp 1 169.254.169.254 80 typ host",
        "1 1 udp 1 224.0.0.251 5353 typ host",
        "1 1 udp 1 0.0.0.0 5000 typ host",
        "1 1 udp 1 127.0.0.1 80 typ host",
        "1 1 udp 1 10.0.0.1 80 typ host",
        "1 1 udp 1 192.168.1.1 80 typ srflx raddr 0.0.0.0 rport 0",
        "1 1 udp 1 100.64.0.1 80 typ host",
        "1 1 udp 1 fd00:ec2::254 80 typ host",
        "1 1 udp 1 ::ffff:10.0.0.1 80 typ host",
        "1 1 udp 1 64:ff9b::a00:1 80 typ host",
        "1 1 udp 1 2002:a00:1::1 80 typ host",
        "1 1 udp 1 8.8.8.8 0 typ host",
        "1 1 udp 1 8.8.8.8 65536 typ host",
        "1 1 udp 1 8.8.8.8 \u0665 typ host",
        "1 1 udp 1 8.8.8.8 5000 typ prflx",
        "1 1 udp 1 8.8.8.8 5000",
        "",
    ],
)
def test_candidates_the_server_must_not_contact_are_removed(candidate: str) -> None:
    assert "a=candidate" not in accept_offer(with_candidate(candidate))


@pytest.mark.parametrize(
    "candidate",
    [
        "1 1 UDP 1 8.8.8.8 5000 typ srflx raddr 0.0.0.0 rport 0",
        "1 1 udp 1 2606:4700::1111 5000 typ host",
        "1 1 udp 1 8.8.8.8 5000 typ relay raddr 0.0.0.0 rport 0",
    ],
)
def test_other_candidates_are_kept(candidate: str) -> None:
    assert f"a=candidate:{candidate}" in accept_offer(with_candidate(candidate))


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        ("", "not a session description"),
        ("hello", "not a session description"),
        (OFFER + "\0", "not a session description"),
        (OFFER.replace("m=video", "m=audio"), "needs one video section, found 0"),
        (OFFER + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "needs one video section, found 2"),
        (OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n" * 2, "3 media sections, found 4"),
        (OFFER + f"a=x:{'x' * 1024}\r\n", "1024 characters"),
        (OFFER.replace("a=fingerprint", "a=x"), "no a=fingerprint"),
        (OFFER.replace("a=ice-ufrag", "a=x"), "no a=ice-ufrag"),
        (OFFER.replace("a=ice-pwd", "a=x"), "no a=ice-pwd"),
        (OFFER + "a=candidate:1\r\n" * 64, "64 candidates, found 65"),
    ],
)
def test_an_unusable_offer_is_refused_with_a_reason(offer: str, message: str) -> None:
    with pytest.raises(OfferError, match=message):
        accept_offer(offer)


def test_the_answer_asks_for_a_good_picture_at_once() -> None:
    answer = (
        "m=video 9 X 97 98 99\r\na=rtpmap:97 VP8/90000\r\na=rtpmap:98 rtx/90000\r\n"
        "a=fmtp:98 apt=97\r\na=rtpmap:99 H264/90000\r\na=fmtp:99 packetization-mode=1\r\n"
        "a=mid:0\r\n"
    )
    hint = "x-google-start-bitrate=2000;x-google-min-bitrate=600"
    assert raise_uplink_bitrate(answer) == (
        f"m=video 9 X 97 98 99\r\na=rtpmap:97 VP8/90000\r\na=fmtp:97 {hint}\r\n"
        "a=rtpmap:98 rtx/90000\r\na=fmtp:98 apt=97\r\n"
        f"a=rtpmap:99 H264/90000\r\na=fmtp:99 packetization-mode=1;{hint}\r\na=mid:0\r\n"
    )


def test_the_answer_says_that_the_video_is_generated() -> None:
    answer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 X 97\r\na=x\r\ns=-\r\n"
    assert declare_generated(answer) == answer.replace("s=-", "s=-\r\ni=AI-generated video", 1)
