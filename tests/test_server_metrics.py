"""What Prometheus is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mimaface.model import load
from server.metrics import Metrics
from server.registry import Call, Calls, Source
from streaming.backend import LocalBackend
from streaming.ladder import Ladder, rungs_for
from streaming.live import LiveSession
from tests.fakes import Bell, Clock, Extractor, driving_frame, nothing_ahead, paint, portrait


class Scene:
    """A call of two driving frames, on a clock of its own."""

    def __init__(self) -> None:
        self.clock, bell = Clock(), Bell()
        self.backend = LocalBackend(paint, clock=self.clock)
        self.calls = Calls(max_sessions=2)
        model = load("tiny", weights="none")
        self.metrics = Metrics(self.calls, model, clock=self.clock)
        self.live = LiveSession(
            "test",
            portrait(10),
            extractor=Extractor,
            draw=nothing_ahead,
            backend=self.backend,
            clock=self.clock,
            new_frames=1,
            ladder=Ladder(rungs_for([1, 0], fps=30), deadline_s=0.12),
        )
        self.live.on_frame = bell.ring
        self.live.on_timed = self.metrics.observe
        source = Source(id="s", name="A", jpeg=b"", appearance=portrait(1), is_private=True)
        nothing: Any = None  # nobody watches
        self.call = Call(
            public_id="p",
            id="secret",
            source=source,
            live=self.live,
            broadcast=nothing,
            expires_s=0,
            ttl_s=30,
        )
        self.calls.add(self.call)
        for _ in range(2):
            self.clock.now_s += 1 / 30
            frame = driving_frame(self.clock.now_s)
            self.live.feed(frame)
            bell.wait_for(lambda frame=frame: self.pull() >= frame.time_s)

    def pull(self) -> float:
        return self.live.pull(self.clock.now_s).time_s

    def read(self) -> dict[str, float]:
        """What is told, by name and labels."""
        lines = self.metrics.text().decode().splitlines()
        told = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in told}


@contextmanager
def scene() -> Iterator[Scene]:
    scene = Scene()
    try:
        yield scene
    finally:
        scene.live.close()
        scene.backend.close()


def test_the_calls_are_told_by_state_and_rung_and_never_by_name() -> None:
    with scene() as each:
        told = each.read()
        assert told['avatar_sessions{state="calibrating"}'] == 1
        assert told['avatar_quality_rung{fps="30",side="full",steps="1"}'] == 1
        assert told['avatar_model_info{name="tiny",precision="",size_px="256"}'] == 1
        assert "secret" not in each.metrics.text().decode()


def test_every_stage_and_the_whole_way_are_measured() -> None:
    with scene() as each:
        told = each.read()
        for stage in ("mailbox", "track", "queue", "infer", "playout"):
            assert told[f'avatar_stage_seconds_count{{stage="{stage}"}}'] == 2
        assert told["avatar_glass_seconds_count"] == 2
        assert told['avatar_glass_seconds_bucket{le="0.12"}'] == 2


def test_counts_of_frames_outlive_their_call() -> None:
    names = [
        f'avatar_frames_total{{outcome="{outcome}",stage="{stage}"}}'
        for stage, outcome in (("track", "in"), ("track", "dropped"), ("playout", "out"))
    ]
    with scene() as each:
        before = each.read()
        assert [before[name] for name in names] == [2, 0, 2]
        assert each.calls.remove(each.call)
        each.metrics.close(each.call, "expired")
        after = each.read()
        assert [after[name] for name in names] == [2, 0, 2]
        assert after['avatar_sessions_total{result="expired"}'] == 1
        assert 'avatar_sessions{state="calibrating"}' not in after


def test_a_refused_session_is_counted_with_its_reason() -> None:
    with scene() as each:
        each.metrics.reject("full")
        assert each.read()['avatar_admission_rejected_total{reason="full"}'] == 1
