"""Make what comes from the ICT face model: the package's assets, and training clips.

python -m mimaface.training.synthetic assets --face-model PATH --output mimaface/assets
python -m mimaface.training.synthetic clips --face-model PATH --output DIR --people 400
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from mimaface.errors import MimafaceError
from mimaface.training.canonical import canonical_face
from mimaface.training.clips import film_clips
from mimaface.training.data import write_shards
from mimaface.training.face_model import FaceModel
from mimaface.training.hair import HairStyle
from mimaface.training.person import Look
from mimaface.training.portrait import render_portrait

CLIPS_PER_SHARD: Final = 10
LOOKS = {
    "ada": Look(
        seed=4,
        build=1.7,
        variation=0.35,
        eye_size=0.14,
        shoulders=0.9,
        skin=(236, 186, 162),
        lips=(204, 92, 92),
        freckles=0.8,
        iris=(96, 130, 100),
        hair=HairStyle(cut="bob", colour=(112, 64, 38), parting_cm=-2.2, lash_cm=0.4),
        clothes=(52, 92, 104),
        background=((208, 216, 212), (128, 152, 160)),
        expression={"mouthSmile": 0.5, "cheekSquint": 0.25, "eyeSquint": 0.1, "eyeBlink": 0.06},
    ),
    "noor": Look(
        seed=5,
        build=-0.5,
        variation=0.35,
        eye_size=0.15,
        skin=(202, 141, 114),
        lips=(172, 100, 86),
        iris=(92, 56, 32),
        hair=HairStyle(cut="quiff", colour=(40, 28, 24), lash_cm=0.2),
        clothes=(196, 150, 84),
        background=((196, 190, 178), (122, 112, 108)),
        rotation=(0.0, -0.08, 0.0),
        expression={"mouthSmile": 0.5, "cheekSquint": 0.2, "eyeWide": 0.2},
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], about: str) -> Any:
        added = commands.add_parser(
            name,
            help=about,
            description=about,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.set_defaults(run=run)
        added.add_argument("--face-model", type=Path, required=True, help="the .npz file")
        added.add_argument("--output", type=Path, required=True, help="folder")
        return added

    command("assets", _make_assets, "make the canonical face and the portraits; three minutes")
    added = command("clips", _make_clips, "film people who do not exist, as training data")
    added.add_argument("--people", type=int, default=400, help="how many, one clip each")
    added.add_argument("--first", type=int, default=0, help="index of the first, to go on")
    added.add_argument("--frames", type=int, default=24, help="of a clip")
    added.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    added.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args(arguments)
    if args.run is _make_clips and args.first % CLIPS_PER_SHARD:
        parser.error(f"--first must be a multiple of {CLIPS_PER_SHARD}: a shard has so many clips")
    try:
        args.run(args)
    except MimafaceError as error:
        print(f"synthetic {args.command}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _make_assets(args: argparse.Namespace) -> None:
    model = FaceModel.load(args.face_model)
    portraits = args.output / "portraits"
    portraits.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output / "canonical_face.npz", **canonical_face(model))
    for name, look in LOOKS.items():
        pixels = render_portrait(model, look).pixels
        Image.fromarray(pixels).save(portraits / f"{name}.jpg", quality=92, subsampling=0)


def _make_clips(args: argparse.Namespace) -> None:
    FaceModel.load(args.face_model)  # an error now rather than in a worker
    clips = film_clips(
        args.face_model,
        seed=args.seed,
        clips=args.people,
        frames=args.frames,
        first=args.first,
        workers=args.workers,
    )
    write_shards(
        clips,
        args.output,
        clips_per_shard=CLIPS_PER_SHARD,
        first_shard=args.first // CLIPS_PER_SHARD,
    )


if __name__ == "__main__":
    sys.exit(main())
