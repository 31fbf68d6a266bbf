"""The thread that makes the clips."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mimaface.types import Clip, ClipRequest
from streaming.backend import Animate, BackendBusyError, LocalBackend, Made, NotFiniteError
from tests.fakes import Bell, Clock, paint, portrait, relative_motion

DUE_S = 200.0  # later than the tests' clocks


def request(shade: int = 10) -> ClipRequest:
    return ClipRequest(appearance=portrait(shade), motion=relative_motion(0.0), steps=1)


@contextmanager
def running(animate: Animate, **settings: Any) -> Iterator[LocalBackend]:
    backend = LocalBackend(animate, **({"clock": Clock()} | settings))
    try:
        yield backend
    finally:
        backend.close()


class Gate:
    """Animates once it is opened; remembers the batches."""

    def __init__(self) -> None:
        self.is_entered = threading.Event()
        self.is_open = threading.Event()
        self.batches: list[int] = []

    def __call__(self, requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        self.batches.append(len(requests))
        self.is_entered.set()
        assert self.is_open.wait(20)
        return paint(requests)


def shade(clip: Clip) -> int:
    return int(clip.pixels[0, 0, 0, 0])


def test_a_clip_is_made_on_the_device_thread() -> None:
    names = []

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        names.append(threading.current_thread().name)
        return paint(requests)

    with running(animate) as backend:
        assert shade(backend.submit(request(10), due_s=DUE_S).result(20)) == 11
    assert names == ["device-0"]


def test_the_sessions_that_wait_share_one_batch() -> None:
    gate = Gate()
    with running(gate) as backend:
        first = backend.submit(request(1), due_s=DUE_S)
        assert gate.is_entered.wait(20)
        waiting = [backend.submit(request(s), due_s=DUE_S) for s in (2, 3, 4)]
        gate.is_open.set()
        assert [shade(future.result(20)) for future in [first, *waiting]] == [2, 3, 4, 5]
    assert gate.batches == [1, 3]


def test_a_batch_has_a_limit() -> None:
    gate = Gate()
    with running(gate, max_batch=2) as backend:
        futures = [backend.submit(request(), due_s=DUE_S)]
        assert gate.is_entered.wait(20)
        futures += [backend.submit(request(), due_s=DUE_S) for _ in range(3)]
        gate.is_open.set()
        for future in futures:
            future.result(20)
    assert gate.batches == [1, 2, 1]


def fails_on(shade: int) -> Callable[[Sequence[ClipRequest]], Sequence[Clip]]:
    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        if any(each.appearance.source[0, 0, 0] == shade for each in requests):
            raise RuntimeError("broken")
        return paint(requests)

    return animate


def test_one_bad_request_does_not_cost_the_others_their_clip() -> None:
    gate = Gate()

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        gate(requests)
        return fails_on(66)(requests)

    with running(animate) as backend:
        first = backend.submit(request(1), due_s=DUE_S)
        assert gate.is_entered.wait(20)
        good, bad, other = (backend.submit(request(s), due_s=DUE_S) for s in (2, 66, 3))
        gate.is_open.set()
        with pytest.raises(RuntimeError, match="broken"):
            bad.result(20)
        assert [shade(future.result(20)) for future in (first, good, other)] == [2, 3, 4]


def test_the_backend_goes_on_after_an_error() -> None:
    with running(fails_on(66)) as backend:
        assert isinstance(backend.submit(request(66), due_s=DUE_S).exception(20), RuntimeError)
        assert shade(backend.submit(request(1), due_s=DUE_S).result(20)) == 2


def test_a_missing_clip_is_an_error_and_nobody_waits_forever() -> None:
    with running(lambda _requests: []) as backend:
        assert isinstance(backend.submit(request(), due_s=DUE_S).exception(20), ValueError)


def test_beyond_its_capacity_the_backend_refuses_at_once() -> None:
    gate = Gate()
    with running(gate, max_waiting=1) as backend:
        backend.submit(request(), due_s=DUE_S)
        assert gate.is_entered.wait(20)
        backend.submit(request(), due_s=DUE_S)
        assert isinstance(backend.submit(request(), due_s=DUE_S).exception(0), BackendBusyError)
        gate.is_open.set()


def test_a_cancelled_clip_is_not_made() -> None:
    gate = Gate()
    with running(gate) as backend:
        backend.submit(request(), due_s=DUE_S)
        assert gate.is_entered.wait(20)
        assert backend.submit(request(), due_s=DUE_S).cancel()
        last = backend.submit(request(), due_s=DUE_S)
        gate.is_open.set()
        last.result(20)
    assert gate.batches == [1, 1]


def test_closing_cancels_what_waits_and_joins_the_thread() -> None:
    gate = Gate()
    backend = LocalBackend(gate, clock=Clock())
    running_clip = backend.submit(request(), due_s=DUE_S)
    assert gate.is_entered.wait(20)
    waiting = backend.submit(request(), due_s=DUE_S)
    closing = threading.Thread(target=backend.close, daemon=True)
    closing.start()
    while not waiting.cancelled():  # close() cancels before it waits
        closing.join(0.01)
    gate.is_open.set()
    closing.join(20)
    assert running_clip.done()
    assert not closing.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(request(), due_s=DUE_S)


def test_other_work_runs_in_the_thread_of_the_clips() -> None:
    with running(paint) as backend:
        assert backend.call(lambda: threading.current_thread().name).result(20) == "device-0"
        failed = backend.call(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(20)
        assert len(backend.submit(request(), due_s=DUE_S).result(20).pixels) == 1


def test_closing_cancels_other_work_that_waits() -> None:
    is_running, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        is_running.set()
        may_end.wait(20)

    backend = LocalBackend(paint, clock=Clock())
    errand = backend.call(slow)
    assert is_running.wait(20)
    waiting = backend.call(lambda: None)
    closer = threading.Thread(target=backend.close, daemon=True)
    closer.start()
    with pytest.raises(CancelledError):
        waiting.result(20)
    may_end.set()
    closer.join(20)
    assert errand.result(20) is None


def meet(backend: LocalBackend, gate: Gate) -> None:
    """Let the clips of two sessions be in flight at once, so that the backend knows of two."""
    first = backend.submit(request(), due_s=DUE_S)
    assert gate.is_entered.wait(20)
    second = backend.submit(request(), due_s=100.0)  # so that it waits for no third
    gate.is_open.set()
    for future in (first, second):
        future.result(20)
    gate.batches.clear()


def test_a_clip_waits_for_that_of_the_other_session() -> None:
    gate = Gate()
    with running(gate, gather_s=0.01) as backend:  # a standing clock: only company ends the wait
        meet(backend, gate)
        first = backend.submit(request(1), due_s=DUE_S)
        assert backend.call(first.done).result(20) is False
        second = backend.submit(request(2), due_s=DUE_S)
        assert [shade(future.result(20)) for future in (first, second)] == [2, 3]
    assert gate.batches == [2]


def test_a_clip_goes_alone_when_it_has_waited_long_enough() -> None:
    gate, clock = Gate(), Clock()
    with running(gate, gather_s=0.01, clock=clock) as backend:
        meet(backend, gate)
        alone = backend.submit(request(1), due_s=DUE_S)
        clock.now_s += 0.02
        assert shade(alone.result(20)) == 2
    assert gate.batches == [1]


def test_a_session_that_asks_again_at_once_is_not_taken_for_two() -> None:
    bell, made = Bell(), []

    with running(paint, gather_s=1000.0) as backend:

        def ask(earlier: Future[Clip] | None = None) -> None:
            if earlier is not None:
                made.append(shade(earlier.result()))
                bell.ring()
            if len(made) < 5:
                backend.submit(request(), due_s=2000.0).add_done_callback(ask)

        ask()
        bell.wait_for(lambda: len(made) == 5)


def test_the_clip_that_is_wanted_first_is_made_first() -> None:
    gate, order = Gate(), []
    with running(gate, max_batch=1) as backend:
        backend.submit(request(), due_s=DUE_S)
        assert gate.is_entered.wait(20)
        futures = []
        for due_s in (103.0, 101.0, 102.0):
            futures.append(backend.submit(request(), due_s=due_s))
            futures[-1].add_done_callback(lambda _, due_s=due_s: order.append(due_s))
        gate.is_open.set()
        for future in futures:
            future.result(20)
    assert order == [101.0, 102.0, 103.0]


def test_a_clip_that_is_asked_for_too_late_is_made_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(paint) as backend:
        for _ in range(2):
            assert shade(backend.submit(request(1), due_s=99.0).result(20)) == 2
        assert backend.overdue == 2
    assert [record.getMessage() for record in caplog.records] == [
        "a clip was asked for 1000 ms after it was due"
    ]


def test_a_deadline_that_is_no_number_is_refused() -> None:
    with running(paint) as backend, pytest.raises(ValueError, match="due_s"):
        backend.submit(request(), due_s=float("nan"))


def test_every_batch_is_reported_with_its_times() -> None:
    clock, reports = Clock(), []

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        clock.now_s += 0.5
        return paint(requests)

    with running(animate, clock=clock, on_made=reports.append) as backend:
        backend.submit(request(), due_s=DUE_S).result(20)
    assert reports == [
        Made(
            steps=1,
            size_px=64,
            asked_s=(100.0,),
            due_s=(DUE_S,),
            started_s=100.0,
            ended_s=100.5,
        )
    ]
    assert reports[0].busy_s == 0.5


def test_motion_that_is_not_finite_reaches_no_device() -> None:
    batches = []

    def animate(requests: Sequence[ClipRequest]) -> Sequence[Clip]:
        batches.append(requests)
        return paint(requests)

    broken = request()
    broken.motion.expression[0, 5] = np.nan
    with running(animate) as backend:
        error = backend.submit(broken, due_s=DUE_S).exception(20)
    assert isinstance(error, NotFiniteError)
    assert batches == []
