"""Which lost packets are sent again."""

import pytest

from server.rtc_repeats import RepeatLimit

BPS = 1_000_000
SIZE_BYTES = 1000


def admitted(limit: RepeatLimit, *times: float, age_s: float = 0.1, granted_bps: int = BPS) -> int:
    return sum(
        limit.admits(SIZE_BYTES, age_s=age_s, granted_bps=granted_bps, now_s=now_s)
        for now_s in times
    )


def test_one_in_twenty_lost_twice_is_sent_again_twice() -> None:
    packets_per_s = BPS // (8 * SIZE_BYTES)
    times = [20 * number / packets_per_s for number in range(60)]
    assert admitted(RepeatLimit(), *[time_s for time_s in times for _ in range(2)]) == 120


def test_a_burst_is_sent_again_whole_where_there_is_room_for_it() -> None:
    assert admitted(RepeatLimit(), *[5.0] * 10) == 10
    assert admitted(RepeatLimit(), *[5.0] * 10, granted_bps=BPS // 10) < 10


@pytest.mark.parametrize("granted_bps", [BPS, BPS // 3])
def test_who_asks_without_end_is_sent_a_part_of_what_the_connection_can_take(
    granted_bps: int,
) -> None:
    limit = RepeatLimit()
    times = [number / 2000 for number in range(20_000)]  # of 10 s
    bits = 8 * SIZE_BYTES * admitted(limit, *times, granted_bps=granted_bps)
    assert bits / 10 == pytest.approx(0.15 * granted_bps, rel=0.15)


def test_what_is_late_is_not_sent_again_and_costs_no_room() -> None:
    limit = RepeatLimit()
    assert admitted(limit, *[5.0] * 100, age_s=0.6) == 0
    assert admitted(limit, *[5.0] * 10) == 10
