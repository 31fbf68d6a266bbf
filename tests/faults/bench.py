"""What the rows share: a call on a server, what was seen of it, and what was promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from mimaface.types import Pixels
from tests.browser_setup import RunningServer
from tests.faults.link import Weather
from tests.faults.watched import Seen, WatchedCall, watched

NEAR: Final = Weather(delay_s=0.02)  # a round trip of 40 ms
FREEZE_S: Final = 0.5
BACK_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault did: in words, whether the promise holds, and the figures."""

    measured: str
    holds: bool
    figures: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the rows work with."""

    client: httpx.AsyncClient
    server: RunningServer
    portrait: str
    faces: list[Pixels]

    def face(self, number: int) -> Pixels:
        return self.faces[number % len(self.faces)]

    def call(self, *, ttl_s: float = 30.0) -> AbstractAsyncContextManager[WatchedCall]:
        """Place a call, wait until it is live, and end it with the block."""
        return watched(self.client, self.portrait, self.face, ttl_s=ttl_s)

    async def count(self, stage: str, outcome: str) -> float:
        """Return how many frames of all calls so far went that way on the server."""
        text = (await self.client.get("/metrics")).text
        prefix = f'avatar_frames_total{{outcome="{outcome}",stage="{stage}"}}'
        return next(float(x.split()[1]) for x in text.splitlines() if x.startswith(prefix))

    def order(self, line: str) -> None:
        """Tell the device what to do from now on."""
        assert self.server.process.stdin is not None
        self.server.process.stdin.write(line + "\n")
        self.server.process.stdin.flush()


Row = Callable[[Bench], Coroutine[Any, Any, Outcome]]


async def elapse(call: WatchedCall, seconds: float) -> Seen:
    """Return what was seen of the driving frames of the coming seconds."""
    start_s = time.monotonic()
    await asyncio.sleep(seconds)
    end_s = time.monotonic()
    await asyncio.sleep(0.3)  # what is under way
    return call.seen(start_s, end_s)


async def settle(call: WatchedCall, base: Seen, *, within_s: float = 3.0) -> float:
    """Return in how many seconds from now the latency is back at its base."""
    since_s = time.monotonic()
    await asyncio.sleep(within_s)
    return call.settled_s(since_s, base_ms=base.p50_ms)


def judge(seen: Seen, base: Seen, back_s: float, *, share: float) -> Outcome:
    """Hold what was seen against the share promised; freeze and recovery have one limit for all."""
    kept = seen.share / base.share
    return Outcome(
        measured=f"{kept:.0%} of the frames, longest freeze {seen.freeze_s:.2f} s, "
        f"p95 {seen.p95_ms:.0f} ms (without {base.p95_ms:.0f}), back in {back_s:.1f} s",
        holds=kept >= share and seen.freeze_s <= FREEZE_S and back_s <= BACK_S,
        figures={"base": asdict(base), "during": asdict(seen), "back_s": back_s},
    )
