"""What Prometheus reads at /metrics. No label names a session, and nothing tells of a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeVar

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mimaface.model import Model
from server.feed import OutputState
from server.registry import Call, Calls
from streaming.metrics import Stage

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
_BUCKETS_S: Final = (
    *(0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1),
    *(0.12, 0.15, 0.2, 0.3, 0.5, 1.0),
)
_LABELS: Final[dict[Stage, str]] = {
    "wait": "mailbox",
    "motion": "track",
    "queue": "queue",
    "render": "infer",
    "playout": "playout",
}

Result = Literal["ended", "expired"]
Labels = TypeVar("Labels", bound=tuple[str, ...])


class Metrics:
    """The server's figures since it started; the event loop alone changes and reads them.

    Only `observe` is called by all of a session's threads.

    Attributes:
        outputs: what else the avatar goes to; told of whenever somebody asks.
    """

    def __init__(self, calls: Calls, model: Model, *, clock: Callable[[], float]) -> None:
        """Tell of the calls that are held whenever somebody asks; times are on `clock`."""
        self.outputs: list[OutputState] = []
        self._calls = calls
        self._clock = clock
        self._frames: Counter[tuple[str, str]] = Counter()  # of calls that are over
        self._registry = prometheus_client.CollectorRegistry()
        self._stages = prometheus_client.Histogram(
            "avatar_stage_seconds",
            "Time a frame takes in a stage",
            ["stage"],
            registry=self._registry,
            buckets=_BUCKETS_S,
        )
        self._glass = prometheus_client.Histogram(
            "avatar_glass_seconds",
            "Time from a decoded driving frame to its avatar frame handed to the encoder",
            registry=self._registry,
            buckets=_BUCKETS_S,
        )
        self._over = prometheus_client.Counter(
            "avatar_sessions_total",
            "Sessions that are over: ended, or expired without a connection",
            ["result"],
            registry=self._registry,
        )
        self._rejected = prometheus_client.Counter(
            "avatar_admission_rejected_total",
            "Sessions that were not taken",
            ["reason"],
            registry=self._registry,
        )
        self._whip = prometheus_client.Counter(
            "avatar_whip_requests_total",
            "Requests of WHIP and WHEP",
            ["method", "code"],
            registry=self._registry,
        )
        self._unmatched = prometheus_client.Counter(
            "avatar_whip_missing_if_match_total",
            "Trickled candidates that were taken without an entity-tag",
            registry=self._registry,
        )
        self._coded = prometheus_client.Counter(
            "avatar_encoded_frames_total",
            "Frames encoded: once for all viewers of a session with the same codec and picture",
            ["codec", "kind"],
            registry=self._registry,
        )
        prometheus_client.Info("avatar_model", "The model", registry=self._registry).info(
            {
                "name": model.config.name,
                "size_px": str(model.config.size_px),
                "precision": model.precision or "",
            }
        )
        self._registry.register(self)

    def observe(self, stage: Stage, seconds: float) -> None:
        """Take the time a frame of any session took in a stage."""
        if stage == "server":
            self._glass.observe(seconds)
        else:
            self._stages.labels(_LABELS[stage]).observe(seconds)

    def reject(self, reason: str) -> None:
        """Count a session that was not taken."""
        self._rejected.labels(reason).inc()

    def count_whip(self, method: str, status: int) -> None:
        """Count an answered request of WHIP or WHEP."""
        self._whip.labels(method, str(status)).inc()

    def miss_if_match(self) -> None:
        """Count trickled candidates that were taken without an entity-tag."""
        self._unmatched.inc()

    def count_coded(self, codec: str, is_keyframe: bool) -> None:
        """Count a frame that was encoded."""
        self._coded.labels(codec, "key" if is_keyframe else "delta").inc()

    def close(self, call: Call, result: Result) -> None:
        """Keep the frame counts of a call that is no longer held."""
        self._over.labels(result).inc()
        self._frames.update(call.live.counts())

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Yield what is read off the calls; the registry asks for it."""
        now_s = self._clock()
        states: Counter[str] = Counter()
        rungs: Counter[tuple[str, str, str]] = Counter()
        frames = self._frames.copy()
        for call in self._calls:
            rung = call.live.rung
            states[call.live.state(now_s)] += 1
            rungs[str(rung.steps), f"{rung.fps:g}", "half" if rung.is_half else "full"] += 1
            frames.update(call.live.counts())
        yield _family(
            GaugeMetricFamily(
                "avatar_sessions", "Sessions by what their driver sees", labels=["state"]
            ),
            {(state,): count for state, count in states.items()},
        )
        yield _family(
            GaugeMetricFamily(
                "avatar_quality_rung",
                "Sessions on a rung of the quality ladder: denoising steps, frames a second, side",
                labels=["steps", "fps", "side"],
            ),
            rungs,
        )
        yield _family(
            CounterMetricFamily(
                "avatar_frames", "Frames by what became of them", labels=["stage", "outcome"]
            ),
            frames,
        )
        yield _family(
            GaugeMetricFamily(
                "avatar_output_up", "Whether an output takes the avatar", labels=["output"]
            ),
            {(output.name,): int(output.is_up) for output in self.outputs},
        )
        yield _family(
            CounterMetricFamily(
                "avatar_output_dropped", "Frames an output had no time for", labels=["output"]
            ),
            {(output.name,): output.dropped for output in self.outputs},
        )


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Labels, int]
) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
