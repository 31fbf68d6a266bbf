"""A live session: what it shows, when, and what it never waits for."""

import gc
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mimaface.motion import MotionExtractor
from mimaface.types import Appearance, Clip, ClipRequest, Motion, Pixels
from streaming.backend import Made
from streaming.ladder import Ladder, Rung
from streaming.types import DrivingFrame
from tests.fakes import Extractor, driving_frame, paint, portrait
from tests.stage import Stage, staged


def test_the_portrait_is_shown_until_the_first_avatar_frame() -> None:
    with staged() as stage:
        assert (stage.pull(), stage.state()) == (10, "waiting")
        stage.drive()
        assert stage.pull() == 11


def test_the_first_second_calibrates_and_then_the_session_is_live() -> None:
    with staged() as stage:
        stage.drive()
        assert stage.state() == "calibrating"
        stage.calibrate()
        assert stage.state() == "live"
        stage.live.recalibrate()
        assert (stage.state(), stage.live.calibration) == ("calibrating", 0.0)
        stage.calibrate()
        assert stage.state() == "live"


def looked_at(*times: float) -> tuple[list[float], int]:
    """Feed frames, the first of which keeps the extractor busy; return those seen, and the rest."""
    is_busy, go_on = threading.Event(), threading.Event()

    def look(_time_s: float, _rgb: Pixels) -> None:
        is_busy.set()
        assert go_on.wait(20)

    extractor = Extractor(look)
    with staged(extractor=lambda: extractor) as stage:
        stage.live.feed(driving_frame(times[0]))
        assert is_busy.wait(20)
        for time_s in times[1:]:
            stage.live.feed(driving_frame(time_s))
        go_on.set()
        stage.bell.wait_for(lambda: times[-1] in extractor.times)
        return extractor.times, stage.live.counts()["track", "dropped"]


def test_the_newest_driving_frame_wins_and_feeding_never_waits() -> None:
    assert looked_at(100.1, 100.2, 100.3, 100.4) == ([100.1, 100.4], 2)


def test_without_a_camera_the_avatar_eases_on_by_itself_and_comes_back() -> None:
    with staged() as stage:
        stage.calibrate()
        stage.clock.now_s += 0.5
        stage.wait_for_state("lost")
        for _ in range(3):  # the session makes its own frames, each at a new time
            before = stage.live.pull(stage.clock.now_s).time_s
            stage.clock.now_s += 0.1
            stage.bell.wait_for(
                lambda before=before: stage.live.pull(stage.clock.now_s).time_s > before
            )
        stage.drive()
        assert stage.state() == "live"


def test_a_frame_without_a_face_is_lost() -> None:
    with staged() as stage:
        stage.calibrate()
        for _ in range(11):
            stage.drive(shade=0)
        assert stage.state() == "lost"


def test_a_short_blink_of_the_tracker_is_not_lost() -> None:
    with staged() as stage:
        stage.calibrate()
        stage.drive(shade=0)
        assert stage.state() == "live"


def test_without_a_face_for_long_nothing_is_made_until_one_comes_back() -> None:
    made: list[Made] = []
    with staged(on_made=made.append) as stage:
        stage.calibrate()

        def wait(seconds: float) -> list[int]:
            """Return how many clips were made and frames looked at meanwhile."""
            before = len(made), len(stage.extractor.times)
            for _ in range(round(30 * seconds)):
                stage.clock.now_s += 1 / 30
                stage.live.feed(driving_frame(stage.clock.now_s, shade=0))
                stage.bell.wait_for(stage.is_idle)
            return [len(made) - before[0], len(stage.extractor.times) - before[1]]

        assert wait(1.5)[0] >= 40, "it eases to its idle pose and stays there a while"
        wait(1.0)
        clips, looks = wait(2.0)
        assert stage.live.is_at_rest(stage.clock.now_s)
        assert clips == 0
        assert 15 <= looks <= 25, "a face is still looked for"
        stage.live.change_source(portrait(70))
        assert wait(0.2)[0] >= 1
        assert stage.pull() == 71, "another portrait is shown all the same"
        wait(3.0)
        stage.clock.now_s += 0.1
        stage.drive()
        assert stage.state() == "calibrating", "after so long it may be somebody else"


def test_paused_frames_are_never_opened() -> None:
    with staged() as stage:
        stage.calibrate()
        stage.live.pause(True)
        assert stage.state() == "paused"
        seen = len(stage.extractor.times)
        stage.clock.now_s += 1.0
        stage.live.feed(driving_frame(stage.clock.now_s))
        before = stage.live.pull(stage.clock.now_s).time_s
        stage.bell.wait_for(lambda: stage.live.pull(stage.clock.now_s).time_s > before)
        assert len(stage.extractor.times) == seen
        stage.live.pause(False)
        stage.drive()
        assert len(stage.extractor.times) == seen + 1


def test_another_portrait_is_shown_at_once_as_a_still_and_then_live() -> None:
    with staged() as stage:
        stage.live.change_source(portrait(90))
        assert stage.pull() == 90
        stage.drive()
        assert stage.pull() == 91
        stage.live.change_source(portrait(30))
        assert stage.pull() == 91
        stage.drive()
        assert stage.pull() == 31


def test_a_broken_driving_frame_counts_as_one_without_a_face(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def look(_time_s: float, rgb: Pixels) -> None:
        if rgb[0, 0, 0] == 66:
            raise RuntimeError("broken frame")

    with staged(extractor=lambda: Extractor(look)) as stage:
        stage.calibrate()
        stage.drive(shade=66)
        stage.drive(shade=66)
        stage.drive()
        assert stage.state() == "live"
        assert stage.live.stats(stage.clock.now_s).failed == 2
    assert [record.exc_text is not None for record in caplog.records] == [True]


def test_a_lost_clip_leaves_the_last_frame_and_the_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_broken = threading.Event()

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        if is_broken.is_set():
            raise RuntimeError("broken device")
        return paint(requests)

    with staged(animate) as stage:
        stage.drive()
        is_broken.set()
        stage.clock.now_s += 0.1
        shown = stage.live.pull(stage.clock.now_s)
        stage.live.feed(driving_frame(stage.clock.now_s))
        stage.bell.wait_for(lambda: stage.live.stats(stage.clock.now_s).failed == 1)
        assert stage.live.pull(stage.clock.now_s) is shown
        is_broken.clear()
        stage.drive()
    assert "broken device" in caplog.text


def test_a_tracker_that_cannot_be_built_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    def build() -> MotionExtractor:
        raise OSError("no descriptors left")

    with staged(extractor=build) as stage:
        stage.bell.wait_for(lambda: stage.live.has_failed)
    assert "no descriptors left" in caplog.text


@pytest.mark.parametrize("error", [ValueError("leads nowhere"), MemoryError("all in use")])
def test_what_cannot_be_drawn_ahead_is_left_to_the_backend(error: Exception) -> None:
    asked: list[int] = []

    def draw(_appearance: Appearance, motion: Motion, steps: int) -> None:
        assert motion.is_relative
        asked.append(steps)
        raise error

    with staged(draw=draw) as stage:
        stage.drive()
        assert stage.live.stats(stage.clock.now_s).failed == 0
    assert asked
    assert not any(asked), "as many as the rung has"


def test_a_device_without_memory_makes_the_next_clips_with_fewer_steps() -> None:
    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        if requests[0].steps:
            raise MemoryError("no memory left")
        return paint(requests)

    ladder = Ladder([Rung(steps=1, fps=30), Rung(steps=0, fps=30)], deadline_s=60.0)
    with staged(animate, ladder=ladder) as stage:
        stage.clock.now_s += 1 / 30
        stage.live.feed(driving_frame(stage.clock.now_s))
        stage.bell.wait_for(lambda: stage.live.rung.steps == 0)
        stage.drive()
        stats = stage.live.stats(stage.clock.now_s)
    assert (stats.failed, stats.steps) == (1, 0)


def test_late_frames_take_half_the_side_away_and_room_brings_it_back() -> None:
    stage: Stage
    is_slow = threading.Event()

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        is_large = len(requests[0].appearance.source) == 64
        stage.clock.now_s += 0.2 if is_slow.is_set() and is_large else 0.002
        return paint(requests)

    rungs = [Rung(steps=0, fps=30), Rung(steps=0, fps=30, is_half=True)]
    with staged(animate, ladder=Ladder(rungs, deadline_s=0.12)) as stage:
        stage.live.change_source(replace(portrait(10), half=portrait(10, size_px=32)))

        def side_px() -> int:
            stage.drive()
            return len(stage.live.pull(stage.clock.now_s).pixels)

        assert {side_px() for _ in range(10)} == {64}
        is_slow.set()
        assert [side_px() for _ in range(4)][-1] == 32
        assert stage.live.stats(stage.clock.now_s).is_half
        is_slow.clear()
        sides = [side_px() for _ in range(30 * 4)]
        assert sides[-1] == 64
        assert sides.count(32) > 30 * 2
        assert not stage.live.stats(stage.clock.now_s).is_half


def test_an_extractor_that_cannot_be_built_leaves_the_portrait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def build() -> MotionExtractor:
        raise RuntimeError("no tracker")

    with staged(extractor=build) as stage:
        stage.live.feed(driving_frame(stage.clock.now_s))
        assert stage.pull() == 10
    assert "no tracker" in caplog.text


def test_a_driving_frame_is_let_go_after_use() -> None:
    class Camera:
        def __call__(self) -> Pixels:
            return np.full((48, 64, 3), 200, np.uint8)

    with staged() as stage:
        camera = Camera()
        is_held = weakref.ref(camera)
        frame = DrivingFrame(time_s=stage.clock.now_s + 0.01, rgb=camera)
        stage.clock.now_s += 0.02
        stage.live.feed(frame)
        stage.bell.wait_for(lambda: stage.pull() == 11)
        del camera, frame
        gc.collect()
        assert is_held() is None


def test_closing_ends_the_thread_and_the_extractor() -> None:
    stage = Stage()
    stage.drive()
    stage.close()
    assert stage.extractor.is_closed
    assert "motion-test" not in {thread.name for thread in threading.enumerate()}
    stage.live.feed(driving_frame(stage.clock.now_s))
    assert stage.pull() == 11
