"""One session's avatar for several viewers."""

import asyncio

from server.alpha import WHOLE, Form
from server.broadcast import Broadcast
from server.tracks import AvatarTrack
from tests.fakes import driving_frame, one_rung
from tests.stage import staged


def test_every_viewer_gets_every_frame_and_a_stalled_one_loses_only_its_own() -> None:
    # Nothing is repeated while the test runs.
    with staged(ladder=one_rung(fps=0.01)) as stage:

        async def script() -> None:
            broadcast = Broadcast(stage.live)
            announce = stage.live.on_frame

            def ring() -> None:
                announce()
                stage.bell.ring()

            stage.live.on_frame = ring
            watching = [AvatarTrack(broadcast), AvatarTrack(broadcast)]
            stalled = AvatarTrack(broadcast)
            for track in (*watching, stalled):
                await track.recv()
            made = stage.live.counts()["playout", "out"]
            for number in range(1, 11):
                stage.clock.now_s += 200.0
                stage.live.feed(driving_frame(stage.clock.now_s))
                for track in watching:
                    await track.recv()
                assert stage.live.counts()["playout", "out"] == made + number, (
                    "pulled once for everybody"
                )
            assert [track.missed for track in watching] == [0, 0]
            await stalled.recv()
            assert stalled.missed == 9
            for track in watching:
                assert track.readyState == "live"

        asyncio.run(asyncio.wait_for(script(), 30))


def test_who_joins_later_starts_with_the_newest_frame() -> None:
    with staged() as stage:

        async def script() -> None:
            broadcast = Broadcast(stage.live)
            first, frame = broadcast.frame_after(0)
            assert broadcast.frame_after(0) == (first, frame)
            later, again = broadcast.frame_after(first)
            assert (later, again is frame) == (first + 1, True)
            late = AvatarTrack(broadcast)
            await late.recv()
            assert late.missed == 0

        asyncio.run(asyncio.wait_for(script(), 30))


def test_viewers_of_one_form_share_its_picture() -> None:
    with staged() as stage:

        async def script() -> None:
            broadcast = Broadcast(stage.live)
            number, frame = broadcast.frame_after(0)
            both = broadcast.picture(Form(alpha="sbs"))
            assert both.shape == (64, 128, 3)
            assert broadcast.picture(Form(alpha="sbs")) is both
            assert broadcast.picture(WHOLE) is frame.pixels
            broadcast.frame_after(number)
            assert broadcast.picture(Form(alpha="sbs")) is not both

        asyncio.run(asyncio.wait_for(script(), 30))
