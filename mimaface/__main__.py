"""The command line: python -m mimaface COMMAND, with --help for what there is.

Tables and progress are for people; the last line on stdout is JSON, for programs. An error takes
one line on stderr and ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any, Final, TypeVar, get_args

import numpy as np
from rich.console import Console
from rich.progress import track as with_progress

import mimaface
from mimaface.animate import animate, encode_source
from mimaface.appearance import paste_back
from mimaface.config import AUTOENCODERS, CONFIGS, RELEASED_STEPS
from mimaface.driving import mean_fps, open_driver
from mimaface.errors import MimafaceError, UnwritableMediaError
from mimaface.evaluation import bench_command
from mimaface.evaluation import command as evaluation
from mimaface.evaluation.bench import Stopwatch
from mimaface.model import Model, Precision, load
from mimaface.motion import FaceMeshExtractor
from mimaface.native_logs import hide_native_logs
from mimaface.photo import read_photo
from mimaface.training.data import require_extra
from mimaface.training.options import add_distill_flags, add_train_flags
from mimaface.types import ClipRequest, Motion
from mimaface.video import VideoReader, write_video
from mimaface.whole_file import naming_errors, whole_file

SIZES: Final = (256, 512)

Item = TypeVar("Item")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        result = args.run(args)
    except MimafaceError as error:
        print(f"mimaface {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result, allow_nan=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mimaface", description=mimaface.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=about,
            formatter_class=_HelpFormatter,
        )
        added.set_defaults(run=run, usage_error=added.error)
        return added

    added = command("animate", _animate, "drive a portrait with a video or recorded motion")
    added.add_argument("--source", type=Path, required=True, help="the photo, one face")
    added.add_argument("--driving", type=Path, required=True, help="a video, or motion as .npz")
    added.add_argument("--output", type=_named(".mp4"), required=True, help="the video to make")
    _add_model(added)
    added.add_argument(
        "--steps",
        type=_count,
        help="denoising steps; 0 is the mesh; else the fewest of the weights",
    )
    added.add_argument("--seed", type=_count, default=0, help="of the denoiser's noise")
    framing = added.add_mutually_exclusive_group()
    framing.add_argument(
        "--side-by-side", action="store_true", default=False, help="show the driver beside it"
    )
    framing.add_argument(
        "--paste-back", action="store_true", default=False, help="show the whole photo, not a crop"
    )

    added = command("track", _track, "save the motion of a video, which holds no pictures")
    added.add_argument("--driving", type=Path, required=True, help="the video")
    added.add_argument("--output", type=_named(".npz"), required=True, help="the motion file")

    added = command("evaluate", _evaluate, "make an avatar of a video and measure it")
    _add_model(added)
    evaluation.add_arguments(added, count=_count)

    added = command("bench", _bench, "time each stage on this machine")
    _add_model(added, sizes=(128, *SIZES))
    added.add_argument("--steps", type=_counts, default="0,1", help="denoising steps, as 1,2,4")
    added.add_argument(
        "--frames", type=_counts, help="frames of a clip, as 4,10; else the model's own number"
    )
    added.add_argument("--repeats", type=_positive, default=200, help="how many clips to measure")
    added.add_argument("--decoder", choices=AUTOENCODERS, help="of untrained weights")
    added.add_argument("--compile", action="store_true", default=False, help="compile the denoiser")
    added.add_argument("--source", type=Path, help="the photo, if not a built-in portrait")
    added.add_argument(
        "--compare",
        choices=("teacher",),
        help="also time the model as it was released, and say how many times slower it is",
    )

    added = command("fetch", _fetch, "download the official checkpoints, in the release's layout")
    added.add_argument("--folder", type=Path, required=True, help="where to")

    added = command("convert", _convert, "make a weight file of the official checkpoints")
    added.add_argument("--folder", type=Path, required=True, help="what fetch filled")
    added.add_argument("--output", type=_named(".safetensors"), required=True, help="the file")
    added.add_argument(
        "--decoder", choices=AUTOENCODERS, default="kl", help="taesd is quicker and softer"
    )
    added.add_argument("--lora", type=Path, help="a LoRA of Stable Diffusion 1.5 to fuse in")
    added.add_argument("--lora-scale", type=float, default=1.0, help="how much of it")
    added.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the file; float32 is exact, the others take half the room",
    )

    added = command("train", _train, "train the embedded model on shards of clips")
    add_train_flags(added)

    added = command("distill", _distill, "teach a trained model to make pictures in few steps")
    add_distill_flags(added)
    return parser


def _add_model(parser: argparse.ArgumentParser, *, sizes: Sequence[int] = SIZES) -> None:
    parser.add_argument("--model", choices=CONFIGS, default="tiny", help="which model")
    parser.add_argument(
        "--weights", help="a file, 'random', or 'none' for the mesh; else those of the package"
    )
    parser.add_argument("--size", type=int, choices=sizes, help="side in pixels, if not its own")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it runs"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="of what works for every frame; auto is bfloat16 on a GPU, int8 on a CPU if it can",
    )
    parser.add_argument(
        "--attention",
        choices=("sdpa", "xformers"),
        default="sdpa",
        help="kernel of the spatial attentions; xformers is an optional package for GPUs",
    )


def _load(args: argparse.Namespace, **options: Any) -> Model:
    weights = args.weights
    if weights is None and args.steps == 0:
        weights = "none"  # nothing else is needed
    try:
        return load(
            args.model,
            size_px=args.size,
            weights=weights,
            device=args.device,
            attention=args.attention,
            **{"precision": args.precision, **options},
        )
    except ValueError as error:
        args.usage_error(str(error))
        raise AssertionError from error  # a usage error ends the program


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    # Shows the defaults that are any.
    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def _animate(args: argparse.Namespace) -> dict[str, Any]:
    if args.side_by_side and args.driving.suffix == ".npz":
        args.usage_error("--side-by-side needs a video: motion holds no pictures")
    for given in (args.source, args.driving):
        if given.exists() and args.output.exists() and given.samefile(args.output):
            raise UnwritableMediaError(f"{given} would be overwritten: name another output")
    stopwatch = Stopwatch(perf_counter)
    with ExitStack() as stack:
        with stopwatch.stage("load"):
            model = _load(args)
            steps = model.default_steps if args.steps is None else args.steps
            model.check_steps(steps)
            photo = read_photo(args.source)
            appearance = encode_source(model, photo)
        size = model.config.size_px
        driver = open_driver(
            args.driving,
            stack,
            stage=stopwatch.stage,
            box_px=size if args.side_by_side else None,
        )
        width, height = size * (2 if args.side_by_side else 1), size
        if args.paste_back:
            # H.264 halves the colour's resolution: sides must be even.
            height, width = (side // 2 * 2 for side in photo.shape[:2])
        output = stack.enter_context(
            write_video(
                args.output, width=width, height=height, fps=driver.fps, driver=driver.video
            )
        )
        frames = faceless = 0
        ica = start_s = None
        driving = _progress(driver.frames, "animate", driver.expected_frames)
        while chunk := list(islice(driving, model.config.new_frames)):
            motions = [motion for motion, _ in chunk]
            motions += motions[-1:] * (model.config.new_frames - len(chunk))
            request = ClipRequest(
                appearance=appearance,
                motion=Motion.concatenate(motions),
                ica=ica,
                steps=steps,
                seed=args.seed,
            )
            with stopwatch.stage("animate"):
                [clip] = animate(model, [request])
            ica = clip.ica
            # A last chunk that was filled up yields only the frames asked for.
            for (motion, picture), avatar in zip(chunk, clip.pixels, strict=False):
                time_s = float(motion.time_s[0])
                start_s = time_s if start_s is None else start_s
                shown = avatar if picture is None else np.hstack([picture, avatar])
                if args.paste_back:
                    shown = paste_back(photo, appearance, avatar)[:height, :width]
                with stopwatch.stage("write"):
                    output.write(time_s - start_s, shown)
                frames += 1
                faceless += not motion.valid[0]
    notes = driver.video.notes if driver.video else []
    if faceless == frames:
        notes = [*notes, "the driver shows no face: the portrait idles"]
    return {
        "steps": steps,
        "frames": frames,
        "fps": round(driver.fps, 3),
        "seconds": {stage: round(sum(times), 3) for stage, times in stopwatch.times_s.items()},
        "frames_without_face": faceless,
        "output": str(args.output),
        "width": width,
        "height": height,
        "notes": notes,
    }


def _track(args: argparse.Namespace) -> dict[str, Any]:
    with whole_file(args.output) as partial:
        motion, notes = _tracked(args.driving)
        with naming_errors(args.output):
            motion.save(partial)
    return {
        "frames": len(motion),
        "fps": round(mean_fps(motion), 3),
        "frames_without_face": int((~motion.valid).sum()),
        "output": str(args.output),
        "notes": notes,
    }


def _tracked(path: Path) -> tuple[Motion, list[str]]:
    with VideoReader(path) as video, closing(FaceMeshExtractor()) as extractor:
        pictures = _progress(iter(video), path.name, video.expected_frames)
        motion = Motion.concatenate([extractor.extract(*picture) for picture in pictures])
        return motion, video.notes


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    return evaluation.run(args, _load(args), progress=_progress)


def _bench(args: argparse.Namespace) -> dict[str, Any]:
    return bench_command.run(args, partial(_load, args))


def _fetch(args: argparse.Namespace) -> dict[str, Any]:
    from mimaface.hub import LICENCES, OFFICIAL, face_model_note, fetch

    for what, terms in LICENCES.items():
        print(f"{what}: {terms}")
    report = fetch(OFFICIAL, args.folder, progress=True)
    print(
        f"{len(report.downloaded)} files downloaded ({report.downloaded_bytes / 1e9:.2f} GB), "
        f"{len(report.verified)} were there and are whole"
    )
    if report.unverified:
        print(f"not on the hub, so not verified: {', '.join(report.unverified)}")
    if report.absent:
        print(f"not on the hub and not needed: {', '.join(report.absent)}")
    note = face_model_note(args.folder)
    print(note or f"next: mimaface convert --folder {args.folder} --output sd15.safetensors")
    return asdict(report) | {"folder": str(args.folder), "notes": [note] if note else []}


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from mimaface.lora import fuse_lora, read_lora
    from mimaface.official import read_official
    from mimaface.weights import save

    # What can be wrong is looked at before checkpoints of many gigabytes are read.
    _check_output(args.output)
    lora = None
    if args.lora:
        lora = read_lora(args.lora)
        if args.output.exists() and args.lora.samefile(args.output):
            raise UnwritableMediaError(f"{args.lora} would be overwritten: name another output")
    generator = read_official(args.folder, decoder=args.decoder)
    if lora is None:
        fused, config = 0, generator.config
        # Without one the weights are those of the release, and do as many steps as its sampler.
        generator.config = replace(
            config, samplings={RELEASED_STEPS: config.samplings[RELEASED_STEPS]}
        )
    else:
        fused = fuse_lora(generator.denoiser, lora, scale=args.lora_scale)
    save(generator, args.output, dtype=getattr(torch, args.precision))
    return {
        "output": str(args.output),
        "model": generator.config.name,
        "parameters": sum(each.numel() for each in generator.parameters()),
        "precision": args.precision,
        "fused_layers": fused,
        "size": generator.config.size_px,
    }


def _train(args: argparse.Namespace) -> dict[str, Any]:
    require_extra()
    from mimaface.training.train import run

    return run(args)


def _distill(args: argparse.Namespace) -> dict[str, Any]:
    require_extra()
    from mimaface.training.distill import run

    return run(args)


def _check_output(path: Path) -> None:
    # What would only be known when the file is written.
    with naming_errors(path):
        if not path.parent.is_dir():
            raise UnwritableMediaError(f"there is no folder {path.parent}: create it first")
        if path.is_dir():
            raise UnwritableMediaError(f"{path} is a folder: name a file")
        TemporaryFile(dir=path.parent).close()


def _progress(items: Iterator[Item], about: str, expected: int | None) -> Iterator[Item]:
    console = Console(stderr=True)
    return iter(
        with_progress(
            items, about, total=expected, console=console, disable=not console.is_terminal
        )
    )


def _named(suffix: str) -> Any:
    def path(text: str) -> Path:
        if Path(text).suffix != suffix:
            raise argparse.ArgumentTypeError(f"{text} must end in {suffix}")
        return Path(text)

    return path


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, not negative")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)


if __name__ == "__main__":
    hide_native_logs()
    sys.exit(main())
