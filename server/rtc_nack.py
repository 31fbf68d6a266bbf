"""Lost packets of a received video stream: which to ask for again, when, and how long.

Knows sequence numbers, not pictures; `server/rtc_jitter.py` puts the packets together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiortc.rtp import RtpPacket

WINDOW: Final = 512  # packets; about a second of a 5 Mbit/s stream

_MAX_TRIES: Final = 10
_MIN_REPEAT_S: Final = 0.02
_TICK_S: Final = 0.001
_REPEAT_SLACK_S: Final = 0.01  # so that one that is just arriving is not asked for again
_FIRST_REPEAT_S: Final = 0.05  # while the round trip is unknown

# A round trip can be lost and tried again; the first is only known of with the next packet.
_ROUND_TRIPS: Final = 3
_SLACK_S: Final = 0.05
_MIN_PATIENCE_S: Final = 0.1
_MAX_PATIENCE_S: Final = 0.5
_FIRST_PATIENCE_S: Final = 0.2  # while the round trip is unknown


def unwrap(sequence_number: int, near: int) -> int:
    """Return the whole number nearest to `near` that is `sequence_number` modulo 2**16."""
    return near + ((sequence_number - near + 0x8000) & 0xFFFF) - 0x8000


@dataclass
class _Request:
    missed_s: float
    asked_s: float = 0.0
    tries: int = 0


class RepeatedNack:
    """Asks for a lost packet once every round trip until it comes or is too late (RFC 4585, 6.2.1).

    aiortc's own generator asks once, when a gap opens: a lost retransmission is lost for good.

    Attributes:
        ssrc: of the stream, once a packet came.
        missing: what `add` found to ask for, for aiortc to read.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Start with nothing lost; `clock` returns monotonic seconds."""
        self._clock = clock
        self.ssrc: int | None = None
        self._newest = 0
        self._requests: dict[int, _Request] = {}
        self._rtt_s: float | None = None
        self.missing: list[int] = []

    def add(self, packet: RtpPacket) -> bool:
        """Take note of a packet; return whether there is something to ask for."""
        now_s = self._clock()
        if packet.ssrc != self.ssrc:
            self.ssrc, self._newest = packet.ssrc, packet.sequence_number
            self._requests.clear()
        number = unwrap(packet.sequence_number, self._newest)
        if number - self._newest > WINDOW:
            self._requests.clear()
        else:
            for missed in range(self._newest + 1, number):
                self._requests[missed] = _Request(missed_s=now_s)
        self._newest = max(self._newest, number)
        self._note_arrival(self._requests.pop(number, None), now_s)
        self._forget_old(now_s)
        self.missing = self.repeat()
        return bool(self.missing)

    def repeat(self) -> list[int]:
        """Return the sequence numbers to ask for now, the lowest first."""
        now_s = self._clock()
        asked = [missed for missed in self._requests if self._due_s(missed, now_s) <= now_s]
        for missed in asked:
            self._requests[missed].asked_s = now_s
            self._requests[missed].tries += 1
        return sorted(missed & 0xFFFF for missed in asked)

    def wait_s(self) -> float | None:
        """Return in how many seconds there is something to ask for, None if nothing is lost."""
        now_s = self._clock()
        due_s = min((self._due_s(missed, now_s) for missed in self._requests), default=math.inf)
        return max(due_s - now_s, _TICK_S) if math.isfinite(due_s) else None

    def patience_s(self) -> float:
        """Return for how long a lost packet is worth waiting for."""
        if self._rtt_s is None:
            return _FIRST_PATIENCE_S
        return min(max(_ROUND_TRIPS * self._rtt_s + _SLACK_S, _MIN_PATIENCE_S), _MAX_PATIENCE_S)

    def _note_arrival(self, request: _Request | None, now_s: float) -> None:
        if request is None:
            return
        # Of a packet asked for again nobody knows which request brought it; since the first one is
        # an upper bound, taken where the round trip is known to be longer than believed.
        sample_s = now_s - request.missed_s
        is_clear = request.tries == 1 or self._rtt_s is None or sample_s > self.patience_s()
        if not is_clear:
            return
        # A packet that was only overtaken looks like a short round trip: fall slowly.
        known_s = sample_s if self._rtt_s is None else self._rtt_s
        self._rtt_s = max(sample_s, 0.9 * known_s + 0.1 * sample_s)

    def _due_s(self, missed: int, now_s: float) -> float:
        # When to ask for a packet again; never if it would come too late.
        request = self._requests[missed]
        if request.tries == 0:
            return request.missed_s
        if request.tries == _MAX_TRIES:
            return math.inf
        round_trip_s = _FIRST_REPEAT_S if self._rtt_s is None else self._rtt_s + _REPEAT_SLACK_S
        due_s = request.asked_s + max(round_trip_s, _MIN_REPEAT_S)
        is_late = max(due_s, now_s) - request.missed_s > self.patience_s()
        return math.inf if is_late else due_s

    def _forget_old(self, now_s: float) -> None:
        # One that is late by now still tells, when it comes, how long the round trip is.
        self._requests = {
            missed: request
            for missed, request in self._requests.items()
            if now_s - request.missed_s <= 2 * _MAX_PATIENCE_S and missed > self._newest - WINDOW
        }
