"""A link between one client and the server that loses, delays and narrows as it is told to.

It relays datagrams: the server's answer gets the link's address in place of the server's, so that
media, reports and the checks of ICE all pass it, both ways. That takes no rights.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Address = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What happens to a datagram, each way.

    Attributes:
        loss: share that is lost.
        delay_s: that each takes.
        jitter_s: that each takes at most on top; they may overtake each other.
        bits_per_s: that get through; the others wait.
        most_wait_s: longer than that none waits, it is lost.
    """

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bits_per_s: float = float("inf")
    most_wait_s: float = 1.0


CLEAR = Weather()
DEAD = Weather(loss=1.0)


class _Way:
    """One direction."""

    def __init__(self, send: Callable[[bytes], None], rng: random.Random) -> None:
        self._send = send
        self._rng = rng
        self._free_s = 0.0  # when the narrow place is free again
        self.weather = CLEAR
        self.doomed = 0  # datagrams in a row that are lost next

    def carry(self, data: bytes) -> None:
        weather, loop = self.weather, asyncio.get_running_loop()
        now_s = loop.time()
        if self.doomed > 0:
            self.doomed -= 1
            return
        start_s = max(now_s, self._free_s)
        if self._rng.random() < weather.loss or start_s - now_s > weather.most_wait_s:
            return
        self._free_s = start_s + 8 * len(data) / weather.bits_per_s
        delay_s = weather.delay_s + self._rng.uniform(0, weather.jitter_s)
        if delay_s or self._free_s > now_s:
            loop.call_at(self._free_s + delay_s, self._send, data)
        else:
            self._send(data)


class _End(asyncio.DatagramProtocol):
    """A socket of the link."""

    def __init__(self) -> None:
        self.take: Callable[[bytes], None] = lambda _data: None
        self.other: Address | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.other = self.other or addr
        self.take(data)

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(data, self.other)


class Link:
    """Made of an answer; `answer` is the one to give to the client."""

    answer = ""

    @classmethod
    async def to_the_server_of(cls, answer: str, *, seed: int = 0) -> Link:
        """Open the link; the seed decides which datagrams are lost."""
        link = cls()
        hosts = re.findall(r"a=candidate:.* ([0-9.]+) ([0-9]+) typ host.*\r\n", answer)
        assert len(set(hosts)) == 1, f"the media must share one transport, found {hosts}"
        host, port = hosts[0]
        loop = asyncio.get_running_loop()
        ends = []
        for _ in ("towards the client", "towards the server"):
            _, end = await loop.create_datagram_endpoint(_End, local_addr=(host, 0))
            ends.append(end)
        link._front, link._back = ends
        link._back.other = (host, int(port))
        rng = random.Random(seed)
        link.up, link.down = _Way(link._back.send, rng), _Way(link._front.send, rng)
        link._front.take, link._back.take = link.up.carry, link.down.carry
        own_port = link._front.transport.get_extra_info("sockname")[1]
        without_v6 = re.sub(r"a=candidate:.* [0-9a-f]*:[0-9a-f:]* .*\r\n", "", answer)
        link.answer = without_v6.replace(f" {host} {port} typ", f" {host} {own_port} typ")
        return link

    _front: _End
    _back: _End
    up: _Way
    down: _Way

    def set(self, weather: Weather) -> None:
        """Change the weather both ways."""
        self.up.weather = self.down.weather = weather

    def lose(self, datagrams: int) -> None:
        """Lose so many in a row, each way."""
        self.up.doomed = self.down.doomed = datagrams

    def close(self) -> None:
        for end in (self._front, self._back):
            end.transport.close()
