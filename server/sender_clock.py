"""When the other side sent what arrives, which puts its sound beside its pictures.

A sender's reports (RTCP, RFC 3550, 6.4.1) place the timestamps of each of its streams on one clock.
Only differences on that clock mean anything here.
"""

from __future__ import annotations

from typing import Final

from av.frame import Frame

from server.window import Window

_NTP_UNIT_S: Final = 1 / (1 << 32)
_REPORTS: Final = 7  # up to half a minute of them, in which clocks drift by 2 ms at worst
_IMPLAUSIBLE_S: Final = 0.5  # no network sets sound and picture so far apart, a bad report does


class SenderClock:
    """The clock of one stream's sender; takes the place of aiortc's `TimestampMapper`."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._newest = 0
        # Seconds since 1900 at the first timestamp. A busy sender's report is late by tens of
        # milliseconds now and then, the median of a few is not.
        self._first_s = Window(_REPORTS)

    def map(self, timestamp: int) -> int:
        """Return a packet's 32-bit timestamp unwrapped and counted from the first one."""
        if self._first is None:
            self._first = timestamp
        self._newest = self._unwrap(timestamp)
        return self._newest

    def report(self, ntp_timestamp: int, rtp_timestamp: int, *, clock_rate: int) -> None:
        """Learn from the sender what time it was at a timestamp, which counts `clock_rate` Hz."""
        if self._first is not None:
            stream_s = self._unwrap(rtp_timestamp) / clock_rate
            self._first_s.add(ntp_timestamp * _NTP_UNIT_S - stream_s)

    def forget_reports(self) -> None:
        """Trust no report from before a pause: some senders stop counting during one."""
        self._first_s.clear()

    def sent_s(self, frame: Frame) -> float | None:
        """Return when a decoded frame left, on the sender's clock; None while that is unknown."""
        first_s = self._first_s.quantile(0.5)
        if first_s is None or frame.pts is None or frame.time_base is None:
            return None
        return first_s + float(frame.pts * frame.time_base)

    def _unwrap(self, timestamp: int) -> int:
        assert self._first is not None, "there is a timestamp to count from"
        near = self._first + self._newest
        return self._newest + ((timestamp - near + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


class Arrivals:
    """Says when a driving frame would have arrived that was sent together with a piece of sound.

    Sound is coded in less time than a picture and comes in smaller packets, so that what arrives
    together was not sent together. Until both streams have been reported on, that is assumed.
    """

    def __init__(self) -> None:
        self._transits = Window()

    def add_frame(self, arrived_s: float, sent_s: float | None) -> None:
        """Note a driving frame's arrival here and its sending on the other side's clock."""
        if sent_s is not None:
            self._transits.add(arrived_s - sent_s)

    def place(self, arrived_s: float, sent_s: float | None) -> float:
        """Return the arrival of the frame that belongs to the sound."""
        transit_s = self._transits.quantile(0.5)
        if sent_s is None or transit_s is None:
            return arrived_s
        time_s = sent_s + transit_s
        return time_s if abs(time_s - arrived_s) < _IMPLAUSIBLE_S else arrived_s
