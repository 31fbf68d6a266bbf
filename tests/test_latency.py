"""The latency contract of a live session: what is measured, dropped and given up for it."""

import threading
from collections.abc import Sequence

import pytest

from mimaface.types import Clip, ClipRequest, Pixels
from streaming.backend import Made
from streaming.ladder import Ladder, Rung, rungs_for
from streaming.types import DrivingFrame
from tests.fakes import Extractor, driving_frame, one_rung, paint
from tests.stage import Stage, staged


def test_the_stages_are_timed_on_the_sessions_clock() -> None:
    stage: Stage

    def look(_time_s: float, _rgb: Pixels) -> None:
        stage.clock.now_s += 0.010

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        stage.clock.now_s += 0.020
        return paint(requests)

    with staged(animate, extractor=lambda: Extractor(look)) as stage:
        told: dict[str, list[float]] = {}
        stage.live.on_timed = lambda name, seconds: told.setdefault(name, []).append(seconds)
        for _ in range(5):
            stage.drive()
        stats = stage.live.stats(stage.clock.now_s)
        assert (stats.motion_ms.p50, stats.motion_ms.p95) == (10.0, 10.0)
        assert (stats.render_ms.p50, stats.server_ms.p50) == (20.0, 30.0)
        assert (stats.queue_ms.p50, stats.playout_ms.p50) == (0.0, 0.0)
        assert stats.dropped == 0
        assert told["render"] == pytest.approx([0.020] * 5)
        assert told.keys() == {"wait", "motion", "queue", "render", "playout", "server"}


def test_a_frame_older_than_the_budget_is_dropped_unopened() -> None:
    def refuse() -> Pixels:
        raise AssertionError("this picture is too old to be looked at")

    ladder = Ladder([Rung(steps=0, fps=30)], deadline_s=0.12)
    with staged(ladder=ladder) as stage:
        stage.drive()
        stage.clock.now_s += 0.2
        stage.live.feed(DrivingFrame(time_s=stage.clock.now_s - 0.13, rgb=refuse))
        stage.bell.wait_for(lambda: stage.live.stats(stage.clock.now_s).dropped == 1)
        stage.drive()
        stats = stage.live.stats(stage.clock.now_s)
        assert (stats.failed, stats.dropped, len(stage.extractor.times)) == (0, 1, 2)
        assert stage.live.counts() == {
            ("track", "in"): 3,
            ("track", "dropped"): 1,
            ("infer", "dropped"): 0,
            ("playout", "out"): 2,
            ("playout", "dropped"): 0,
            ("playout", "repeated"): stats.repeated,
        }


def test_a_clip_is_wanted_before_its_driving_frame_is_too_old() -> None:
    made: list[Made] = []
    ladder = Ladder([Rung(steps=0, fps=30)], deadline_s=0.12)
    with staged(ladder=ladder, on_made=made.append) as stage:
        stage.drive()
        assert made[0].due_s == (stage.extractor.times[0] + 0.12,)


def test_the_frames_of_a_chunk_are_due_one_after_the_other() -> None:
    with staged(new_frames=3) as stage:
        assert stage.live.due_s is None
        for count in range(3):
            stage.clock.now_s = 101 + count / 30
            stage.live.feed(driving_frame(stage.clock.now_s))
            stage.bell.wait_for(lambda count=count: len(stage.extractor.times) == count + 1)
        stage.bell.wait_for(lambda: stage.live.due_s is not None)
        made_s = stage.clock.now_s
        for count in range(3):
            assert stage.live.due_s == pytest.approx(made_s + count / 30)
            stage.clock.now_s = made_s + (count + 0.1) / 30
            assert stage.live.pull(stage.clock.now_s).time_s == pytest.approx(101 + count / 30)
        assert stage.live.due_s is None


def test_the_time_it_takes_to_gather_a_chunk_does_not_count_as_load() -> None:
    ladder = Ladder(rungs_for([1, 0], fps=30), deadline_s=0.12)
    with staged(new_frames=7, ladder=ladder) as stage:
        for count in range(70):
            stage.clock.now_s = 101 + count / 30
            stage.live.feed(driving_frame(stage.clock.now_s))
            stage.bell.wait_for(lambda count=count: len(stage.extractor.times) == count + 1)
            is_last = count % 7 == 6
            if is_last:
                stage.bell.wait_for(lambda: stage.live.due_s is not None)
            stage.live.pull(stage.clock.now_s)
        stats = stage.live.stats(stage.clock.now_s)
        assert stats.server_ms.p50 is not None
        assert stats.server_ms.p50 > 190
        assert (stats.rung, ladder.switches) == (0, 0)


def test_late_frames_take_steps_away_and_room_brings_them_back() -> None:
    stage: Stage
    is_slow = threading.Event()
    steps: list[int] = []

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        steps.append(requests[0].steps)
        stage.clock.now_s += 0.2 if is_slow.is_set() and requests[0].steps else 0.002
        return paint(requests)

    with staged(animate, ladder=Ladder(rungs_for([1, 0], fps=30), deadline_s=0.12)) as stage:
        for _ in range(10):
            stage.drive()
        is_slow.set()
        for _ in range(4):
            stage.drive()
        stats = stage.live.stats(stage.clock.now_s)
        assert (stats.rung, stats.steps, stats.most_fps) == (2, 0, 30)
        assert steps == [*[1] * 12, 0, 0]
        is_slow.clear()
        while stage.live.rung.steps == 0:
            stage.drive()
        stage.drive()
        assert (steps[-1], stage.live.stats(stage.clock.now_s).rung) == (1, 0)
        assert 3 * 25 < len(steps) < 5 * 30


def test_a_rung_of_fewer_frames_leaves_driving_frames_out() -> None:
    with staged(ladder=one_rung(fps=15)) as stage:
        for _ in range(5):
            stage.drive()
            stage.clock.now_s += 1 / 30
            stage.live.feed(driving_frame(stage.clock.now_s))
        assert len(stage.extractor.times) == 5
        stats = stage.live.stats(stage.clock.now_s)
        assert (stats.dropped, stats.most_fps) == (5, 15)
