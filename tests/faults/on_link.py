"""Rows of a worse link."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import asdict

from aiortc import rtcrtpsender

from tests.faults.bench import NEAR, Bench, Outcome, Row, elapse, judge, settle
from tests.faults.link import Link, Weather


def weather(worse: Weather, *, share: float) -> Row:
    """Return the row of a link that is worse for a while, both ways.

    `share` is promised of the frames that pass it both ways, as the camera's and as the avatar's.
    """

    async def row(bench: Bench) -> Outcome:
        async with bench.call() as call:
            call.link.set(NEAR)
            base = await elapse(call, 2.0)
            call.link.set(worse)
            seen = await elapse(call, 8.0)
            call.link.set(NEAR)
            return judge(seen, base, await settle(call, base), share=share)

    return row


async def burst(bench: Bench) -> Outcome:
    async with bench.call() as call:
        call.link.set(NEAR)
        base = await elapse(call, 2.0)
        bursts = asyncio.create_task(_lose_bursts(call.link))
        seen = await elapse(call, 8.0)
        await bursts
        return judge(seen, base, await settle(call, base), share=0.0)


async def _lose_bursts(link: Link) -> None:
    for _ in range(4):
        link.lose(10)
        await asyncio.sleep(2.0)


async def bandwidth(bench: Bench) -> Outcome:
    """Narrow the way down; what goes up is a browser's to adapt, and its client is none."""
    async with bench.call() as call:
        call.link.down.weather = Weather(delay_s=0.02, bits_per_s=1_000_000)
        base = await elapse(call, 5.0)
        call.link.down.weather = Weather(delay_s=0.02, bits_per_s=300_000)
        first, middle, last = [await elapse(call, 4.0) for _ in range(3)]
        call.link.set(NEAR)
        back_s = await settle(call, base)
    growth_ms = last.p50_ms - middle.p50_ms
    return Outcome(
        measured=f"p50 {base.p50_ms:.0f} ms at 1 Mbps; at 300 kbps {first.p50_ms:.0f}, "
        f"{middle.p50_ms:.0f}, {last.p50_ms:.0f} ms (4 s each), {last.share:.0%} of the frames",
        holds=growth_ms <= 50 and last.share >= 0.5,
        figures={"base": asdict(base), "last": asdict(last), "back_s": back_s},
    )


async def wraps(bench: Bench) -> Outcome:
    """Start the numbers and times of the camera's packets shortly before they wrap."""
    before = rtcrtpsender.random_sequence_number, rtcrtpsender.random32
    near_the_end = itertools.count(2**32 - 4 * 90_000)  # 4 s; the names of streams are drawn too
    rtcrtpsender.random_sequence_number = lambda: 2**16 - 300
    rtcrtpsender.random32 = lambda: next(near_the_end)
    try:
        async with bench.call() as call:
            call.link.set(NEAR)
            seen = await elapse(call, 6.0)
            base = await elapse(call, 2.0)
            return judge(seen, base, await settle(call, base), share=0.95)
    finally:
        rtcrtpsender.random_sequence_number, rtcrtpsender.random32 = before
