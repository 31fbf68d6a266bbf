"""What the outputs show and sound: the call on air, and a quiet picture while there is none.

It knows no camera, file or network; those are the outputs' own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from mimaface.types import Pixels
from server.registry import Call
from server.sound import Listener
from server.tracks import PIECE, RATE, Samples, SoundTrack

_IDLE_S: Final = 0.2  # between two looks for a call, and two pictures while there is none


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that goes out.

    Attributes:
        time_s: when it was shown, on the server's clock.
        pixels: uint8 [H, W, 3]; nobody writes into it.
        portrait: the still that belongs to it, uint8 [H, W, 3], to fill what it leaves free.
        call: short name of the call it is of; None while nothing is on air.
        missed: pictures of that call between the one before and this one.
    """

    time_s: float
    pixels: Pixels
    portrait: Pixels
    call: str | None
    missed: int = 0


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Sound that goes out.

    Attributes:
        time_s: when its first sample is heard, on the server's clock.
        samples: int16 [N], mono, `RATE` samples a second.
    """

    time_s: float
    samples: Samples


def call_on_air(calls: Iterable[Call], before: Call | None) -> Call | None:
    """Return the newest call that is driven.

    While none is, the one that was on air `before` stays as long as its driver may come back.
    """
    held = list(calls)
    driven = [call for call in held if call.peer is not None]
    if driven:
        return driven[-1]
    return next((call for call in held if call is before), None)


async def pictures(calls: Iterable[Call], idle: Pixels) -> AsyncIterator[Picture]:
    """Yield each picture when it is shown, without end; `idle` while nothing is on air."""
    loop = asyncio.get_running_loop()
    call: Call | None = None
    is_fresh, number = asyncio.Event(), 0
    while True:
        before, call = call, call_on_air(calls, call)
        if call is None:
            yield Picture(time_s=loop.time(), pixels=idle, portrait=idle, call=None)
            await asyncio.sleep(_IDLE_S)
            continue
        if call is not before:
            is_fresh, number = call.broadcast.join(), 0
        else:
            try:
                async with asyncio.timeout(call.broadcast.patience_s()):
                    await is_fresh.wait()
            except TimeoutError:
                pass
            if call_on_air(calls, call) is not call:
                continue
        last, (number, shown) = number, call.broadcast.frame_after(number)
        is_fresh.clear()
        yield Picture(
            time_s=loop.time(),
            pixels=shown.pixels,
            portrait=call.source.appearance.source,
            call=call.id[:6],
            missed=number - last - 1 if last else 0,
        )


def sound_track(calls: Iterable[Call]) -> SoundTrack:
    """Return a track of the voice on air, silent while there is none."""
    read = _voice(calls)
    return SoundTrack(read)


async def pieces(calls: Iterable[Call]) -> AsyncIterator[Piece]:
    """Yield the sound on air, 20 ms at a time when they are due, without end."""
    track = sound_track(calls)
    start_s = asyncio.get_running_loop().time()
    while True:
        frame = await track.recv()
        assert frame.pts is not None, "the track counts its samples"
        yield Piece(time_s=start_s + frame.pts / RATE, samples=frame.to_ndarray()[0])


def _voice(calls: Iterable[Call]) -> Callable[[float], Samples]:
    call: Call | None = None
    listener: Listener | None = None

    def read(now_s: float) -> Samples:
        nonlocal call, listener
        before, call = call, call_on_air(calls, call)
        if call is None:
            return np.zeros(PIECE, np.int16)
        if listener is None or call is not before:
            listener = Listener(call.sound)
        return listener.next_piece(now_s)

    return read
