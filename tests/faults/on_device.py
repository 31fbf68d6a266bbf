"""Rows of a device that fails."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, replace

import httpx

from tests.browser_setup import run_server
from tests.faults.bench import Bench, Outcome, elapse, settle


async def device_raises(bench: Bench) -> Outcome:
    return await _break_device(bench, "raise", 3.0)


async def device_hangs(bench: Bench) -> Outcome:
    return await _break_device(bench, "hang 5", 5.0)


async def _break_device(bench: Bench, order: str, seconds: float) -> Outcome:
    async with bench.call() as call:
        base = await elapse(call, 2.0)
        bench.order(order)
        start_s = time.monotonic()
        await asyncio.sleep(seconds)
        bench.order("work")
        back_s = await settle(call, base)
        is_up = not call.is_closed.is_set()
        seen = call.seen(start_s, start_s + seconds)
    assert seen.freeze_s > 0.8 * seconds, "the device did not fail"
    return Outcome(
        measured=f"{'still' if is_up else 'not'} connected, the frame held for "
        f"{seen.freeze_s:.1f} s, live again {back_s:.1f} s after",
        holds=is_up and back_s <= 1.0,
        figures={"base": asdict(base), "freeze_s": seen.freeze_s, "back_s": back_s},
    )


async def out_of_memory(bench: Bench) -> Outcome:
    """Let a server that denoises run out of memory for that."""
    arguments = ("--size-px", "256", "--steps", "1", "--latency-marker")
    # However slow the machine is, the steps are not taken away for that.
    settings = {"MIMAFACE_LATENCY_BUDGET_S": "5", "MIMAFACE_FPS": "5"}
    with run_server(*arguments, module="tests.faults.server", **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return await _run_out_of_memory(replace(bench, client=client, server=server))


async def _run_out_of_memory(bench: Bench) -> Outcome:
    async with bench.call() as call:
        base = await elapse(call, 2.0)
        steps = call.stats()["steps"]
        start_s = time.monotonic()
        bench.order("full")
        fell_s = await call.until(lambda: call.stats()["steps"] == 0) - start_s
        seen = await elapse(call, 2.0)
        bench.order("work")
        work_s = time.monotonic()
        climbed_s = await call.until(lambda: call.stats()["steps"] == steps) - work_s
        failed = call.stats()["failed"]
    return Outcome(
        measured=f"{failed} clips lost, told of {steps} -> 0 steps after {fell_s:.1f} s, then "
        f"{seen.share / base.share:.0%} of the frames; steps back {climbed_s:.0f} s after",
        holds=steps > 0
        and fell_s <= 3.0
        and seen.share >= 0.9 * base.share
        and climbed_s < math.inf,
        figures={"lost": failed, "fell_s": fell_s, "during": asdict(seen)},
    )
