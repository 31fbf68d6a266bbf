"""How fast live sessions run on this machine, without network: python -m streaming.bench.

The avatar of the portrait itself performs in front of a made-up webcam. A line each second shows
the figures of the last few seconds, then come those of every run; the last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mimaface.animate import encode_source
from mimaface.config import CONFIGS
from mimaface.evaluation.bench import device_name
from mimaface.half_size import add_half
from mimaface.model import built_in_weights, load
from mimaface.photo import built_in_portraits
from streaming.figures import (
    busy_share,
    mean_steps,
    quantiles_ms,
    recovery_s,
    stretch,
    worst,
)
from streaming.ladder import rungs_for
from streaming.rehearsal import FPS, WARM_UP_S, Notes, perform, rehearse, warm_up
from streaming.trace import Trace


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench and print its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m streaming.bench",
        description="Measure live sessions without network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", choices=CONFIGS, default="tiny", help="which model")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps at best; 0: mesh")
    parser.add_argument(
        "--lowest-steps", type=int, default=0, help="denoising steps that remain under load"
    )
    parser.add_argument("--size", type=int, choices=(256, 512), default=256, help="in pixels")
    parser.add_argument("--source", type=Path, default=None, help="the photo, else a built-in one")
    parser.add_argument("--seconds", type=int, default=20, help="how long each run is")
    parser.add_argument(
        "--sessions", type=int, nargs="+", default=[1], help="how many at a time, one run for each"
    )
    parser.add_argument(
        "--hog", type=int, default=0, help="seconds in which another process takes a core"
    )
    parser.add_argument(
        "--profile", type=Path, default=None, help="file for a Chrome trace of the last second"
    )
    args = parser.parse_args(arguments)
    least_s = WARM_UP_S + args.hog + (2 if args.hog else 1)
    if args.seconds < least_s or min(args.sessions) < 1 or args.hog < 0:
        parser.error(
            f"--seconds must be at least {least_s} with this --hog, --sessions at least 1, and "
            "--hog not negative"
        )
    weights: Literal["random", "none"] | None = None if args.steps else "none"
    if args.steps and not built_in_weights(args.model):
        weights = "random"  # as quick as trained ones
    model = load(args.model, size_px=args.size, weights=weights)
    if args.steps not in model.steps or not 0 <= args.lowest_steps <= args.steps:
        parser.error(f"--steps must be one of {model.steps}, and --lowest-steps no more than that")
    appearance = add_half(encode_source(model, args.source or built_in_portraits()[0]))
    rungs = rungs_for(
        [s for s in model.steps if args.lowest_steps <= s <= args.steps],
        fps=FPS,
        has_half=appearance.half is not None,
    )
    pictures = perform(model, appearance)
    warm_up(model, appearance, rungs=rungs)
    trace = Trace(time.monotonic) if args.profile is not None else None
    runs = []
    for sessions in args.sessions:
        notes = Notes(sessions=sessions, clock=time.monotonic, trace=trace)
        rehearse(
            model,
            appearance,
            pictures,
            notes,
            rungs=rungs,
            seconds=args.seconds,
            hog_s=args.hog,
            on_second=partial(_print_second, notes),
        )
        runs.append(summarize(notes))
        if trace is not None:
            trace.write(args.profile, from_s=notes.end_s - 1, until_s=notes.end_s)
    _print_runs(runs)
    result = {
        "model": model.config.name,
        "size_px": model.config.size_px,
        "steps": args.steps,
        "lowest_steps": rungs[-1].steps,
        "precision": model.precision,
        "seconds": args.seconds,
        "machine": device_name(model),
        "runs": runs,
    }
    _print(json.dumps(result))


def summarize(notes: Notes) -> dict[str, Any]:
    """Return the figures of a run, those of each session in lists."""
    whole = {"from_s": notes.start_s, "until_s": notes.end_s}
    each = [stretch(shown, **whole) for shown in notes.shown]
    made = [batch for batch in notes.made if batch.ended_s >= notes.start_s]
    render_s = [batch.ended_s - asked_s for batch in made for asked_s in batch.asked_s]
    full = notes.rss_mib[WARM_UP_S:]
    return {
        "sessions": notes.sessions,
        "fps": [session.fps for session in each],
        "server_ms": [{"p50": session.p50_ms, "p95": session.p95_ms} for session in each],
        "longest_gap_ms": [session.longest_gap_ms for session in each],
        "dropped": notes.dropped,
        "motion_ms": dict(zip(("p50", "p95"), quantiles_ms(notes.motion_s), strict=True)),
        "render_ms": dict(zip(("p50", "p95"), quantiles_ms(render_s), strict=True)),
        "steps": mean_steps(made, **whole),
        "clips_per_batch": round(len(render_s) / max(len(made), 1), 2),
        "busy": busy_share(made, **whole),
        "rss_mib": {"first": full[0], "last": full[-1]},
        "capacity": notes.capacity,
        "hog": _summarize_hog(notes) if notes.hog_s else None,
    }


def _summarize_hog(notes: Notes) -> dict[str, Any]:
    # The worst session counts.
    came_s, went_s = notes.hog_s
    phases = {
        "before": {"from_s": notes.start_s, "until_s": came_s},
        "during": {"from_s": came_s, "until_s": went_s},
        "after": {"from_s": went_s, "until_s": notes.end_s},
    }
    figures: dict[str, Any] = {
        name: asdict(worst([stretch(shown, **span) for shown in notes.shown]))
        | {"steps": mean_steps(notes.made, **span)}
        for name, span in phases.items()
    }
    figures["recovery_s"] = recovery_s(
        notes.shown,
        notes.made,
        good_s=(notes.start_s, came_s),
        from_s=went_s,
        until_s=notes.end_s,
    )
    return figures


def _print_second(notes: Notes, now_s: float) -> None:
    recent = {"from_s": now_s - WARM_UP_S, "until_s": now_s}
    now = worst([stretch(shown, **recent) for shown in notes.shown])
    _print(
        f"{len(notes.rss_mib):4d} s  {now.fps:5.1f} fps  server {now.p50_ms}/{now.p95_ms} ms  "
        f"gap {now.longest_gap_ms:.0f} ms  steps {mean_steps(notes.made, **recent)}  "
        f"busy {busy_share(notes.made, **recent):.0%}  dropped {sum(notes.dropped)}  "
        f"{notes.rss_mib[-1]} MiB"
    )


def _print_runs(runs: Sequence[dict[str, Any]]) -> None:
    for each in runs:
        capacity = each["capacity"] or "no"
        _print(f"{each['sessions']} at a time, {each['busy']:.0%} busy; it holds {capacity}")
        for number, (fps, ages, gap_ms, dropped) in enumerate(
            zip(
                each["fps"], each["server_ms"], each["longest_gap_ms"], each["dropped"], strict=True
            )
        ):
            _print(
                f"  session {number}  {fps:5.1f} fps  server {ages['p50']}/{ages['p95']} ms  "
                f"gap {gap_ms:.0f} ms  dropped {dropped}"
            )
        if each["hog"] is not None:
            for phase in ("before", "during", "after"):
                now = each["hog"][phase]
                _print(
                    f"  {phase:6s} the hog  {now['fps']:5.1f} fps  p95 {now['p95_ms']} ms  "
                    f"gap {now['longest_gap_ms']:.0f} ms  steps {now['steps']}"
                )
            _print(f"  recovered after {each['hog']['recovery_s']} s")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
