"""Calls come and go, and the server stays as it was."""

import asyncio
import itertools
import sys
from pathlib import Path

import httpx
import pytest

from mimaface.types import Pixels
from mimaface.video import VideoReader
from tests.browser_setup import run_server
from tests.soak import ARGUMENTS, SESSIONS, SETTINGS, Census, place_calls, settled, slope_mib_per_h

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc"),
]

CALLS = 10  # of a round
LEAST_ROUNDS, MOST_ROUNDS = 5, 15
FRAMES = 3
# An allocator's high-water mark rises in the early rounds; a leak is there after every one.
QUIET_MIB = 1.0


def test_after_fifty_calls_the_server_holds_what_it_held_before(
    driving_clip: Path, portrait: Path
) -> None:
    with VideoReader(driving_clip) as video:
        pictures: list[Pixels] = [rgb for _, rgb in video]

    async def script(url: str, pid: int) -> list[Census]:
        # None is kept for the next request: the server may just give it up.
        connections = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=connections) as client:

            async def place(calls: int) -> None:
                await place_calls(client, portrait.stem, pictures, frames=FRAMES, calls=calls)

            await place(2 * SESSIONS)
            held = [Census.of(pid)]
            while len(held) <= LEAST_ROUNDS or (
                _least(held) >= QUIET_MIB and len(held) <= MOST_ROUNDS
            ):
                await place(CALLS)
                held.append(await settled(pid, held[0], within_s=20))
            return held

    with run_server(*ARGUMENTS, **SETTINGS) as server:
        held = asyncio.run(script(server.url, server.pid))
    assert held[-1].is_back_at(held[0]), f"{held[-1]} after {held[0]}"
    assert _least(held) < QUIET_MIB, held


def _least(held: list[Census]) -> float:
    """Return by how many MiB the server's memory changed in the round in which it did so least.

    Memory that is given back hides a leak, so such a round proves nothing either.
    """
    return min(abs(after.rss_mib - before.rss_mib) for before, after in itertools.pairwise(held))


def test_memory_that_grows_has_a_slope() -> None:
    growing = [Census(rss_mib=500 + minute / 6, threads=9, descriptors=9) for minute in range(30)]
    assert slope_mib_per_h(growing) == pytest.approx(10)
    assert slope_mib_per_h(growing[:3]) is None
