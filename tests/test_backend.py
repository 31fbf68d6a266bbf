"""The thread that makes the clips."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest

from mimaface.types import Clip, ClipRequest
from streaming.backend import Animate, BackendBusyError, LocalBackend
from tests.fakes import paint, portrait, relative_motion


def request(shade: int = 10) -> ClipRequest:
    return ClipRequest(appearance=portrait(shade), motion=relative_motion(0.0))


@contextmanager
def running(animate: Animate, **settings: int) -> Iterator[LocalBackend]:
    backend = LocalBackend(animate, **settings)
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
        assert shade(backend.submit(request(10)).result(20)) == 11
    assert names == ["device-0"]


def test_the_sessions_that_wait_share_one_batch() -> None:
    gate = Gate()
    with running(gate) as backend:
        first = backend.submit(request(1))
        assert gate.is_entered.wait(20)
        waiting = [backend.submit(request(s)) for s in (2, 3, 4)]
        gate.is_open.set()
        assert [shade(future.result(20)) for future in [first, *waiting]] == [2, 3, 4, 5]
    assert gate.batches == [1, 3]


def test_a_batch_has_a_limit() -> None:
    gate = Gate()
    with running(gate, max_batch=2) as backend:
        futures = [backend.submit(request())]
        assert gate.is_entered.wait(20)
        futures += [backend.submit(request()) for _ in range(3)]
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
        first = backend.submit(request(1))
        assert gate.is_entered.wait(20)
        good, bad, other = (backend.submit(request(s)) for s in (2, 66, 3))
        gate.is_open.set()
        with pytest.raises(RuntimeError, match="broken"):
            bad.result(20)
        assert [shade(future.result(20)) for future in (first, good, other)] == [2, 3, 4]


def test_the_backend_goes_on_after_an_error() -> None:
    with running(fails_on(66)) as backend:
        assert isinstance(backend.submit(request(66)).exception(20), RuntimeError)
        assert shade(backend.submit(request(1)).result(20)) == 2


def test_a_missing_clip_is_an_error_and_nobody_waits_forever() -> None:
    with running(lambda _requests: []) as backend:
        assert isinstance(backend.submit(request()).exception(20), ValueError)


def test_beyond_its_capacity_the_backend_refuses_at_once() -> None:
    gate = Gate()
    with running(gate, max_waiting=1) as backend:
        backend.submit(request())
        assert gate.is_entered.wait(20)
        backend.submit(request())
        assert isinstance(backend.submit(request()).exception(0), BackendBusyError)
        gate.is_open.set()


def test_a_cancelled_clip_is_not_made() -> None:
    gate = Gate()
    with running(gate) as backend:
        backend.submit(request())
        assert gate.is_entered.wait(20)
        assert backend.submit(request()).cancel()
        last = backend.submit(request())
        gate.is_open.set()
        last.result(20)
    assert gate.batches == [1, 1]


def test_closing_cancels_what_waits_and_joins_the_thread() -> None:
    gate = Gate()
    backend = LocalBackend(gate)
    running_clip = backend.submit(request())
    assert gate.is_entered.wait(20)
    waiting = backend.submit(request())
    closing = threading.Thread(target=backend.close)
    closing.start()
    while not waiting.cancelled():  # close() cancels before it waits
        closing.join(0.01)
    gate.is_open.set()
    closing.join(20)
    assert running_clip.done()
    assert not closing.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(request())


def test_other_work_runs_in_the_thread_of_the_clips() -> None:
    with running(paint) as backend:
        assert backend.call(lambda: threading.current_thread().name).result(20) == "device-0"
        failed = backend.call(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(20)
        assert len(backend.submit(request()).result(20).pixels) == 1


def test_closing_cancels_other_work_that_waits() -> None:
    is_running, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        is_running.set()
        may_end.wait(20)

    backend = LocalBackend(paint)
    errand = backend.call(slow)
    assert is_running.wait(20)
    waiting = backend.call(lambda: None)
    closer = threading.Thread(target=backend.close)
    closer.start()
    with pytest.raises(CancelledError):
        waiting.result(20)
    may_end.set()
    closer.join(20)
    assert errand.result(20) is None
