"""Spoils valid input, the same way every time: for tests that send what nobody sane would."""

from __future__ import annotations

import random
from typing import Final

WORDS: Final = (
    *("", " ", "0", "-1", "65536", "9" * 40, "1e9", "nan", "\0", "\t", "\u2028", "\x85", "é", "🙂"),
    *("%s%n", "../../etc/passwd", "A" * 1100, "::1", "127.0.0.1", "[", "=", ":", "/", ";", ","),
    *("UDP/TLS/RTP/SAVPF", "VP8/90000", "sha-256", "actpass", "udp", "typ", "host", "*"),
)
LINES: Final = (
    *("", "a", "a=", "=", "m=", "m=video", "m=audio 9", "m=video 9 UDP/TLS/RTP/SAVPF", "v=1"),
    *("m=video 0 UDP/TLS/RTP/SAVPF 96", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
    *("a=candidate:", "a=candidate:1 1 udp 1 8.8.8.8 99999 typ host", "a=end-of-candidates"),
    *("a=candidate:1 1 udp x ::1 1 typ host raddr", "a=mid:", "a=mid:\u0000", "a=inactive"),
    *(
        "a=rtpmap:96",
        "a=rtpmap:96 VP8",
        "a=rtpmap:x VP8/y",
        "a=fmtp:96",
        "a=fmtp:96 apt=",
        "a=ssrc:x",
    ),
    *("a=ssrc-group:FID", "a=ssrc-group:FID 1 x", "a=extmap:", "a=extmap:0 x", "a=extmap:999 x"),
    *("a=group:BUNDLE", "a=group:BUNDLE 0 0 0 7", "a=setup:", "a=setup:holdconn", "a=rtcp-fb:* x"),
    *("a=fingerprint:", "a=fingerprint:sha-256", "a=fingerprint:md5 00", "a=msid:", "a=rtcp:x"),
    *("a=ice-ufrag:", "a=ice-pwd:x", "a=sctp-port:x", "a=max-message-size:-1", "c=IN IP4", "o=x"),
)


def spoil_lines(random_: random.Random, text: str) -> str:
    """Return text with one to four of its lines lost, doubled, moved, changed or made up."""
    lines = text.split("\r\n")
    for _ in range(random_.randint(1, 4)):
        at, other = random_.randrange(len(lines)), random_.randrange(len(lines))
        match random_.randrange(7):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines.insert(at, random_.choice(LINES))
            case 4:
                lines[at] = _spoil_word(random_, lines[at])
            case 5:
                lines[at] = lines[at][: random_.randint(0, len(lines[at]))]
            case _:
                lines[at] = spoil_characters(random_, lines[at])
    spoilt = random_.choice(("\r\n", "\r\n", "\r\n", "\n", "\r")).join(lines)
    return spoilt[: random_.randrange(len(spoilt) + 1)] if random_.random() < 0.1 else spoilt


def _spoil_word(random_: random.Random, line: str) -> str:
    words = line.split(" ")
    words[random_.randrange(len(words))] = random_.choice(WORDS)
    return " ".join(words)


def spoil_characters(random_: random.Random, text: str) -> str:
    """Return text with some of its characters exchanged, lost or added."""
    characters = list(text)
    for _ in range(random_.randint(1, 3)):
        at = random_.randint(0, len(characters))
        replacement = [chr(random_.randrange(0x20, 0x7F))] * random_.randint(0, 2)
        characters[at : at + random_.randint(0, 2)] = replacement
    return "".join(characters)


def spoil_bytes(random_: random.Random, data: bytes) -> bytes:
    """Return a file with some of its bytes changed, cut out, doubled or cut off."""
    spoilt = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(spoilt)) if spoilt else 0
        length = random_.choice((1, 2, 4, 64, 1024))
        match random_.randrange(5):
            case 0:
                del spoilt[at : at + length]
            case 1:
                spoilt[at : at + length] = random_.randbytes(length)
            case 2:
                spoilt[at:at] = spoilt[at : at + length]
            case 3:
                del spoilt[at:]
            case _:
                spoilt[at : at + 4] = random_.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
    return bytes(spoilt)
