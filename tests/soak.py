"""Keep a server busy for long and see whether it stays as it was: python -m tests.soak.

A call a minute stays, beside it others come and go, one in ten of them without a farewell. Every
minute it prints the server's memory, threads and descriptors (Linux). The exit status is 1 if they
are not back where they were once all calls are over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from PIL import Image

from mimaface.native_logs import hide_native_logs
from mimaface.photo import built_in_portraits
from mimaface.types import Pixels
from tests.browser_setup import moving_face, run_server
from tests.page import Page

SESSIONS: Final = 3  # at a time, all of which the warm-up has once
SETTINGS: Final = {
    "MIMAFACE_MAX_SESSIONS": str(SESSIONS),
    "MIMAFACE_ADMISSION_FPS": "0",
    "MIMAFACE_REQUESTS_PER_MIN": "100000",
}
ARGUMENTS: Final = ("--size-px", "256", "--steps", "0")
MIB_PER_H: Final = 5.0
_NOISE_MIB: Final = 16.0  # that an allocator keeps or gives back as it likes
_POOLED: Final = SESSIONS + 2  # threads that the server's two pools may not have started yet
_WARM_UP_CALLS: Final = 12
_CALL_FRAMES: Final = 25
_PAUSE_S: Final = 2.0
_FAREWELL_S: Final = 30.0  # for what a vanished driver left


@dataclass(frozen=True, kw_only=True)
class Census:
    """What a process holds: resident memory, threads, descriptors."""

    rss_mib: float
    threads: int
    descriptors: int

    def is_back_at(self, base: Census) -> bool:
        """Return whether there are no more threads and descriptors than before."""
        return self.threads <= base.threads + _POOLED and self.descriptors <= base.descriptors

    @staticmethod
    def of(pid: int) -> Census:
        """Count (Linux)."""
        proc = Path(f"/proc/{pid}")
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        return Census(
            rss_mib=int(status["VmRSS"].split()[0]) / 1024,
            threads=int(status["Threads"]),
            descriptors=len(list((proc / "fd").iterdir())),
        )


async def place_call(
    client: httpx.AsyncClient,
    source: str,
    pictures: list[Pixels],
    *,
    frames: int,
    vanishes: bool = False,
) -> None:
    """Call, see so many avatar frames, and hang up, or vanish without a word."""
    created = await client.post("/v1/sessions", json={"source": source, "ttl_s": 5})
    created.raise_for_status()
    url = created.json()["url"]
    page = Page(pictures)
    try:
        await page.call(client, url)
        for _ in range(frames):
            await page.frame()
    finally:
        if vanishes:
            page.connection.getSenders()[0].transport.transport._send = _swallow
        await page.connection.close()
        if not vanishes:
            (await client.delete(url)).raise_for_status()


async def _swallow(_data: bytes) -> None:
    pass


async def place_calls(
    client: httpx.AsyncClient, source: str, pictures: list[Pixels], *, frames: int, calls: int
) -> None:
    """Place so many calls, as many at a time as the server takes."""
    for start in range(0, calls, SESSIONS):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(SESSIONS, calls - start)):
                group.create_task(place_call(client, source, pictures, frames=frames))


async def settled(pid: int, base: Census, *, within_s: float) -> Census:
    """Return what the process holds once it has no more threads and descriptors than before.

    That is asked again for a while: a connection is closed a moment after its answer.
    """
    end_s = time.monotonic() + within_s
    while True:
        held = Census.of(pid)
        if held.is_back_at(base) or time.monotonic() > end_s:
            return held
        await asyncio.sleep(0.1)


async def soak(url: str, pid: int, minutes: float) -> tuple[Census, list[Census], Census, int]:
    """Return what the server held before, at the end of every minute, and after; and the calls."""
    portraits = built_in_portraits()
    source = portraits[0].stem
    pictures = [
        np.asarray(Image.fromarray(picture).resize((320, 240)))
        for picture in moving_face(portraits[-1], frames=100)
    ]
    history: list[Census] = []
    calls = 0
    # The connection of its own keeps the count of descriptors the same.
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await place_calls(client, source, pictures, frames=_CALL_FRAMES, calls=_WARM_UP_CALLS)
        await asyncio.sleep(1.0)
        base = Census.of(pid)
        _say(f"{'before':>10}  {_line(base)}")
        start_s = time.monotonic()

        async def stay() -> None:
            while time.monotonic() - start_s < 60 * minutes:
                left_s = start_s + 60 * minutes - time.monotonic()
                frames = math.ceil(25 * min(left_s, 60))
                await place_call(client, source, pictures, frames=frames)

        async def come_and_go() -> None:
            nonlocal calls
            while time.monotonic() - start_s < 60 * minutes:
                calls += 1
                vanishes = calls % 10 == 0
                await place_call(client, source, pictures, frames=_CALL_FRAMES, vanishes=vanishes)
                await asyncio.sleep(_PAUSE_S)

        async def count() -> None:
            for minute in range(1, int(minutes) + 1):
                await asyncio.sleep(max(start_s + 60 * minute - time.monotonic(), 0))
                history.append(Census.of(pid))
                _say(f"{minute:>6} min  {_line(history[-1])}  {calls} calls")

        async with asyncio.TaskGroup() as group:
            for work in (stay(), come_and_go(), count()):
                group.create_task(work)
        after = await settled(pid, base, within_s=_FAREWELL_S)
        _say(f"{'after':>10}  {_line(after)}  {calls} calls")
    return base, history, after, calls


def slope_mib_per_h(history: list[Census]) -> float | None:
    """Return how fast memory grew in the later half of the minutes; None of fewer than four."""
    late = [held.rss_mib for held in history[len(history) // 2 :]]
    return float(np.polyfit(range(len(late)), late, 1)[0]) * 60 if len(history) >= 4 else None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # it may be watched through a pipe


def _line(held: Census) -> str:
    return f"{held.rss_mib:7.1f} MiB {held.threads:4} threads {held.descriptors:4} descriptors"


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    logging.getLogger("aiortc").setLevel(logging.ERROR)
    with run_server(*ARGUMENTS, **SETTINGS) as server:
        base, history, after, calls = asyncio.run(soak(server.url, server.pid, minutes))
    slope = slope_mib_per_h(history)
    # An allocator keeps some for a while and gives it back; what leaks is there in every minute.
    late = [held.rss_mib for held in history[len(history) // 2 :]]
    grown_mib = min([after.rss_mib, *late]) - base.rss_mib
    report = {
        "minutes": minutes,
        "calls": calls,
        "cpus": os.cpu_count(),
        "before": asdict(base),
        "after": asdict(after),
        "slope_mib_per_h": slope,
        "is_back": after.is_back_at(base) and grown_mib <= _NOISE_MIB + MIB_PER_H * minutes / 60,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["is_back"] else 1


if __name__ == "__main__":
    hide_native_logs()
    sys.exit(main())
