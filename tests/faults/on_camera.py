"""Rows of the camera: hidden, frozen, turned, or with somebody else before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from PIL import Image

from mimaface.motion import FaceMeshExtractor
from mimaface.types import Pixels
from tests.faults.bench import Bench, Outcome, Row, elapse, judge, settle
from tests.faults.watched import FPS


def hidden(show: Callable[[Bench, int], Pixels], *, told_s: float) -> Row:
    """Return the row of a camera that shows no driver for a while."""

    async def row(bench: Bench) -> Outcome:
        async with bench.call() as call:
            base = await elapse(call, 1.0)
            call.show, call.is_numbered = lambda number: show(bench, number), False
            start_s = time.monotonic()
            lost_s = await call.until(lambda: call.state() == "lost", within_s=5) - start_s
            await asyncio.sleep(3.0)
            still_s = call.still_since_s() - start_s
            call.show, call.is_numbered = bench.face, True
            start_s = time.monotonic()
            live_s = await call.until(lambda: call.state() == "live", within_s=5) - start_s
            await asyncio.sleep(1.0)
        return Outcome(
            measured=f"told after {lost_s:.2f} s, avatar at rest after {still_s:.2f} s, "
            f"live again in {live_s:.2f} s",
            holds=lost_s <= told_s and still_s <= told_s + 0.6 and live_s <= 1.0,
            figures={"base": asdict(base), "lost_s": lost_s, "still_s": still_s, "live_s": live_s},
        )

    return row


def black(bench: Bench, number: int) -> Pixels:
    noise = np.random.default_rng(number).integers(0, 5, bench.faces[0].shape)
    return noise.astype(np.uint8)


def nobody(bench: Bench, number: int) -> Pixels:
    noise = np.random.default_rng(number).integers(0, 9, bench.faces[0].shape)
    return (np.full(bench.faces[0].shape, 100) + noise).astype(np.uint8)


def frozen(bench: Bench, _number: int) -> Pixels:
    return bench.faces[0]


async def sizes(bench: Bench) -> Outcome:
    """Send a larger picture, then an upright one as of a phone that was turned."""

    def large(number: int) -> Pixels:
        return np.asarray(Image.fromarray(bench.face(number)).resize((640, 480)))

    def upright(number: int) -> Pixels:
        return np.pad(bench.face(number)[:, 40:280], ((0, 80), (0, 0), (0, 0)))

    async with bench.call() as call:
        base = await elapse(call, 2.0)
        start_s = time.monotonic()
        for show in (large, upright, bench.face):
            call.show = show
            await asyncio.sleep(2.0)
        end_s = time.monotonic()
        back_s = await settle(call, base)
        return judge(call.seen(start_s, end_s), base, back_s, share=0.9)


async def clock_jump(bench: Bench) -> Outcome:
    async with bench.call() as call:
        base = await elapse(call, 2.0)
        start_s = time.monotonic()
        for offset_s in (3600.0, 0.0):
            call.clock_offset_s = offset_s
            await asyncio.sleep(2.0)
        end_s = time.monotonic()
        back_s = await settle(call, base)
        return judge(call.seen(start_s, end_s), base, back_s, share=0.9)


async def two_faces(bench: Bench) -> Outcome:
    """Let somebody come in beside the driver, and the driver be hidden for a moment."""
    jump = await asyncio.to_thread(_longest_jump, bench)
    return Outcome(
        measured=f"the followed face moved at most {jump:.2f} of the picture's width in a frame",
        holds=jump < 0.1,
        figures={"jump": jump},
    )


def _longest_jump(bench: Bench) -> float:
    # The driver at the left all the time but for 0.4 s, somebody at the right after a second.
    extractor = FaceMeshExtractor()
    places = []
    try:
        for number in range(4 * FPS):
            half = Image.fromarray(bench.face(number)).crop((40, 20, 280, 240)).resize((320, 293))
            picture = Image.new("RGB", (640, 480), (96, 100, 104))
            if not 2 * FPS <= number < 2.4 * FPS:
                picture.paste(half, (0, 90))
            if number >= FPS:
                picture.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (320, 90))
            motion = extractor.extract(number / FPS, np.asarray(picture))
            if motion.valid[0]:
                places.append(float(motion.landmarks[0, :, 0].mean()))
    finally:
        extractor.close()
    return float(np.abs(np.diff(places)).max())
