"""Figures of a stretch of time, from made-up notes."""

from __future__ import annotations

import pytest

from streaming.backend import Made
from streaming.figures import Shown, Stretch, busy_share, mean_steps, recovery_s, stretch, worst


def pictures(from_s: float, until_s: float, *, fps: float, age_s: float = 0.05) -> list[Shown]:
    count = round((until_s - from_s) * fps)
    return [Shown(from_s + (i + 0.5) / fps, age_s) for i in range(count)]


def made(ended_s: float, *, busy_s: float = 0.01, steps: int = 1, clips: int = 1) -> Made:
    times_s = (ended_s - busy_s,) * clips
    return Made(
        steps=steps,
        size_px=256,
        asked_s=times_s,
        due_s=times_s,
        started_s=ended_s - busy_s,
        ended_s=ended_s,
    )


def test_a_stretch_counts_its_own_pictures() -> None:
    shown = pictures(0, 10, fps=30, age_s=0.05) + pictures(10, 20, fps=15, age_s=0.08)
    first = stretch(shown, from_s=0, until_s=10)
    second = stretch(shown, from_s=10, until_s=20)
    assert (first.fps, first.p50_ms, first.p95_ms) == (30.0, 50.0, 50.0)
    assert (second.fps, second.p50_ms) == (15.0, 80.0)


def test_a_gap_counts_from_the_picture_before_the_stretch() -> None:
    shown = pictures(0, 10, fps=10) + pictures(11, 20, fps=10)
    assert stretch(shown, from_s=10.5, until_s=20).longest_gap_ms == pytest.approx(1100)
    assert stretch(shown, from_s=0, until_s=10).longest_gap_ms == pytest.approx(100)


def test_a_stretch_without_pictures_is_one_gap() -> None:
    assert stretch([], from_s=2, until_s=5) == Stretch(
        fps=0.0, p50_ms=None, p95_ms=None, longest_gap_ms=3000.0
    )


def test_the_worst_session_counts() -> None:
    good = Stretch(fps=30.0, p50_ms=40.0, p95_ms=90.0, longest_gap_ms=60.0)
    slow = Stretch(fps=20.0, p50_ms=50.0, p95_ms=80.0, longest_gap_ms=70.0)
    frozen = Stretch(fps=0.0, p50_ms=None, p95_ms=None, longest_gap_ms=9000.0)
    assert worst([good, slow]) == Stretch(fps=20.0, p50_ms=50.0, p95_ms=90.0, longest_gap_ms=70.0)
    assert worst([good, frozen]) == frozen


def test_the_device_is_busy_for_its_share_of_the_stretch() -> None:
    batches = [made(0.5, busy_s=0.2), made(1.1, busy_s=0.2), made(3.0, busy_s=1.0)]
    assert busy_share(batches, from_s=0, until_s=1) == 0.3


def test_steps_are_averaged_over_clips() -> None:
    batches = [made(0.1, steps=2, clips=3), made(0.2, steps=0), made(1.5, steps=4)]
    assert mean_steps(batches, from_s=0, until_s=1) == 1.5
    assert mean_steps(batches, from_s=5, until_s=6) is None


def recovery(
    shown: list[Shown], *, steps_after: int = 1, other: list[Shown] | None = None
) -> float | None:
    batches = [made(at_s, steps=1) for at_s in range(1, 10)]
    batches += [made(20 + 0.1 * i, steps=steps_after) for i in range(100)]
    return recovery_s(
        [shown, shown if other is None else other],
        batches,
        good_s=(0, 10),
        from_s=20,
        until_s=30,
    )


def test_recovery_is_when_rate_latency_and_steps_are_back() -> None:
    before, during = pictures(0, 10, fps=30), pictures(10, 22, fps=15)
    later, slower = pictures(22, 30, fps=30), pictures(22, 30, fps=30, age_s=0.1)
    assert recovery(before + during + later) == pytest.approx(1.9, abs=0.11)
    assert recovery(before + during + slower) is None
    assert recovery(before + during + later, steps_after=0) is None
    assert recovery(pictures(0, 30, fps=30)) == 0.0


def test_recovery_waits_for_the_last_session() -> None:
    steady = pictures(0, 30, fps=30)
    other = pictures(0, 10, fps=30) + pictures(10, 24, fps=10) + pictures(24, 30, fps=30)
    assert recovery(steady, other=other) == pytest.approx(3.9, abs=0.11)
