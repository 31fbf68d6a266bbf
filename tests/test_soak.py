"""Calls come and go, and the server stays as it was."""

import asyncio
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

CYCLES = 50
FRAMES = 3
MOST_MIB = (
    8.0  # of later growth: an allocator's noise; a leaked tracker alone has more in two calls
)


def test_after_fifty_calls_the_server_holds_what_it_held_before(
    driving_clip: Path, portrait: Path
) -> None:
    with VideoReader(driving_clip) as video:
        pictures: list[Pixels] = [rgb for _, rgb in video]

    async def script(url: str, pid: int) -> tuple[Census, Census, Census]:
        # None is kept for the next request: the server may just give it up.
        connections = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=connections) as client:

            async def place(calls: int) -> None:
                await place_calls(client, portrait.stem, pictures, frames=FRAMES, calls=calls)

            await place(2 * SESSIONS)
            base = Census.of(pid)
            await place(CYCLES // 2)
            halfway = await settled(pid, base, within_s=20)
            await place(CYCLES // 2)
            return base, halfway, await settled(pid, base, within_s=20)

    with run_server(*ARGUMENTS, **SETTINGS) as server:
        base, halfway, after = asyncio.run(script(server.url, server.pid))
    assert after.is_back_at(base), f"{after} after {base}"
    assert after.rss_mib - halfway.rss_mib < MOST_MIB


def test_memory_that_grows_has_a_slope() -> None:
    growing = [Census(rss_mib=500 + minute / 6, threads=9, descriptors=9) for minute in range(30)]
    assert slope_mib_per_h(growing) == pytest.approx(10)
    assert slope_mib_per_h(growing[:3]) is None
