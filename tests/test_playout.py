"""When each avatar frame is shown."""

import numpy as np
import pytest

from streaming.playout import Playout
from streaming.types import AvatarFrame


def frame(time_s: float, shade: int = 0) -> AvatarFrame:
    return AvatarFrame(time_s=time_s, pixels=np.full((8, 8, 3), shade, np.uint8))


STILL = frame(0.0, 50)


def test_the_still_portrait_is_shown_until_the_first_frame() -> None:
    playout = Playout(STILL, new_frames=1)
    assert playout.pull(0.0) is STILL
    other = frame(0.0, 60)
    playout.change_still(other)
    assert playout.pull(0.1) is other


def test_a_frame_is_shown_as_soon_as_it_is_there() -> None:
    playout = Playout(STILL, new_frames=1)
    first = frame(1.0)
    playout.put([first], now_s=1.02)
    assert playout.pull(1.02) is first


def test_the_last_frame_is_repeated_and_counted_when_none_comes() -> None:
    playout = Playout(STILL, new_frames=1)
    first = frame(1.0)
    playout.put([first], now_s=1.0)
    assert [playout.pull(now_s) for now_s in (1.0, 1.1, 9.0)] == [first] * 3
    assert playout.repeated == 2


def test_a_changed_still_never_hides_a_generated_frame() -> None:
    playout = Playout(STILL, new_frames=1)
    first = frame(1.0)
    playout.put([first], now_s=1.0)
    playout.pull(1.0)
    playout.change_still(frame(0.0, 60))
    assert playout.pull(1.1) is first


def test_a_late_pull_shows_the_newest_frame_and_counts_the_older() -> None:
    playout = Playout(STILL, new_frames=1)
    newest = frame(1.1)
    playout.put([frame(1.0)], now_s=1.0)
    playout.put([newest], now_s=1.1)
    assert playout.pull(1.2) is newest
    assert playout.dropped == 1


def test_the_frames_of_a_chunk_keep_their_spacing() -> None:
    playout = Playout(STILL, new_frames=4)
    chunk = [frame(5.0 + i / 10) for i in range(4)]
    playout.put(chunk, now_s=7.0)
    shown = [playout.pull(7.0 + i / 10 + 0.01) for i in range(4)]
    assert shown == chunk
    assert (playout.repeated, playout.dropped) == (0, 0)


def test_an_early_chunk_waits_for_the_end_of_the_one_before() -> None:
    playout = Playout(STILL, new_frames=2)
    first, second = [frame(5.0), frame(5.1)], [frame(5.2), frame(5.3)]
    playout.put(first, now_s=7.0)
    playout.put(second, now_s=7.05)
    shown = [playout.pull(7.0 + i / 10 + 0.01) for i in range(4)]
    assert shown == first + second


def test_a_late_chunk_starts_when_it_arrives() -> None:
    playout = Playout(STILL, new_frames=2)
    playout.put([frame(5.0), frame(5.1)], now_s=7.0)
    playout.pull(7.15)
    late = frame(5.2)
    playout.put([late, frame(5.3)], now_s=7.5)
    assert playout.pull(7.5) is late


def test_a_delay_that_was_caught_once_does_not_stay() -> None:
    playout = Playout(STILL, new_frames=3)
    arrivals_s = {chunk / 10 + (0.09 if chunk == 2 else 0.0): chunk for chunk in range(20)}
    waited_s = []
    for now_s in sorted({*arrivals_s, *(tick / 200 for tick in range(1, 400))}):
        if now_s in arrivals_s:
            start_s = arrivals_s[now_s] / 10
            playout.put([frame(start_s + i / 30) for i in range(3)], now_s)
        waited_s.append(now_s - playout.pull(now_s).time_s)
    assert max(waited_s[40:60]) > 0.09
    assert max(waited_s[250:]) < 2 / 30 + 0.01
    assert playout.dropped == 0


def test_it_tells_when_the_next_frame_is_due_and_how_long_one_waited() -> None:
    playout = Playout(STILL, new_frames=2)
    assert playout.due_s is None
    playout.put([frame(5.0), frame(5.1)], now_s=7.0)
    playout.pull(7.02)
    assert (playout.due_s, playout.waited_s) == (pytest.approx(7.1), pytest.approx(0.02))
    assert playout.span_s == pytest.approx(0.1)
    playout.pull(7.15)
    assert (playout.due_s, playout.waited_s) == (None, pytest.approx(0.15))
    assert playout.shown == 2


@pytest.mark.parametrize("new_frames", [1, 4])
def test_more_than_two_chunks_never_wait(new_frames: int) -> None:
    playout = Playout(STILL, new_frames=new_frames)
    for chunk in range(5):
        playout.put([frame(chunk + i / 30) for i in range(new_frames)], now_s=1.0)
    assert playout.dropped == 3 * new_frames
    assert playout.pull(1e9).time_s == 4 + (new_frames - 1) / 30
