"""What WHIP and WHEP (RFC 9725 and its sibling's draft) ask of offers, answers and fragments.

Text in, text out; server/signaling.py holds the rules for every offer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiortc import RTCIceCandidate
from aiortc.sdp import candidate_from_sdp

from server.signaling import OfferError, accept_offer, is_reachable

_DIRECTIONS: Final = ("sendrecv", "sendonly", "recvonly", "inactive")
_LINE: Final = re.compile(r"[a-z]=\S.*")


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """What a trickled fragment (RFC 8840) says.

    Attributes:
        candidates: those that the server may contact.
        found: how many it had in all.
        is_last: whether no more will come.
        ufrag: of the ICE session it belongs to; None if it does not say.
        pwd: likewise.
    """

    candidates: tuple[RTCIceCandidate, ...]
    found: int
    is_last: bool
    ufrag: str | None
    pwd: str | None


@dataclass(frozen=True, kw_only=True)
class Offer:
    """An offer that holds what it must.

    Attributes:
        sdp: its text.
        kinds: of its media sections, in order: audio, video, application.
        ufrag: of its ICE session.
        pwd: likewise.
    """

    sdp: str
    kinds: tuple[str, ...]
    ufrag: str
    pwd: str

    def owns(self, fragment: Fragment) -> bool:
        """Return whether a fragment belongs to this offer's ICE session and not to a restart."""
        return fragment.ufrag in (None, self.ufrag) and fragment.pwd in (None, self.pwd)


def read_offer(sdp: str, *, direction: str) -> Offer:
    """Return what an offer holds whose media go in a direction, "sendonly" or "recvonly".

    Raises:
        OfferError: it cannot be answered as a whole (RFC 9725, sections 4.2 and 4.4).
    """
    accept_offer(sdp)
    session, *sections = _split(sdp)
    kinds, streams = [], set()
    ufrag = pwd = ""
    for section in sections:
        kind = section[0].removeprefix("m=").partition(" ")[0]
        lines = [*section, *session]
        if kind not in ("audio", "video", "application"):
            raise OfferError(f"A section of {kind} cannot be answered.")
        for name in ("fingerprint", "ice-ufrag", "ice-pwd"):
            if not _value(lines, name):
                raise OfferError(f"A section of {kind} has no a={name}")
        if not _value(section, "mid"):
            raise OfferError(f"A section of {kind} has no a=mid")
        if kind != "application":
            found = next((way for way in _DIRECTIONS if f"a={way}" in lines), "sendrecv")
            if found not in (direction, "sendrecv"):
                raise OfferError(f"Media must be offered {direction} or sendrecv, found {found}.")
            streams.add(_value(section, "msid").partition(" ")[0])
        ufrag, pwd = ufrag or _value(lines, "ice-ufrag"), pwd or _value(lines, "ice-pwd")
        kinds.append(kind)
    for kind in set(kinds):
        if kinds.count(kind) > 1:
            raise OfferError(f"An offer may have one section of {kind}, found more.")
    if len(streams - {"", "-"}) > 1:
        raise OfferError("An offer may have one MediaStream, found more.")
    return Offer(sdp=sdp, kinds=tuple(kinds), ufrag=ufrag, pwd=pwd)


def finish_answer(sdp: str) -> str:
    """Return aiortc's answer saying that candidates may be trickled to it, which it leaves out."""
    session, media, sections = sdp.partition("m=")
    return f"{session}a=ice-options:trickle\r\n{media}{sections}"


def read_fragment(text: str) -> Fragment:
    """Return what a fragment says.

    Raises:
        OfferError: it is malformed.
    """
    lines = text.splitlines()
    if not lines or "\0" in text or not all(_LINE.fullmatch(line) for line in lines):
        raise OfferError("This is not a fragment of a session description.")
    session, *sections = _split(text)
    candidates, found = [], 0
    for section in sections:
        mid = _value(section, "mid")
        for line in section:
            if not line.startswith("a=candidate:"):
                continue
            if not mid:
                raise OfferError("A candidate needs the a=mid of its section.")
            found += 1
            candidate = _candidate(line, mid)
            if is_reachable(line):
                candidates.append(candidate)
    if any(line.startswith("a=candidate:") for line in session):
        raise OfferError("A candidate needs a section.")
    return Fragment(
        candidates=tuple(candidates),
        found=found,
        is_last="a=end-of-candidates" in lines,
        ufrag=_value(lines, "ice-ufrag") or None,
        pwd=_value(lines, "ice-pwd") or None,
    )


def _candidate(line: str, mid: str) -> RTCIceCandidate:
    try:
        candidate = candidate_from_sdp(line.removeprefix("a=candidate:"))
    except (ValueError, AssertionError) as error:
        raise OfferError(f"A candidate is malformed: {error}") from error
    candidate.sdpMid = mid
    return candidate


def _split(sdp: str) -> list[list[str]]:
    # The lines of the session, then those of each media section.
    parts: list[list[str]] = [[]]
    for line in sdp.splitlines():
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line)
    return parts


def _value(lines: list[str], name: str) -> str:
    prefix = f"a={name}:"
    return next(
        (line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)), ""
    )
