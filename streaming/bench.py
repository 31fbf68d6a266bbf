"""How fast a live session runs on this machine, without network: python -m streaming.bench.

The avatar of the portrait itself performs in front of a made-up webcam. A line each second shows
the figures of the last few seconds, the last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mimaface.animate import Model, animate, built_in_weights, encode_source, load
from mimaface.config import CONFIGS
from mimaface.evaluation.bench import machine
from mimaface.evaluation.scripted import scripted_motion
from mimaface.motion import FaceMeshExtractor
from mimaface.photo import built_in_portraits
from mimaface.types import Appearance, ClipRequest, Pixels
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from streaming.metrics import SPAN_S
from streaming.types import DrivingFrame

FPS: Final = 30
WEBCAM_PX: Final = (480, 640)
PERFORMANCE: Final = 90  # frames, then it starts again
STAGES: Final = ("motion_ms", "render_ms", "server_ms")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the bench and print its figures."""
    parser = argparse.ArgumentParser(
        prog="python -m streaming.bench",
        description="Measure live sessions without network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", choices=CONFIGS, default="tiny", help="which model")
    parser.add_argument("--steps", type=int, default=1, help="denoising steps; 0 is the mesh")
    parser.add_argument("--size", type=int, choices=(256, 512), default=256, help="in pixels")
    parser.add_argument("--source", type=Path, default=None, help="the photo, else a built-in one")
    parser.add_argument("--seconds", type=int, default=20, help="how long")
    parser.add_argument("--sessions", type=int, default=1, help="how many at a time")
    args = parser.parse_args(arguments)
    if args.seconds <= SPAN_S or args.sessions < 1:
        parser.error(f"--seconds must be more than {SPAN_S:.0f} and --sessions at least 1")
    weights: Literal["random", "none"] | None = None if args.steps else "none"
    if args.steps and not built_in_weights(args.model):
        weights = "random"  # as quick as trained ones
    model = load(args.model, size_px=args.size, weights=weights)
    if args.steps not in model.steps:
        parser.error(f"--steps must be one of {model.steps}")
    appearance = encode_source(model, args.source or built_in_portraits()[0])
    rows = run(model, appearance, seconds=args.seconds, sessions=args.sessions, steps=args.steps)
    result = {
        "model": model.config.name,
        "size_px": model.config.size_px,
        "steps": args.steps,
        "precision": model.precision,
        "sessions": args.sessions,
        "seconds": args.seconds,
        "machine": machine(),
        **summarize(rows),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def run(
    model: Model, appearance: Appearance, *, seconds: int, sessions: int, steps: int = 0
) -> list[dict[str, Any]]:
    """Drive some sessions in real time; return the figures of the first one, second by second."""
    pictures = perform(model, appearance)
    rows = []
    with ExitStack() as stack:
        backend = stack.enter_context(closing(LocalBackend(partial(animate, model))))
        lives = []
        for number in range(sessions):
            live = LiveSession(
                str(number),
                appearance,
                extractor=FaceMeshExtractor,
                backend=backend,
                clock=time.monotonic,
                new_frames=model.config.new_frames,
                fps=FPS,
                steps=steps,
            )
            live.on_frame = partial(_show, live)
            lives.append(stack.enter_context(closing(live)))
        start_s = time.monotonic()
        for count in range(seconds * FPS):
            time.sleep(max(0.0, start_s + count / FPS - time.monotonic()))
            now_s = time.monotonic()
            picture = pictures[count % len(pictures)]
            for live in lives:
                live.feed(DrivingFrame(time_s=now_s, rgb=picture.copy))
            if count % FPS == FPS - 1:
                row = asdict(lives[0].stats(now_s)) | {"rss_mib": resident_mib()}
                rows.append(row)
                sys.stdout.write(_line(len(rows), row) + "\n")
                sys.stdout.flush()
    return rows


def _show(live: LiveSession) -> None:
    live.pull(time.monotonic())


def perform(model: Model, appearance: Appearance) -> list[Pixels]:
    """Return what a webcam sees of the portrait's avatar acting, uint8 [480, 640, 3] each."""
    script = scripted_motion(PERFORMANCE, fps=FPS)
    pictures = []
    for start in range(0, PERFORMANCE, model.config.new_frames):
        motion = script[start : start + model.config.new_frames]
        [clip] = animate(model, [ClipRequest(appearance=appearance, motion=motion)])
        pictures += [_in_front_of_a_wall(face) for face in clip.pixels]
    return pictures


def _in_front_of_a_wall(face: Pixels) -> Pixels:
    height, width = WEBCAM_PX
    zoom = -(-height // face.shape[0])
    large = face.repeat(zoom, axis=0).repeat(zoom, axis=1)[:height]
    picture = np.full((height, width, 3), 110, np.uint8)
    left = (width - large.shape[1]) // 2
    picture[:, left : left + large.shape[1]] = large
    return picture


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure once the first window is full, and the memory's growth."""
    full = rows[int(SPAN_S) :]
    figures: dict[str, Any] = {
        name: statistics.median(row[name] for row in full) for name in ("fps", "driving_fps")
    }
    for stage in STAGES:
        figures[stage] = {
            share: statistics.median(row[stage][share] for row in full) for share in ("p50", "p95")
        }
    figures["dropped"] = full[-1]["dropped"]
    figures["rss_mib"] = {"first": full[0]["rss_mib"], "last": full[-1]["rss_mib"]}
    return figures


def _line(second: int, row: dict[str, Any]) -> str:
    stages = "  ".join(
        f"{stage.removesuffix('_ms')} {row[stage]['p50']}/{row[stage]['p95']} ms"
        for stage in STAGES
    )
    return (
        f"{second:4d} s  {row['fps']:5.1f} fps  {stages}  dropped {row['dropped']}  "
        f"{row['rss_mib']} MiB"
    )


def resident_mib() -> int | None:
    """Return the memory this process holds, None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    [line] = [each for each in status.read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
