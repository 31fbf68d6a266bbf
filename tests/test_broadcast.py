"""One session's avatar for several viewers."""

import asyncio

from server.broadcast import Broadcast
from server.tracks import AvatarTrack
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from tests.fakes import Bell, Clock, Extractor, driving_frame, one_rung, paint, portrait


def test_every_viewer_gets_every_frame_and_a_stalled_one_loses_only_its_own() -> None:
    clock, bell = Clock(), Bell()
    backend = LocalBackend(paint, clock=clock)
    live = LiveSession(
        "test",
        portrait(10),
        extractor=Extractor,
        backend=backend,
        clock=clock,
        new_frames=1,
        ladder=one_rung(fps=0.01),  # nothing is repeated while the test runs
    )

    async def script() -> None:
        broadcast = Broadcast(live)
        announce = live.on_frame

        def ring() -> None:
            announce()
            bell.ring()

        live.on_frame = ring
        watching = [AvatarTrack(broadcast), AvatarTrack(broadcast)]
        stalled = AvatarTrack(broadcast)
        for track in (*watching, stalled):
            await track.recv()
        made = live.counts()["playout", "out"]
        for number in range(1, 11):
            clock.now_s += 200.0
            live.feed(driving_frame(clock.now_s))
            for track in watching:
                await track.recv()
            assert live.counts()["playout", "out"] == made + number, "pulled once for everybody"
        assert [track.missed for track in watching] == [0, 0]
        await stalled.recv()
        assert stalled.missed == 9
        for track in watching:
            assert track.readyState == "live"

    try:
        asyncio.run(asyncio.wait_for(script(), 30))
    finally:
        live.close()
        backend.close()


def test_who_joins_later_starts_with_the_newest_frame() -> None:
    clock = Clock()
    backend = LocalBackend(paint, clock=clock)
    live = LiveSession(
        "test",
        portrait(10),
        extractor=Extractor,
        backend=backend,
        clock=clock,
        new_frames=1,
        ladder=one_rung(),
    )

    async def script() -> None:
        broadcast = Broadcast(live)
        first, frame = broadcast.frame_after(0)
        assert broadcast.frame_after(0) == (first, frame)
        later, again = broadcast.frame_after(first)
        assert (later, again is frame) == (first + 1, True)
        late = AvatarTrack(broadcast)
        await late.recv()
        assert late.missed == 0

    try:
        asyncio.run(script())
    finally:
        live.close()
        backend.close()
