"""What is on air: the newest driven call, its last picture, or the idle one."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np

from server.broadcast import Broadcast
from server.program import Picture, call_on_air, pictures, pieces
from server.registry import Call, Source
from server.tracks import PIECE, RATE
from tests.fakes import SimulatedLoop, driving_frame, portrait
from tests.stage import Stage, staged

IDLE = np.zeros((64, 64, 3), np.uint8)


def call(stage: Stage, name: str, *, is_driven: bool = True) -> Call:
    driver: Any = "somebody"
    appearance = portrait(10)
    source = Source(id=name, name=name, jpeg=b"", appearance=appearance, is_private=False)
    return Call(
        id=name,
        public_id=f"public {name}",
        source=source,
        live=stage.live,
        broadcast=Broadcast(stage.live),
        expires_s=math.inf,
        ttl_s=60.0,
        peer=driver if is_driven else None,
    )


def test_the_newest_driven_call_is_on_air_and_stays_while_its_driver_may_come_back() -> None:
    with staged() as stage:

        async def script() -> None:
            first, second = call(stage, "first"), call(stage, "second")
            waiting = call(stage, "waiting", is_driven=False)
            assert call_on_air([], None) is None
            assert call_on_air([waiting], None) is None
            assert call_on_air([first, second, waiting], first) is second
            second.peer = None
            assert call_on_air([first, second], second) is first
            first.peer = None
            assert call_on_air([first, second], second) is second
            assert call_on_air([first], second) is None

        asyncio.run(script())


def test_pictures_follow_the_call_on_air_and_idle_without_one() -> None:
    with staged() as stage:

        async def script() -> None:
            calls: list[Call] = []
            shown = pictures(calls, IDLE)
            idle = await anext(shown)
            assert (idle.call, idle.pixels is IDLE) == (None, True)
            calls.append(call(stage, "someone"))
            still = await _next_of(shown, "someon")
            assert still.pixels[0, 0, 0] == 10
            assert still.portrait is calls[0].source.appearance.source
            stage.clock.now_s += 1 / 30
            stage.live.feed(driving_frame(stage.clock.now_s + 1e-6))
            while (moving := await anext(shown)).pixels[0, 0, 0] != 11:
                pass
            assert moving.time_s > still.time_s > idle.time_s
            calls.clear()
            assert (await _next_of(shown, None)).pixels is IDLE

        asyncio.run(asyncio.wait_for(script(), 30))


def test_who_is_slow_is_told_how_many_pictures_it_missed() -> None:
    with staged() as stage:

        async def script() -> None:
            on_air = call(stage, "someone")
            shown = pictures([on_air], IDLE)
            assert (await anext(shown)).missed == 0
            number = 1
            for _ in range(3):
                number, _ = on_air.broadcast.frame_after(number)
            assert (await anext(shown)).missed == 2

        asyncio.run(asyncio.wait_for(script(), 30))


def test_sound_goes_on_when_nothing_is_on_air() -> None:
    async def script() -> None:
        heard = pieces([])
        first, second = await anext(heard), await anext(heard)
        assert not first.samples.any()
        assert len(first.samples) == PIECE
        assert round((second.time_s - first.time_s) * RATE) == PIECE

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(script())


async def _next_of(shown: Any, name: str | None) -> Picture:
    async for picture in shown:
        if picture.call == name:
            return picture
    raise AssertionError("pictures have no end")
