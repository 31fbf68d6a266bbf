"""Figures over the last few seconds."""

import pytest

from streaming.metrics import SPAN_S, Quantiles, Recent


def test_a_steady_rate_is_told_from_early_on() -> None:
    recent = Recent()
    for frame in range(300):
        recent.add(frame / 30)
        if frame in (30, 89, 299):
            assert recent.rate(frame / 30) == pytest.approx(30, rel=0.05)


def test_the_rate_falls_to_nothing_when_nothing_happens() -> None:
    recent = Recent()
    for frame in range(30):
        recent.add(frame / 30)
    assert recent.rate(1 + SPAN_S) == 0


def test_quantiles_are_those_of_the_last_seconds_in_milliseconds() -> None:
    recent = Recent()
    recent.add(0.0, 9.0)
    for i in range(101):
        recent.add(10.0, i / 1000)
    assert recent.quantiles_ms(10.0) == Quantiles(p50=50.0, p95=95.0)


def test_without_samples_there_are_no_figures() -> None:
    assert Recent().rate(5.0) == 0
    assert Recent().quantiles_ms(5.0) == Quantiles(p50=None, p95=None)


def test_memory_is_bounded_at_any_rate() -> None:
    recent = Recent()
    for _ in range(100_000):
        recent.add(1.0, 0.5)
    assert recent.rate(1.0) < 10_000
