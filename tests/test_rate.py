"""How often somebody may ask."""

from server.rate import RateLimit


def test_a_bucket_empties_and_is_refilled_evenly() -> None:
    rate = RateLimit(6)
    assert [rate.wait_s("a", 0.0) for _ in range(6)] == [0.0] * 6
    assert rate.wait_s("a", 0.0) == 10.0
    assert rate.wait_s("a", 4.0) == 6.0
    assert rate.wait_s("b", 4.0) == 0.0, "everybody has a bucket of their own"
    assert rate.wait_s("a", 10.0) == 0.0
    assert rate.wait_s("a", 10.0) == 10.0
    assert [rate.wait_s("a", 1000.0) for _ in range(7)] == [0.0] * 6 + [10.0]


def test_who_was_quiet_for_longest_is_forgotten() -> None:
    rate = RateLimit(1)
    assert rate.wait_s("first", 0.0) == 0.0
    assert rate.wait_s("first", 0.0) > 0.0
    for number in range(4096):
        rate.wait_s(str(number), 0.0)
    assert rate.wait_s("first", 0.0) == 0.0
