"""The ruler of what a face does, and the benches."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from mimaface.errors import UnsupportedStepsError
from mimaface.evaluation.agreement import (
    TARGETS,
    Agreement,
    agree,
    amplitude,
    correlation,
    error,
    signals,
)
from mimaface.evaluation.bench import Stopwatch, bench
from mimaface.evaluation.scripted import scripted_motion
from mimaface.face_mesh import canonical_face, rotation_matrix
from mimaface.model import load
from mimaface.types import VERTICES, Floats, Motion

FRAMES = 60


def filmed(motion: Motion, *, aspect: float = 1.0, scale: float = 0.2) -> Motion:
    """Return what a tracker without error would see of the canonical face moved so."""
    shapes = canonical_face().vertices + motion.expression.reshape(-1, VERTICES, 3)
    rotations = np.stack([rotation_matrix(angles) for angles in motion.rotation])
    turned = np.einsum("fij,fvj->fvi", rotations, shapes)
    landmarks = (turned * scale + (0.5, 0.5 / aspect, 0.0)) * (1.0, aspect, 1.0)
    return replace(
        motion,
        landmarks=landmarks.astype(np.float32),
        aspect=np.full(len(motion), aspect, np.float32),
        is_relative=False,
    )


@pytest.fixture(scope="module")
def performance() -> Motion:
    return filmed(scripted_motion(FRAMES))


def agreements(driving: Motion, output: Motion) -> tuple[Agreement, ...]:
    return agree(signals(driving), signals(output))


def figures(driving: Motion, output: Motion) -> dict[str, tuple[float | None, float | None]]:
    return {
        each.target.signal: (each.correlation, each.amplitude)
        for each in agreements(driving, output)
    }


def test_signals_do_not_depend_on_pose_size_or_the_shape_of_the_frame() -> None:
    performed = scripted_motion(FRAMES)
    still = replace(performed, rotation=np.zeros_like(performed.rotation))
    turning, upright = (
        signals(filmed(performed, aspect=16 / 9, scale=0.1)),
        signals(filmed(still)),
    )
    np.testing.assert_allclose(turning.mouth_opening, upright.mouth_opening, atol=1e-4)
    np.testing.assert_allclose(turning.eye_closure, upright.eye_closure, atol=1e-4)


def test_signals_are_in_head_units_and_radians(performance: Motion) -> None:
    measured = signals(performance)
    shape = canonical_face().vertices + performance.expression.reshape(-1, VERTICES, 3)[7]
    gap = (shape[14, 1] - shape[13, 1]) / np.linalg.norm(shape[263] - shape[33])
    assert measured.mouth_opening[7] == pytest.approx(gap, rel=1e-3)
    np.testing.assert_allclose(measured.yaw, performance.rotation[:, 1])
    assert measured.eye_closure.max() > 0.5 * measured.eye_closure.min()


def test_a_perfect_copy_reaches_every_target(performance: Motion) -> None:
    found = agreements(performance, performance)
    assert [each.target for each in found] == list(TARGETS)
    for each in found:
        assert each.correlation == pytest.approx(1.0)
        assert each.amplitude == pytest.approx(1.0)
        assert each.error == 0
        assert each.is_reached


def test_half_the_movement_is_half_the_amplitude(performance: Motion) -> None:
    turns = performance.rotation * np.array([1, 0.5, 1], np.float32)
    weak = replace(performance, rotation=turns, gaze=performance.gaze / 2)
    measured = figures(performance, weak)
    assert measured["yaw"] == (pytest.approx(1.0), pytest.approx(0.5))
    assert measured["gaze"] == (pytest.approx(1.0), pytest.approx(0.5))
    reached = {each.target.signal: each.is_reached for each in agreements(performance, weak)}
    assert reached["roll"]
    assert not reached["gaze"]
    assert not reached["yaw"]


def test_movement_to_the_wrong_side_is_not_reached(performance: Motion) -> None:
    mirrored = replace(performance, rotation=-performance.rotation)
    assert figures(performance, mirrored)["yaw"][0] == pytest.approx(-1.0)


def test_a_still_output_has_no_correlation_and_reaches_nothing(performance: Motion) -> None:
    first: Motion = Motion.concatenate([performance[:1]] * FRAMES)
    for each in agreements(performance, replace(first, time_s=performance.time_s)):
        assert each.correlation is None
        assert each.amplitude == pytest.approx(0, abs=1e-9)
        assert not each.is_reached


def test_a_gaze_behind_shut_lids_does_not_count(performance: Motion) -> None:
    opening = -signals(performance).eye_closure
    is_shut = opening < 0.4 * np.median(opening)
    assert 0 < is_shut.sum() < 10
    for where, is_perfect in ((is_shut, True), (np.roll(is_shut, 10), False)):
        gaze = np.where(where[:, None], np.float32(0.6), performance.gaze)
        found = figures(performance, replace(performance, gaze=gaze))["gaze"]
        assert (found == (pytest.approx(1.0), pytest.approx(1.0))) is is_perfect


def test_a_still_driver_gives_no_figures(performance: Motion) -> None:
    first: Motion = Motion.concatenate([performance[:1]] * FRAMES)
    still = replace(first, time_s=performance.time_s)
    assert set(figures(still, performance).values()) == {(None, None)}


def test_no_common_frame_gives_no_figures(performance: Motion) -> None:
    nothing = performance[:0]
    assert set(figures(nothing, nothing).values()) == {(None, None)}
    assert not any(each.is_reached for each in agreements(nothing, nothing))


def test_relative_motion_has_no_signals() -> None:
    with pytest.raises(ValueError, match="absolute"):
        signals(scripted_motion(3))


def test_correlation_and_amplitude_are_those_of_the_textbook() -> None:
    driving = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    output: Floats = np.array([1.0, 0.0, 3.0, 2.0], np.float32)
    assert correlation(driving, output) == pytest.approx(0.6)
    assert amplitude(driving, 3 * driving + 1) == pytest.approx(3.0)


def test_errors_are_in_the_drivers_deviations_and_about_each_faces_own_mean() -> None:
    driving: Floats = np.array([-1.0, 1.0, -1.0, 1.0], np.float32)
    assert error(driving, driving + 7) == pytest.approx(0)
    assert error(driving, 2 * driving) == pytest.approx(1)
    assert error(np.zeros_like(driving), driving) is None
    # Many values share the deviation of the whole: those that hardly move count little.
    both = np.stack([driving, 0 * driving], axis=1)
    assert error(both, both + np.stack([0 * driving, driving], axis=1)) == pytest.approx(2**-0.5)


def test_the_script_opens_the_mouth_shuts_the_eyes_and_is_the_same_each_time() -> None:
    measured = signals(filmed(scripted_motion(90)))
    assert measured.mouth_opening.max() > measured.mouth_opening.min() + 0.08
    assert measured.eye_closure.max() > -0.06
    assert np.abs(measured.yaw).max() > 0.25
    np.testing.assert_array_equal(scripted_motion(90).expression, scripted_motion(90).expression)


def test_the_stopwatch_notes_each_run_of_each_stage() -> None:
    stopwatch = Stopwatch(iter([0.0, 2.0, 5.0, 6.0, 7.0, 10.0]).__next__)
    for name in ("read", "write", "read"):
        with stopwatch.stage(name):
            pass
    assert stopwatch.times_s == {"read": [2.0, 3.0], "write": [1.0]}


def test_the_bench_times_every_stage(portrait: Path) -> None:
    ticks = count()
    run = bench(
        load("tiny", weights="none"),
        portrait,
        steps=0,
        frames=1,
        repeats=3,
        clock=lambda: next(ticks) / 1000,
    )
    assert [each.stage for each in run.stages] == ["extract", "relative", "animate"]
    assert all(each.p50_ms == each.p95_ms == pytest.approx(1.0) for each in run.stages)
    assert (run.new_frames, run.fps) == (1, pytest.approx(1000))
    assert run.memory_mib > 0


def test_the_bench_times_every_stage_of_the_generator(portrait: Path) -> None:
    model, ticks = load("tiny", weights="random", size_px=64), count()
    run = bench(model, portrait, steps=2, frames=3, repeats=2, clock=lambda: next(ticks) / 1000)
    within = ["condition", "encode", "carry", "tokens", "denoise", "decode"]
    times_ms = dict.fromkeys(["extract", "relative", *within], 1.0) | {"animate": 13.0}
    assert {each.stage: each.p50_ms for each in run.stages} == pytest.approx(times_ms)
    assert run.fps == pytest.approx(3000 / 13, abs=0.01)


def test_clips_that_the_bench_cannot_make_are_refused(portrait: Path) -> None:
    model = load("sd15")
    with pytest.raises(UnsupportedStepsError, match="without weights"):
        bench(model, portrait, steps=1, frames=4, repeats=1, clock=perf_counter)
    with pytest.raises(ValueError, match="frames must be 1 to 32, found 33"):
        bench(model, portrait, steps=0, frames=33, repeats=1, clock=perf_counter)
