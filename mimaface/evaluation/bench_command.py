"""`python -m mimaface bench`: what clips cost here, as a table and as figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from mimaface.config import RELEASED_STEPS
from mimaface.evaluation.bench import Run, bench, device_name, machine
from mimaface.frame_generator import FrameGenerator
from mimaface.model import Model, built_in_weights
from mimaface.photo import built_in_portraits

# How the release samples: in float32, on clips of which three frames are the previous one's.
RELEASED_FRAMES: Final = 12


def run(args: argparse.Namespace, load: Callable[..., Model]) -> dict[str, Any]:
    """Measure as the command line says; print the table and return the figures.

    Args:
        args: what was asked for.
        load: loads the model that was, with other options if they are given.
    """
    photo = args.source or built_in_portraits()[0]
    if args.weights is None and not any(args.steps):
        args.weights = "none"
    elif args.weights is None and (args.decoder or not built_in_weights(args.model)):
        args.weights = "random"  # as quick as trained ones
    model = load(decoder=args.decoder)
    generator = model.generator if args.compile else None
    if isinstance(generator, FrameGenerator):
        args.usage_error("--compile is for torch: name another --precision than int8")
    elif generator is not None:
        generator.denoiser.compile(dynamic=False)
    config = model.config
    if args.compare and RELEASED_STEPS not in model.steps:
        args.usage_error(f"{args.model} with these weights has no released form to compare with")

    def measure(model: Model, steps: int, frames: int) -> Run:
        return bench(
            model, photo, steps=steps, frames=frames, repeats=args.repeats, clock=perf_counter
        )

    lengths = {steps: args.frames or [_own_frames(model, steps)] for steps in args.steps}
    try:
        runs = [measure(model, steps, each) for steps, frames in lengths.items() for each in frames]
        teacher = None
        if args.compare:
            released = load(decoder=args.decoder, precision="float32")
            teacher = measure(released, RELEASED_STEPS, RELEASED_FRAMES)
    except ValueError as error:
        args.usage_error(str(error))
    precision = model.precision or "no generator"
    console = Console()
    console.print(
        f"{args.model} at {config.size_px}x{config.size_px}, {precision}, {device_name(model)}"
    )
    console.print(_table(runs, teacher))
    return {
        "machine": machine(),
        "device": device_name(model),
        "model": args.model,
        "size": config.size_px,
        "precision": precision,
        "decoder": config.autoencoder.kind,
        "compiled": args.compile,
        "repeats": args.repeats,
        "runs": [asdict(run) for run in runs],
        **({} if teacher is None else {"teacher": asdict(teacher)}),
    }


def _own_frames(model: Model, steps: int) -> int:
    return model.config.new_frames + (model.config.overlap_frames if steps else 0)


def _table(runs: Sequence[Run], teacher: Run | None) -> Table:
    table = Table("p50 ms (p95)", caption_justify="left")
    columns = [*runs, *([teacher] if teacher else [])]
    for run in columns:
        name = "released: " if run is teacher else ""
        table.add_column(f"{name}steps {run.steps}, frames {run.frames}", justify="right")
    for stage in max(([each.stage for each in run.stages] for run in columns), key=len):
        cells = []
        for run in columns:
            found = [each for each in run.stages if each.stage == stage]
            cells.append(f"{found[0].p50_ms:.2f} ({found[0].p95_ms:.2f})" if found else "")
        table.add_row(stage, *cells)
    table.add_row("new frames", *(str(run.new_frames) for run in columns))
    table.add_row("fps", *(f"{run.fps:.3g}" for run in columns))
    if teacher:
        table.add_row("over released", *(f"{run.fps / teacher.fps:.1f}x" for run in columns))
    table.add_row("memory, MiB", *(str(run.memory_mib) for run in columns))
    table.caption = "extract and relative are per frame, the other stages per clip"
    return table
