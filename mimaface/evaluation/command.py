"""The command `evaluate`: its flags, its folder of results and its tables."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image
from rich.console import Console
from rich.table import Table

from mimaface.errors import UnwritableMediaError
from mimaface.evaluation.agreement import FACE_SHARE_TARGET
from mimaface.evaluation.evaluate import Evaluation, evaluate
from mimaface.evaluation.metrics import Slope
from mimaface.evaluation.rollout import Frame, open_scene
from mimaface.evaluation.sheet import Sheet, side_by_side
from mimaface.model import Model
from mimaface.photo import read_photo
from mimaface.video import VideoReader, write_video
from mimaface.whole_file import naming_errors, whole_file

ABLATIONS: Final = ("ica", "mia", "identity")
REPORT: Final = "evaluation.json"
SHEET: Final = "sheet.png"
FILM: Final = "side_by_side.mp4"

Progress = Callable[[Iterator[Any], str, int | None], Iterator[Any]]


def add_arguments(parser: argparse.ArgumentParser, *, count: Callable[[str], int]) -> None:
    """Add the command's own flags to those of the model; `count` reads a whole number."""
    parser.add_argument("--driving", type=Path, required=True, help="the video")
    parser.add_argument(
        "--source", type=Path, help="the photo; without, the driver's first frame is the source"
    )
    parser.add_argument(
        "--steps", type=count, help="denoising steps; 0 is the mesh; else the fewest of the weights"
    )
    parser.add_argument("--seed", type=count, default=0, help="of the denoiser's noise")
    parser.add_argument(
        "--ablate",
        choices=ABLATIONS,
        help="take away the state from clip to clip, the motion or the source that MIA reads",
    )
    parser.add_argument(
        "--repeat-to",
        type=_seconds,
        metavar="SECONDS",
        help="play the driver back and forth for so long",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder of the results")


def run(args: argparse.Namespace, model: Model, *, progress: Progress) -> dict[str, Any]:
    """Evaluate as the flags say, fill the folder and return the figures.

    Raises:
        MimafaceError: a file cannot be read or written, or shows no face; `errors` has them all.
    """
    steps = model.default_steps if args.steps is None else args.steps
    model.check_steps(steps)
    if args.ablate and not steps:
        args.usage_error("--ablate takes something from the denoiser: name --steps too")
    if args.ablate in ("mia", "identity"):
        from mimaface.evaluation.ablation import without

        model = without(model, "motion" if args.ablate == "mia" else "identity")
    photo = None if args.source is None else read_photo(args.source)
    with VideoReader(args.driving) as video:
        _make_folder(args)
        scene = open_scene(model, video, photo, repeat_to_s=args.repeat_to)
        expected = round(args.repeat_to * video.fps) if args.repeat_to else video.expected_frames
        scene = replace(scene, frames=progress(scene.frames, "evaluate", expected))
        size, sheet = model.config.size_px, Sheet(has_difference=scene.is_self)
        with write_video(args.output / FILM, width=3 * size, height=size, fps=video.fps) as film:
            start_s: float | None = None

            def watch(frame: Frame) -> None:
                nonlocal start_s
                start_s = frame.time_s if start_s is None else start_s
                film.write(frame.time_s - start_s, side_by_side(frame))
                sheet.add(frame)

            evaluation = evaluate(
                model,
                scene,
                steps=steps,
                seed=args.seed,
                is_carried=args.ablate != "ica",
                watch=watch,
            )
        notes = [*evaluation.notes, *video.notes]
    with whole_file(args.output / SHEET) as partial, naming_errors(args.output / SHEET):
        Image.fromarray(sheet.draw()).save(partial, format="png")
    report = {
        "model": model.config.name,
        "size": model.config.size_px,
        "steps": steps,
        "ablated": args.ablate,
        "driving": str(args.driving),
        "source": None if args.source is None else str(args.source),
        **_report(evaluation),
        "notes": notes,
        "output": str(args.output),
    }
    with whole_file(args.output / REPORT) as partial, naming_errors(args.output / REPORT):
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    console = Console()
    console.print(_picture_table(evaluation))
    console.print(_signal_table(evaluation))
    return report


def _make_folder(args: argparse.Namespace) -> None:
    with naming_errors(args.output):
        args.output.mkdir(exist_ok=True)
    for given in (args.driving, args.source):
        for name in (REPORT, SHEET, FILM):
            made = args.output / name
            if given is not None and made.exists() and given.samefile(made):
                raise UnwritableMediaError(f"{given} would be overwritten: name another output")


def _report(evaluation: Evaluation) -> dict[str, Any]:
    figures = asdict(evaluation)
    agreements = figures.pop("agreements")
    figures["signals"] = {
        each.target.signal: {
            "correlation": plain["correlation"],
            "amplitude": plain["amplitude"],
            "error": plain["error"],
            "reached": each.is_reached,
        }
        for each, plain in zip(evaluation.agreements, agreements, strict=True)
    }
    if evaluation.flicker is not None:
        figures["flicker"]["ratio"] = evaluation.flicker.ratio
    rounded: dict[str, Any] = _rounded(figures)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


def _picture_table(evaluation: Evaluation) -> Table:
    table = Table("picture", caption_justify="left")
    table.add_column("figure", justify="right")
    like, flickers, seams = evaluation.likeness, evaluation.flicker, evaluation.seams
    drift = evaluation.drift
    rows: list[tuple[str, str]] = []
    if like is not None:
        rows += [
            ("PSNR, dB", _figure(like.psnr)),
            ("PSNR of eyes and mouth, dB", _figure(like.psnr_region)),
            ("SSIM", _figure(like.ssim)),
            ("SSIM of eyes and mouth", _figure(like.ssim_region)),
            ("LPIPS", _figure(like.lpips)),
        ]
    rows.append(("sharpness", _figure(evaluation.sharpness)))
    if like is not None:
        rows.append(("sharpness of eyes and mouth", _figure(evaluation.sharpness_region)))
    if flickers is not None:
        rows += [
            ("flicker, grey levels", _figure(flickers.output)),
            ("flicker of the driver", _figure(flickers.driver)),
            ("flicker over the driver's", _figure(flickers.ratio)),
        ]
    if seams is not None:
        rows += [
            (f"seams of {seams.clip_frames} frames, ICA", _figure(seams.with_ica)),
            (f"seams of {seams.clip_frames} frames, no ICA", _figure(seams.without_ica)),
        ]
    rows.append(("drift of sharpness a minute", _slope(drift.sharpness)))
    for name, each in zip(("red", "green", "blue"), drift.colour, strict=True):
        rows.append((f"drift of {name} a minute", _slope(each)))
    rows.append(("drift of identity a minute", _slope(drift.identity)))
    rows.append(("identity, own encoder", _figure(evaluation.identity_own_encoder)))
    for row in rows:
        table.add_row(*row)
    table.caption = f"{evaluation.frames} frames, {evaluation.duration_s:.1f} s"
    return table


def _signal_table(evaluation: Evaluation) -> Table:
    table = Table("signal", caption_justify="left")
    for heading in ("correlation", "amplitude", "error", "reached"):
        table.add_column(heading, justify="right")
    for each in evaluation.agreements:
        least, most = each.target.amplitude
        wanted = (
            "" if not least else f" (>= {least})" if math.isinf(most) else f" ({least}..{most})"
        )
        table.add_row(
            each.target.signal.replace("_", " "),
            f"{_figure(each.correlation, absent='still')} (>= {each.target.correlation})",
            _figure(each.amplitude, absent="still") + wanted,
            _figure(each.error, absent="still"),
            "yes" if each.is_reached else "[red]no[/red]",
        )
    table.add_row("expression", "", "", _figure(evaluation.expression_error), "")
    table.caption = (
        f"{evaluation.face_share:.1%} of the output shows a face (wanted >= "
        f"{FACE_SHARE_TARGET:.0%}); figures over the {evaluation.compared_frames} frames where "
        "the driver does too; amplitude is output over driver, error in the driver's deviations"
    )
    return table


def _figure(value: float | None, *, absent: str = "unknown") -> str:
    return absent if value is None else f"{value:.3f}"


def _slope(slope: Slope | None) -> str:
    return "too short" if slope is None else f"{slope.per_minute:+.3f} +- {slope.error:.3f}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds above 0")
    return seconds
