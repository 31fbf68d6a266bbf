"""What training is told, in Python and on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How long and how fast to train, and what is kept.

    Attributes:
        data: folder of the shards.
        output: folder of checkpoints, log, sheets and weights.
        steps: of the whole schedule, however many pieces it is made in.
        batch: windows in a step.
        rate: highest learning rate.
        seed: of batches and noise.
        minutes: after which a piece ends with a checkpoint; 0 for none.
        precision: of the networks' arithmetic; weights stay in float32.
        log_every, sheet_every, save_every: steps.
        warm_up: share of the steps in which the rate rises.
        weight_decay: of matrices and convolutions.
        clip_norm: longest gradient.
        decay: of the average, once it is warm.
        tensorboard: whether its files are written too.
    """

    data: Path
    output: Path
    steps: int
    batch: int
    rate: float
    seed: int = 0
    minutes: float = 0.0
    precision: str = "bf16"
    log_every: int = 20
    sheet_every: int = 200
    save_every: int = 500
    warm_up: float = 0.03
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    decay: float = 0.998
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "sheet_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")
        for name in ("warm_up", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be 0 to 1, found {getattr(self, name)}")
        if self.precision not in ("bf16", "no"):
            raise ValueError(f"precision must be bf16 or no, found {self.precision!r}")
        if self.minutes < 0 or self.seed < 0:
            raise ValueError(f"must not be negative: {self.minutes=}, {self.seed=}")


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `mimaface train`."""
    _add_loop_flags(parser, steps=1200, batch=8, rate=6e-4)
    parser.add_argument(
        "--image-share", type=float, default=0.4, help="of the steps, on single frames"
    )
    parser.add_argument(
        "--walk-share", type=float, default=0.8, help="of the rows, at levels of few-step walks"
    )
    parser.add_argument(
        "--warm-share", type=float, default=0.9, help="of a walk's first level, from a warm start"
    )


def add_distill_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `mimaface distill`."""
    _add_loop_flags(parser, steps=1500, batch=8, rate=4e-4)
    parser.add_argument(
        "--teacher", type=Path, required=True, help="weight file, or a checkpoint's folder"
    )
    parser.add_argument("--clips", type=int, default=3, help="R, clips of a roll-out")
    parser.add_argument(
        "--clip-share", type=float, default=0.25, help="of the roll-outs, one clip of R frames"
    )
    parser.add_argument("--critic-share", type=float, default=0.4, help="of the steps, without it")


def _add_loop_flags(
    parser: argparse.ArgumentParser, *, steps: int, batch: int, rate: float
) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--output", type=Path, required=True, help="folder; it is gone on with")
    parser.add_argument("--steps", type=int, default=steps, help="of the whole schedule")
    parser.add_argument("--batch", type=int, default=batch, help="windows in a step")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of batches and noise")
    parser.add_argument("--minutes", type=float, default=0.0, help="of this piece; 0 for no end")
    parser.add_argument(
        "--precision", choices=("bf16", "no"), default="bf16", help="of the arithmetic; no: float32"
    )
    parser.add_argument("--sheet-every", type=int, default=200, help="steps between sample sheets")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument(
        "--tensorboard", action="store_true", default=False, help="write its files too"
    )
