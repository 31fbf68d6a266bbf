"""Which waiting clips share a batch, and how long they wait for that, in simulated time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mimaface.types import ClipRequest, Motion
from streaming.gather import ACTIVE_S, Gatherer, Waiting
from tests.fakes import counting_state, portrait, relative_motion

GATHER_S = 0.010


def clip(
    asked_s: float,
    due_s: float = 1000.0,
    *,
    steps: int = 1,
    frames: int = 1,
    is_first: bool = True,
    size_px: int = 64,
) -> Waiting:
    return Waiting(
        request=ClipRequest(
            appearance=portrait(10, size_px),
            motion=Motion.concatenate([relative_motion(float(i)) for i in range(frames)]),
            ica=None if is_first else counting_state(1.0),
            steps=steps,
        ),
        future=Future(),
        asked_s=asked_s,
        due_s=due_s,
    )


def gatherer(*waiting: Waiting, max_batch: int = 8) -> Gatherer:
    made = Gatherer(gather_s=GATHER_S, max_batch=max_batch)
    for each in waiting:
        made.add(each)
    return made


def meet(gathering: Gatherer, now_s: float, *, sessions: int = 2) -> None:
    """Let the clips of some sessions be in flight at once and land."""
    for _ in range(sessions):
        gathering.add(clip(now_s))
    batch = gathering.take(now_s)
    assert len(batch) == sessions
    for each in batch:
        gathering.land(each)


def test_a_session_alone_waits_for_nobody() -> None:
    gathering = gatherer()
    for now_s in (0.0, 0.04, 0.08):
        only = clip(now_s)
        gathering.add(only)
        assert gathering.wake_s(now_s) == now_s
        assert gathering.take(now_s) == [only]
        gathering.land(only)
    assert gathering.wake_s(0.1) is None


def test_sessions_whose_clips_never_meet_do_not_wait_for_each_other() -> None:
    gathering = gatherer()
    for i in range(20):  # two cameras, half an interval apart, on a quick device
        only = clip(0.02 * i)
        gathering.add(only)
        assert gathering.take(0.02 * i) == [only]
        gathering.land(only)


def test_a_clip_waits_for_the_other_session_and_no_longer_than_allowed() -> None:
    gathering = gatherer()
    meet(gathering, 0.0)
    early = clip(0.1)
    gathering.add(early)
    assert gathering.take(0.109) == []
    assert gathering.wake_s(0.109) == pytest.approx(0.1 + GATHER_S)
    assert gathering.take(0.1 + GATHER_S) == [early]


def test_the_wait_ends_when_every_active_session_waits() -> None:
    gathering = gatherer()
    meet(gathering, 0.0, sessions=3)
    for asked_s in (0.100, 0.102):
        gathering.add(clip(asked_s))
    assert gathering.take(0.103) == []
    gathering.add(clip(0.103))
    assert len(gathering.take(0.103)) == 3


def test_a_clip_that_is_due_waits_for_nobody() -> None:
    gathering = gatherer()
    meet(gathering, 0.0)
    gathering.add(clip(0.1, due_s=0.104))
    assert gathering.take(0.103) == []
    assert len(gathering.take(0.104)) == 1


def test_a_session_that_has_left_is_soon_not_waited_for() -> None:
    gathering = gatherer()
    meet(gathering, 0.0)
    now_s = ACTIVE_S + 0.001
    gathering.add(clip(now_s))
    assert len(gathering.take(now_s)) == 1


def test_a_clip_that_is_being_made_counts_as_active() -> None:
    running, waiting = clip(0.0), clip(5.0)
    gathering = gatherer(running)
    gathering.take(0.0)
    gathering.add(waiting)
    assert gathering.take(5.0) == [], "the other session may soon ask again"
    assert gathering.take(5.0 + GATHER_S) == [waiting]


@pytest.mark.parametrize(
    "odd", [{"steps": 2}, {"frames": 2}, {"is_first": False}, {"size_px": 128}], ids=str
)
def test_only_requests_of_one_shape_share_a_batch(odd: dict[str, int]) -> None:
    one, other, alike = clip(0.0), clip(0.001, **odd), clip(0.002)
    gathering = gatherer(one, other, alike)
    assert gathering.take(0.1) == [one, alike]
    assert gathering.take(0.1) == [other]


def test_the_earliest_deadline_goes_first_also_into_a_full_batch() -> None:
    late, early, middle = clip(0.0, 0.9), clip(0.001, 0.3), clip(0.002, 0.6)
    gathering = gatherer(late, early, middle, max_batch=2)
    assert gathering.take(0.1) == [early, middle]
    assert gathering.take(0.1) == [late]


def test_meshes_are_drawn_one_by_one_without_a_wait() -> None:
    first, second = clip(0.0, steps=0), clip(0.001, steps=0)
    gathering = gatherer(first, second)
    assert gathering.take(0.001) == [first]
    assert gathering.take(0.001) == [second]


def test_a_late_clip_is_made_before_all_that_are_asked_for_later() -> None:
    late = clip(0.0, 0.05)
    gathering = gatherer(late)
    for i in range(5):
        gathering.add(clip(0.06 + 0.001 * i, 0.0, steps=2))  # wanted long ago, by their session
    assert gathering.take(0.1) == [late]


def test_a_session_with_wrong_deadlines_cannot_starve_another() -> None:
    honest = clip(0.0, 0.1, steps=1)
    gathering = gatherer(honest)
    now_s, overtaken = 0.0, 0
    while True:
        gathering.add(clip(now_s, -1000.0, steps=2))
        batch = gathering.take(now_s)
        if batch == [honest]:
            break
        for each in batch:
            gathering.land(each)
        now_s += 0.04  # what the device takes for the other one's clip
        overtaken += 1
    assert overtaken == 3, "until its own deadline has passed"


def test_cancelled_clips_are_neither_made_nor_waited_for() -> None:
    cancelled, wanted = clip(0.0), clip(0.001)
    gathering = gatherer(cancelled, wanted)
    cancelled.future.cancel()
    assert gathering.take(0.1) == [wanted]
    assert len(gathering) == 0


def test_clearing_returns_what_waits() -> None:
    waiting = [clip(0.0), clip(0.1, steps=2)]
    gathering = gatherer(*waiting)
    assert gathering.clear() == waiting
    assert len(gathering) == 0
    assert gathering.wake_s(0.2) is None
