"""The trace is what Chrome reads."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from streaming.trace import Trace
from tests.fakes import Clock


def events(trace: Trace, path: Path, *, from_s: float, until_s: float) -> list[dict[str, Any]]:
    trace.write(path, from_s=from_s, until_s=until_s)
    return json.loads(path.read_text())["traceEvents"]


def test_spans_lie_in_their_threads_with_times_in_microseconds(tmp_path: Path) -> None:
    clock = Clock(10.0)
    trace = Trace(clock)

    def work() -> None:
        with trace.span("animate"):
            clock.now_s += 0.010
            with trace.span("denoise"):
                clock.now_s += 0.020

    thread = threading.Thread(target=work, name="device-0")
    thread.start()
    thread.join()
    with trace.span("playout"):
        clock.now_s += 0.001
    found = events(trace, tmp_path / "trace.json", from_s=10.0, until_s=11.0)
    names = {e["tid"]: e["args"]["name"] for e in found if e["ph"] == "M"}
    spans = {e["name"]: (names[e["tid"]], e["ts"], e["dur"]) for e in found if e["ph"] == "X"}
    assert spans == {
        "denoise": ("device-0", 10_000, 20_000),
        "animate": ("device-0", 0, 30_000),
        "playout": ("MainThread", 30_000, 1_000),
    }


def test_waits_may_overlap_and_belong_to_no_thread(tmp_path: Path) -> None:
    trace = Trace(Clock())
    trace.add_wait("backend wait", 10.1, 10.3)
    trace.add_wait("backend wait", 10.2, 10.4)
    found = events(trace, tmp_path / "trace.json", from_s=10.0, until_s=11.0)
    pairs: dict[int, list[tuple[str, float]]] = {}
    for event in found:
        pairs.setdefault(event["id"], []).append((event["ph"], event["ts"]))
    assert list(pairs.values()) == [
        [("b", 100_000), ("e", 300_000)],
        [("b", 200_000), ("e", 400_000)],
    ]


def test_only_what_began_in_the_stretch_is_written(tmp_path: Path) -> None:
    trace = Trace(Clock())
    for start_s in (9.9, 10.0, 10.9, 11.0):
        trace.add_wait(str(start_s), start_s, start_s + 0.5)
    found = events(trace, tmp_path / "trace.json", from_s=10.0, until_s=11.0)
    assert {event["name"] for event in found} == {"10.0", "10.9"}


def test_a_block_that_fails_is_noted_too(tmp_path: Path) -> None:
    trace = Trace(Clock(10.0))
    with pytest.raises(RuntimeError), trace.span("animate"):
        raise RuntimeError
    found = events(trace, tmp_path / "trace.json", from_s=10.0, until_s=11.0)
    assert [event["name"] for event in found if event["ph"] == "X"] == ["animate"]
