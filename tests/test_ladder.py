"""Which quality a session can afford, in simulated time."""

from collections.abc import Callable

import numpy as np
import pytest

from mimaface.types import ClipRequest
from streaming.ladder import Ladder, Rung, rungs_for
from streaming.mailbox import Pace
from streaming.playout import Playout
from streaming.session import Session
from streaming.types import AvatarFrame
from tests.fakes import paint, portrait, relative_motion

DEADLINE_S = 0.12
CAMERA_FPS = 30
TRACKING_S = 0.005

Cost = Callable[[int, float], float]  # of a clip, in seconds, by its steps and the time


class Simulation:
    """A live session of real parts, but for the camera, the tracker and a backend of known cost.

    Attributes:
        shown: of every avatar frame when it was shown, how old it was, and the rung then.
    """

    def __init__(
        self, cost: Cost, *, steps: tuple[int, ...] = (4, 2, 1, 0), has_half: bool = False
    ) -> None:
        rungs = rungs_for(steps, fps=CAMERA_FPS, has_half=has_half)
        self.ladder = Ladder(rungs, deadline_s=DEADLINE_S)
        self.shown: list[tuple[float, float, Rung]] = []
        self._cost = cost
        self._pace = Pace()
        source = portrait(10, size_px=8)
        self._session = Session(source, new_frames=1)
        still = AvatarFrame(time_s=0.0, pixels=source.source)
        self._playout = Playout(still, new_frames=1)
        self._ticks = 0
        self._in_flight: tuple[float, float, ClipRequest] | None = None  # asked, done

    def run(self, until_s: float) -> None:
        while (time_s := self._ticks / CAMERA_FPS) < until_s:
            self._ticks += 1
            if not self._pace.admits(time_s, self.ladder.rung.fps):
                continue
            now_s = time_s + TRACKING_S
            while self._in_flight and self._in_flight[1] <= now_s:
                self._land(*self._in_flight)
            self._session.steps = self.ladder.rung.steps
            self._ask(self._session.push(relative_motion(time_s)), now_s)

    def _ask(self, request: ClipRequest | None, now_s: float) -> None:
        if request is not None:
            self._in_flight = now_s, now_s + self._cost(request.steps, now_s), request

    def _land(self, asked_s: float, now_s: float, request: ClipRequest) -> None:
        self._in_flight = None
        self.ladder.made(asked_s, now_s, len(request.motion))
        self._session.steps = self.ladder.rung.steps
        frames, due = self._session.complete(paint([request])[0])
        self._playout.put(frames, now_s)
        frame = self._playout.pull(now_s)
        self.shown.append((now_s, now_s - frame.time_s, self.ladder.rung))
        self.ladder.shown(frame.time_s, now_s)
        self._ask(due, now_s)

    def between(self, from_s: float, until_s: float) -> list[tuple[float, float, Rung]]:
        return [each for each in self.shown if from_s <= each[0] < until_s]

    def p95_s(self, from_s: float, until_s: float) -> float:
        return float(np.quantile([age_s for _, age_s, _ in self.between(from_s, until_s)], 0.95))

    def fps(self, from_s: float, until_s: float) -> float:
        return len(self.between(from_s, until_s)) / (until_s - from_s)


def test_a_smooth_rate_goes_before_steps_and_a_jerky_one_after_them() -> None:
    assert rungs_for((0, 1, 4, 2), fps=30) == [
        *(Rung(steps=steps, fps=fps) for steps in (4, 2, 1, 0) for fps in (30, 25)),
        *(Rung(steps=0, fps=fps) for fps in (20, 15)),
    ]
    assert rungs_for([0], fps=20) == [Rung(steps=0, fps=20), Rung(steps=0, fps=15)]


def test_half_the_side_is_the_last_to_go_and_only_of_pictures_without_denoising() -> None:
    for fps in (30, 10):
        rungs = rungs_for((0, 1), fps=fps)
        last = Rung(steps=0, fps=min(fps, 15), is_half=True)
        assert rungs_for((0, 1), fps=fps, has_half=True) == [*rungs, last]
    assert rungs_for((1, 2), fps=30, has_half=True) == rungs_for((1, 2), fps=30)


def test_a_gpu_is_taken_away_and_given_back() -> None:
    taken_s, back_s = 120.0, 300.0

    def cost(steps: int, now_s: float) -> float:
        return (0.004 + 0.006 * steps) * (6 if taken_s <= now_s < back_s else 1)

    simulation = Simulation(cost)
    simulation.run(taken_s)
    assert simulation.ladder.rung == Rung(steps=4, fps=30)
    assert simulation.ladder.switches == 0

    simulation.run(taken_s + 3)
    assert simulation.ladder.rung == Rung(steps=0, fps=30)
    assert simulation.p95_s(taken_s + 1, taken_s + 3) < DEADLINE_S
    simulation.run(back_s)
    assert simulation.p95_s(taken_s + 1, back_s) < DEADLINE_S
    assert simulation.fps(taken_s + 1, back_s) > 25

    simulation.run(back_s + 6)
    assert simulation.ladder.rung == Rung(steps=4, fps=30)
    simulation.run(600)
    assert simulation.ladder.rung == Rung(steps=4, fps=30)
    assert simulation.p95_s(back_s, 600) < DEADLINE_S
    assert simulation.ladder.switches <= 20


def test_a_short_hog_costs_a_rung_that_is_back_within_five_seconds() -> None:
    def cost(steps: int, now_s: float) -> float:
        return (0.006 + 0.020 * steps) * (2.5 if 60 <= now_s < 80 else 1)

    simulation = Simulation(cost, steps=(1, 0))
    simulation.run(80)
    assert simulation.p95_s(60, 80) < DEADLINE_S
    simulation.run(85)
    assert simulation.ladder.rung == Rung(steps=1, fps=30)


@pytest.mark.parametrize("over", [0.9, 1.02, 1.3])
def test_a_rung_just_at_the_limit_does_not_make_the_quality_swing(over: float) -> None:
    def cost(steps: int, _now_s: float) -> float:
        return 0.050 * over * steps / 2  # two steps take all the time there is

    simulation = Simulation(cost, steps=(2, 1, 0))
    simulation.run(600)
    later = simulation.between(60, 600)
    on_two = sum(rung.steps == 2 for _, _, rung in later) / len(later)
    assert (on_two > 0.99) if over < 1 else (on_two < 0.02)
    assert simulation.ladder.switches <= (0 if over < 1 else 16)
    assert min(rung.steps for _, _, rung in simulation.shown) == (2 if over < 1 else 1)


@pytest.mark.parametrize("seed", range(2))
def test_jittery_costs_that_fit_leave_the_rung_alone(seed: int) -> None:
    random = np.random.default_rng(seed)

    def cost(steps: int, now_s: float) -> float:
        hiccup = 0.2 if now_s % 20 < 1 / CAMERA_FPS else 0.0
        return float((0.004 + 0.012 * steps) * random.lognormal(0.0, 0.3)) + hiccup

    simulation = Simulation(cost, steps=(2, 1, 0))
    simulation.run(600)
    assert {rung for _, _, rung in simulation.shown} == {Rung(steps=2, fps=30)}


@pytest.mark.parametrize("seed", range(2))
def test_jittery_costs_at_the_limit_settle_on_the_rung_below(seed: int) -> None:
    random = np.random.default_rng(seed)

    def cost(steps: int, _now_s: float) -> float:
        return float(0.025 * steps * random.lognormal(0.0, 0.5))

    simulation = Simulation(cost, steps=(2, 1, 0))
    simulation.run(600)
    assert simulation.ladder.switches <= 30
    assert simulation.p95_s(60, 600) < DEADLINE_S


def test_without_steps_to_save_there_are_fewer_frames_and_later_all_of_them_again() -> None:
    # Of what the mesh costs more frames a second make each one slower, as on a full processor.
    simulation: Simulation

    def cost(_steps: int, now_s: float) -> float:
        return 0.002 * simulation.ladder.rung.fps if 10 <= now_s < 60 else 0.008

    simulation = Simulation(cost, steps=(0,))
    simulation.run(60)
    assert simulation.ladder.rung.fps < 30
    assert simulation.p95_s(12, 60) < DEADLINE_S
    simulation.run(65)
    assert simulation.ladder.rung.fps == 30


def test_when_even_the_lowest_rate_is_too_much_the_picture_is_half_as_large_for_a_while() -> None:
    simulation: Simulation

    def cost(_steps: int, now_s: float) -> float:
        if not 10 <= now_s < 310:
            return 0.008
        return 0.060 if simulation.ladder.rung.is_half else 0.077  # of 67 ms that there are

    simulation = Simulation(cost, steps=(1, 0), has_half=True)
    simulation.run(310)
    overloaded = simulation.between(12, 310)
    assert sum(rung.is_half for _, _, rung in overloaded) > 0.9 * len(overloaded)
    assert simulation.p95_s(12, 310) < DEADLINE_S
    assert simulation.ladder.switches <= 24, "it does not swing"
    simulation.run(320)
    assert simulation.ladder.rung == Rung(steps=1, fps=30)


def two_rungs() -> Ladder:
    return Ladder([Rung(steps=1, fps=30), Rung(steps=0, fps=30)], deadline_s=DEADLINE_S)


def show(ladder: Ladder, *ages_s: float, now_s: float = 100.0) -> float:
    """Show frames of these ages, a thirtieth of a second apart; return when the next is due."""
    for age_s in ages_s:
        ladder.shown(now_s - age_s, now_s)
        now_s += 1 / 30
    return now_s


def test_two_late_frames_within_a_second_are_enough_and_one_is_a_hiccup() -> None:
    ladder = two_rungs()
    now_s = show(ladder, *[0.03] * 30, 0.5, *[0.03] * 30, 0.5)
    assert ladder.index == 0
    show(ladder, 0.5, now_s=now_s)
    assert (ladder.index, ladder.rung.steps, ladder.switches) == (1, 0, 1)


def test_even_the_slowest_frames_are_noticed() -> None:
    ladder = two_rungs()
    ladder.shown(100.0, 105.0)
    ladder.shown(105.0, 110.0)
    assert ladder.index == 1


def test_a_rate_that_is_not_reached_is_as_bad_as_a_late_frame() -> None:
    ladder = two_rungs()
    for count in range(8):
        ladder.made(100 + count, 100.06 + count / 10, frames=1)
    assert ladder.index == 0  # these came before they were asked for: no frame took so long
    ladder = two_rungs()
    for count in range(8):
        ladder.made(100 + count / 10, 100.06 + count / 10, frames=1)
    assert ladder.index == 1


def test_the_first_clips_of_a_rung_may_take_longer() -> None:
    ladder = two_rungs()
    now_s = show(ladder, 0.5, 0.5)
    while ladder.index:
        now_s = show(ladder, 0.03, now_s=now_s)
    for cost_s in [0.06] * 4 + [0.03] * 30:
        ladder.made(now_s, now_s + cost_s, frames=1)
        now_s += cost_s
    assert ladder.index == 0


def test_a_little_too_much_costs_frames_and_much_too_much_costs_steps() -> None:
    for late_s, left in ((0.13, Rung(steps=1, fps=25)), (0.16, Rung(steps=0, fps=30))):
        ladder = Ladder(rungs_for([1, 0], fps=30), deadline_s=DEADLINE_S)
        show(ladder, late_s, late_s)
        assert ladder.rung == left


def test_what_was_made_on_the_rung_before_does_not_count() -> None:
    ladder = Ladder(rungs_for([2, 1, 0], fps=30), deadline_s=DEADLINE_S)
    now_s = show(ladder, 0.5, 0.5)
    assert ladder.rung.steps == 1
    show(ladder, 0.5, 0.5, 0.5, now_s=now_s)  # driven before the switch
    assert ladder.rung.steps == 1
    show(ladder, 0.5, 0.5, now_s=now_s + 1)
    assert ladder.rung.steps == 0


def test_below_the_last_rung_there_is_nothing() -> None:
    ladder = Ladder([Rung(steps=0, fps=30)], deadline_s=DEADLINE_S)
    show(ladder, *[0.5] * 90)
    assert (ladder.index, ladder.switches) == (0, 0)


def test_the_better_rung_comes_after_three_seconds_with_room() -> None:
    ladder = two_rungs()
    now_s = show(ladder, 0.5, 0.5)
    now_s = show(ladder, *[0.03] * 85, now_s=now_s)
    assert ladder.index == 1
    now_s = show(ladder, *[0.1] * 10, now_s=now_s)  # in time, but without room
    now_s = show(ladder, *[0.03] * 60, now_s=now_s)
    assert ladder.index == 1
    show(ladder, *[0.03] * 80, now_s=now_s)
    assert ladder.index == 0


def test_a_failed_attempt_is_repeated_once_a_forecast_says_it_fits() -> None:
    ladder = two_rungs()
    now_s = show(ladder, 0.5, 0.5)
    now_s = show(ladder, *[0.06] * 120, 0.18, 0.18, now_s=now_s)  # three times as slow
    assert (ladder.index, ladder.switches) == (1, 3)
    failed_s = now_s
    now_s = show(ladder, *[0.06] * 30, *[0.03] * 135, now_s=now_s)
    assert (ladder.index, ladder.switches) == (0, 4)
    assert now_s - failed_s < 6.0  # it would have been barred for longer


def test_without_such_a_forecast_it_is_repeated_after_twice_the_time() -> None:
    ladder = two_rungs()
    now_s = show(ladder, 0.5, 0.5)
    now_s = show(ladder, *[0.06] * 120, 0.18, 0.18, now_s=now_s)
    now_s = show(ladder, *[0.06] * 250, now_s=now_s)
    assert (ladder.index, ladder.switches) == (1, 3)
    show(ladder, *[0.06] * 30, now_s=now_s)
    assert (ladder.index, ladder.switches) == (0, 4)


def test_without_memory_for_a_clip_there_are_fewer_steps_until_it_is_tried_again() -> None:
    is_scarce = True
    tried_s = []
    simulation = Simulation(lambda _steps, _time_s: 0.005, steps=(1, 0))
    simulation.ladder.overflowed(0.0)
    assert simulation.ladder.rung.steps == 0
    for tick in range(1, 4000):
        simulation.run(tick / CAMERA_FPS)
        if is_scarce and simulation.ladder.rung.steps:
            tried_s.append(tick / CAMERA_FPS)
            simulation.ladder.overflowed(tick / CAMERA_FPS)
            is_scarce = len(tried_s) < 3
    assert simulation.ladder.index == 0, "it has its quality back"
    waits_s = np.diff([0.0, *tried_s])
    assert (waits_s >= [6, 12, 24]).all(), "each attempt costs a clip, so they become rare"


def test_without_fewer_steps_nothing_can_be_done_about_memory() -> None:
    ladder = Ladder(rungs_for([0], fps=30), deadline_s=DEADLINE_S)
    ladder.overflowed(1.0)
    assert ladder.index == 0


def test_a_ladder_needs_rungs_and_a_deadline() -> None:
    with pytest.raises(ValueError, match="at least one rung"):
        Ladder([], deadline_s=0.1)
    with pytest.raises(ValueError, match=r"deadline_s must be positive, found 0\.0"):
        Ladder([Rung(steps=0, fps=30)], deadline_s=0.0)
