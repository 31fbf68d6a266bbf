"""A trace of what every thread did, to look at in Chrome (chrome://tracing) or Perfetto.

On a GPU a stage's span is the time its thread spent on it, which ends before the GPU is done.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

_CAPACITY: Final = 50_000  # spans: more than a second of 64 sessions


class Span(NamedTuple):
    """Something that took a while; `thread` is None if no thread did it, as waiting."""

    name: str
    thread: str | None
    start_s: float
    end_s: float


class Trace:
    """Keeps the newest spans; all threads may add to it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Read the time in seconds from `clock`."""
        self._clock = clock
        self._spans: deque[Span] = deque(maxlen=_CAPACITY)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Note how long the block takes in this thread."""
        start_s = self._clock()
        try:
            yield
        finally:
            thread = threading.current_thread().name
            self._spans.append(Span(name, thread, start_s, self._clock()))

    def add_wait(self, name: str, start_s: float, end_s: float) -> None:
        """Note that something waited; several may at a time."""
        self._spans.append(Span(name, None, start_s, end_s))

    def write(self, path: Path, *, from_s: float, until_s: float) -> None:
        """Write what began in a stretch of time, in Chrome's trace event format.

        Raises:
            OSError: the file cannot be written.
        """
        spans = [span for span in self._spans.copy() if from_s <= span.start_s < until_s]
        document = {"traceEvents": _events(spans, from_s), "displayTimeUnit": "ms"}
        path.write_text(json.dumps(document))


def _events(spans: list[Span], from_s: float) -> list[dict[str, Any]]:
    # Times are microseconds in this format, and threads are numbers that events give a name.
    process = os.getpid()
    threads = {name: i for i, name in enumerate(sorted({s.thread for s in spans if s.thread}), 1)}
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": process, "tid": i, "args": {"name": name}}
        for name, i in threads.items()
    ]
    for number, span in enumerate(spans):
        start, end = (round(1e6 * (at_s - from_s), 1) for at_s in (span.start_s, span.end_s))
        event = {"name": span.name, "cat": "live", "pid": process, "ts": start}
        if span.thread is not None:
            events.append(
                event | {"ph": "X", "tid": threads[span.thread], "dur": round(end - start, 1)}
            )
        else:  # an asynchronous pair: spans of one thread must not overlap
            pair = event | {"id": number, "tid": 0}
            events += [pair | {"ph": "b"}, pair | {"ph": "e", "ts": end}]
    return events
