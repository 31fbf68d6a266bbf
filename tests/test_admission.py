"""How many sessions the device holds, learned from what clips cost, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from mimaface.types import ClipRequest
from streaming.admission import Admission
from streaming.backend import Made
from streaming.gather import Gatherer, Waiting
from tests.fakes import portrait, relative_motion

FPS = 25
TICK_S = 0.001
INTERVAL = round(1 / FPS / TICK_S)  # ticks between a camera's frames


def admission(
    *, lowest_steps: int = 0, new_frames: int = 1, cores: int = 2, has_gpu: bool = True
) -> Admission:
    return Admission(
        lowest_steps=lowest_steps, new_frames=new_frames, cores=cores, has_gpu=has_gpu, fps=FPS
    )


def learn(
    admission: Admission, busy_s: float, *, steps: int = 1, clips: int = 1, size_px: int = 512
) -> None:
    times_s = (0.0,) * clips
    admission.add(
        Made(
            steps=steps,
            size_px=size_px,
            asked_s=times_s,
            due_s=times_s,
            started_s=0.0,
            ended_s=busy_s,
        )
    )


class Room:
    """A device and its sessions, each of which always has a new frame when its camera does."""

    def __init__(
        self, busy_s: Callable[[int], float], *, steps: int = 1, lowest_steps: int = 1
    ) -> None:
        """`busy_s` is what a batch of so many clips takes the device."""
        self.admission = admission(lowest_steps=lowest_steps)
        self.steps = steps
        self.now_s = 0.0
        self.shown: list[int] = []  # frames of every session
        self._busy_s = busy_s
        self._gatherer = Gatherer(gather_s=0.25 / FPS, max_batch=8)
        self._running: list[Waiting] = []
        self._started_s = self._ends_s = 0.0
        self._is_asking: list[bool] = []

    def join(self) -> None:
        self.shown.append(0)
        self._is_asking.append(False)

    def run(self, seconds: float) -> list[float]:
        """Return the frame rate of every session."""
        self.shown = [0] * len(self.shown)
        for _ in range(round(seconds / TICK_S)):
            self._land()
            self._ask()
            if not self._running:
                self._running = self._gatherer.take(self.now_s)
                self._started_s = self.now_s
                self._ends_s = self.now_s + self._busy_s(len(self._running))
            self.now_s += TICK_S
        return [count / seconds for count in self.shown]

    def _ask(self) -> None:
        for row, is_asking in enumerate(self._is_asking):
            camera = round(self.now_s / TICK_S) + 15 * row  # they are not in step
            if camera % INTERVAL == 0 and not is_asking:
                self._is_asking[row] = True
                self._gatherer.add(self._clip(row))

    def _clip(self, row: int) -> Waiting:
        request = ClipRequest(
            appearance=portrait(10),
            motion=relative_motion(self.now_s),
            steps=self.steps,
            seed=row,
        )
        due_s = self.now_s + 1 / FPS
        return Waiting(request=request, future=Future(), asked_s=self.now_s, due_s=due_s)

    def _land(self) -> None:
        if not self._running or self.now_s < self._ends_s:
            return
        for clip in self._running:
            self._gatherer.land(clip)
            self.shown[clip.request.seed] += 1
            self._is_asking[clip.request.seed] = False
        self.admission.add(
            Made(
                steps=self._running[0].request.steps,
                size_px=len(self._running[0].request.appearance.source),
                asked_s=tuple(clip.asked_s for clip in self._running),
                due_s=tuple(clip.due_s for clip in self._running),
                started_s=self._started_s,
                ended_s=self._ends_s,
            )
        )
        self._running = []


def test_the_first_session_always_fits_and_a_second_only_once_costs_are_known() -> None:
    unknown = admission()
    assert unknown.capacity is None
    assert unknown.has_room(0)
    assert not unknown.has_room(1)
    learn(unknown, 0.5)  # not even one gets 25 frames a second
    assert unknown.capacity == 1
    assert unknown.has_room(0)
    assert not unknown.has_room(1)


def test_a_device_holds_as_many_sessions_as_their_clips_fit_into_a_second() -> None:
    device = admission()
    learn(device, 0.010)  # a quarter of every second each, and 15 % stay free
    assert device.capacity == 3
    assert [device.has_room(sessions) for sessions in range(5)] == [True, True, True, False, False]


def test_a_clip_of_several_frames_is_asked_for_less_often() -> None:
    device = admission(new_frames=4)
    learn(device, 0.040)
    assert device.capacity == 3


def test_the_lowest_rung_counts_whatever_rung_the_sessions_are_on() -> None:
    device = admission(lowest_steps=1)
    for _ in range(10):
        learn(device, 0.030, steps=4)
    assert device.capacity == 1
    learn(device, 0.010, steps=1)
    assert device.capacity == 3
    learn(device, 0.001, steps=0)  # a rung no session may be asked to take
    assert device.capacity == 3


def test_clips_that_share_a_batch_cost_less_each() -> None:
    device = admission()
    learn(device, 0.010)
    assert device.capacity == 3
    for _ in range(20):
        learn(device, 0.020, clips=4)
    assert device.capacity == 6


def test_a_hiccup_changes_nothing_and_a_lasting_change_does() -> None:
    device = admission()
    for _ in range(30):
        learn(device, 0.010)
    for _ in range(5):
        learn(device, 2.0)
    assert device.capacity == 3
    for _ in range(64):
        learn(device, 0.020)
    assert device.capacity == 1


def test_a_smaller_picture_is_not_asked_of_anybody_for_anothers_sake() -> None:
    device = admission()
    learn(device, 0.010, steps=0)
    for _ in range(64):
        learn(device, 0.005, steps=0, size_px=256)
    assert device.capacity == 3
    for _ in range(64):
        learn(device, 0.010, steps=0, size_px=256)  # but it shows how slow the device is
    assert device.capacity == 1


def test_a_device_that_slows_down_is_noticed_on_any_rung() -> None:
    device = admission()
    learn(device, 0.005, steps=0)
    learn(device, 0.030, steps=1)
    assert device.capacity == 6
    for _ in range(64):
        learn(device, 0.090, steps=1)
    assert device.capacity == 2


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, 5), (False, 3)])
def test_tracking_and_encoding_count_on_the_processor(has_gpu: bool, expected: int) -> None:
    device = admission(has_gpu=has_gpu)
    learn(device, 0.006)
    assert device.capacity == 5
    device.add_frame(0.012)  # of 2 cores' 80 ms an interval; without a GPU the clip's 6 ms too
    assert device.capacity == expected


@pytest.mark.parametrize("fixed_s", [0.0, 0.004, 0.015])
def test_all_that_are_let_in_keep_their_frame_rate(fixed_s: float) -> None:
    room = Room(lambda clips: fixed_s + 0.006 * clips)
    while room.admission.has_room(len(room.shown)):
        room.join()
        rates = room.run(3.0)
        assert min(rates) >= 0.97 * FPS, f"{len(rates)} sessions"
        assert len(rates) < 10, "nobody was ever refused"
    assert len(room.shown) >= (1 if fixed_s > 0.01 else 3)
    assert room.admission.capacity == len(room.shown)


def test_what_clips_cost_on_a_slow_device_does_not_outlive_it() -> None:
    room: Room
    slowness = 1.0

    def busy_s(clips: int) -> float:
        return slowness * (0.006 + 0.020 * room.steps) * clips

    room = Room(busy_s, lowest_steps=0)
    room.join()
    for steps in (0, 1):
        room.steps = steps
        room.run(1.0)
    assert room.admission.capacity == 5
    slowness, room.steps = 3.0, 0
    room.run(10.0)
    assert room.admission.capacity == 1
    slowness, room.steps = 1.0, 1  # its session is back on the better rung, and stays there
    room.run(3.0)
    assert room.admission.capacity == 5
    room.steps = 0
    while room.admission.has_room(len(room.shown)):
        room.join()
        assert min(room.run(3.0)) >= 0.97 * FPS
    assert len(room.shown) == 5


def test_one_more_than_fit_would_have_cost_all_of_them_frames() -> None:
    room = Room(lambda clips: 0.010 * clips)
    while room.admission.has_room(len(room.shown)):
        room.join()
        room.run(3.0)
    for _ in range(2):  # the free share first, then too many
        room.join()
    assert min(room.run(3.0)) < 0.9 * FPS
