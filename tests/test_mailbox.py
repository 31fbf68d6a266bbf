"""Which driving frames are looked at."""

import numpy as np
import pytest

from streaming.mailbox import Mailbox, Pace
from tests.fakes import driving_frame


def put(mailbox: Mailbox, *times: float, fps: float = 30) -> None:
    for time_s in times:
        mailbox.put(driving_frame(time_s), fps)


def taken(mailbox: Mailbox) -> list[float]:
    return [frame.time_s for frame in iter(mailbox.take, None)]


def test_a_frame_that_waits_gives_way_to_a_newer_one() -> None:
    mailbox = Mailbox()
    put(mailbox, 0.0, 0.033, 0.066)
    assert taken(mailbox) == [0.066]
    assert (mailbox.fed, mailbox.dropped) == (3, 2)


@pytest.mark.parametrize("camera_fps", [24, 30, 60])
@pytest.mark.parametrize("fps", [10, 15, 20, 25, 30])
def test_whoever_is_slow_has_the_newest_frames_whatever_the_rates(
    camera_fps: int, fps: int
) -> None:
    mailbox, free_s, ages_s = Mailbox(), 0.0, []
    for number in range(600):
        time_s = number / camera_fps
        put(mailbox, time_s, fps=fps)
        if time_s >= free_s and (frame := mailbox.take()):
            ages_s.append(time_s - frame.time_s)
            free_s = time_s + 0.08
    assert max(ages_s) <= 1.5 / fps


def test_frames_that_come_together_are_kept_in_their_order_three_at_most() -> None:
    mailbox = Mailbox()
    put(mailbox, 0.0)
    mailbox.take()
    put(mailbox, 0.200, 0.201, 0.202, 0.203)
    assert taken(mailbox) == [0.200, 0.201, 0.203]
    assert (mailbox.fed, mailbox.dropped) == (5, 1)


def test_frames_that_came_together_have_the_time_to_be_taken_one_after_the_other() -> None:
    mailbox = Mailbox()
    put(mailbox, 0.0)
    mailbox.take()
    put(mailbox, 0.100, 0.101, 0.102)
    mailbox.take()
    mailbox.take()
    put(mailbox, 0.133)
    assert taken(mailbox) == [0.102, 0.133]
    assert mailbox.dropped == 0


def test_frames_that_came_together_and_nobody_took_give_way() -> None:
    mailbox = Mailbox()
    put(mailbox, 0.0)
    mailbox.take()
    put(mailbox, 0.100, 0.101, 0.102, 0.166)
    assert taken(mailbox) == [0.166]
    assert mailbox.dropped == 3


@pytest.mark.parametrize("fps", [30, 25, 20, 15])
def test_so_many_frames_pass_however_unevenly_they_come(fps: int) -> None:
    random = np.random.default_rng(1)
    pace = Pace()
    times = np.arange(3000) / 30 + random.uniform(-0.005, 0.005, 3000)
    passed = [time_s for time_s in times if pace.admits(float(time_s), fps)]
    assert len(passed) == pytest.approx(100 * fps, rel=0.02)
    assert max(np.diff(passed)) < 2 / fps + 0.02


def test_frames_that_were_held_back_find_their_places_still_free() -> None:
    pace = Pace()
    times = (0.0, 0.100, 0.101, 0.102, 0.103, 0.133)
    assert [pace.admits(time_s, 30) for time_s in times] == [True, True, True, True, False, True]


@pytest.mark.parametrize("camera_fps", [15, 24, 25, 29.97, 30])
def test_of_a_camera_that_is_no_faster_none_is_left_out_when_some_are_held_back(
    camera_fps: float,
) -> None:
    pace = Pace()
    captured = np.arange(900) / camera_fps
    # Of every 20 frames three are held back and come with the fourth, as after a lost packet.
    held = 15 - np.arange(900) % 20
    is_late = (held > 0) & (held < 4)
    arrived = captured + np.where(is_late, held / camera_fps - 0.001 * held, 0.0)
    assert all(pace.admits(time_s, 30) for time_s in arrived)


def test_after_a_pause_no_frames_are_made_up_for() -> None:
    pace = Pace()
    assert pace.admits(1.0, 20)
    assert [pace.admits(100 + i / 100, 20) for i in range(6)] == [
        *(True, False, False, False),
        *(True, False),
    ]
