"""When what arrives was sent, by the sender's own reports."""

from fractions import Fraction

import av
import pytest

from server.sender_clock import Arrivals, SenderClock

SECOND = 1 << 32  # in NTP timestamps


def picture(pts: int) -> av.VideoFrame:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.pts, frame.time_base = pts, Fraction(1, 90_000)
    return frame


def test_timestamps_count_on_when_they_wrap() -> None:
    clock = SenderClock()
    timestamps = [2**32 - 3000, 0, 3000, 2**31, 2**32 - 1, 5]
    assert [clock.map(timestamp) for timestamp in timestamps] == [
        0,
        3000,
        6000,
        2**31 + 3000,
        2**32 + 2999,
        2**32 + 3005,
    ]


def test_a_report_places_frames_before_and_after_it() -> None:
    clock = SenderClock()
    assert clock.sent_s(picture(0)) is None
    clock.map(2**32 - 9000)
    clock.report(1000 * SECOND + SECOND // 2, 81_000, clock_rate=90_000)  # 1 s after the first
    assert clock.sent_s(picture(0)) == pytest.approx(999.5)
    assert clock.sent_s(picture(135_000)) == pytest.approx(1001.0)


def test_one_late_report_changes_nothing() -> None:
    clock = SenderClock()
    clock.map(0)
    for second in range(5):
        late = SECOND // 4 if second == 3 else 0
        clock.report((1000 + second) * SECOND + late, second * 90_000, clock_rate=90_000)
        assert clock.sent_s(picture(90_000)) == pytest.approx(1001.0)


def test_a_report_from_before_a_pause_is_not_used() -> None:
    clock = SenderClock()
    clock.map(0)
    clock.report(1000 * SECOND, 0, clock_rate=90_000)
    clock.forget_reports()
    assert clock.sent_s(picture(0)) is None


def test_sound_belongs_to_the_frames_it_was_sent_with() -> None:
    arrivals = Arrivals()
    for count in range(20):
        arrivals.add_frame(50.06 + count / 30, 1000 + count / 30)  # pictures take 60 ms
    assert arrivals.place(50.02, 1000.0) == pytest.approx(50.06)


@pytest.mark.parametrize("sent_s", [None, 1000.7])
def test_without_a_report_to_believe_sound_belongs_to_what_arrives_with_it(
    sent_s: float | None,
) -> None:
    arrivals = Arrivals()
    arrivals.add_frame(50.06, 1000.0)
    assert arrivals.place(50.02, sent_s) == 50.02


def test_before_a_picture_came_sound_belongs_to_its_own_arrival() -> None:
    assert Arrivals().place(50.02, 1000.0) == 50.02
