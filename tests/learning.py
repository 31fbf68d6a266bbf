"""A narrow embedded model, and shards of random clips to train it on: quick, and no faces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from mimaface.config import CONFIGS
from mimaface.training.data import SIGNALS, TrainingClip, write_shards
from mimaface.types import VERTICES, Pixels

TINY: Final = CONFIGS["tiny"]
SMALL: Final = replace(
    TINY,
    size_px=64,
    most_px=64,
    denoiser=replace(TINY.denoiser, widths=(8, 8, 16, 16), heads=2, norm_groups=4),
    mia=replace(TINY.mia, width=16, layers=1, heads=2),
    encoder=replace(TINY.encoder, channels=(4, 8, 8), width=16, grid=4, layers=1, heads=2),
)


def random_clips(
    count: int, *, frames: int = 6, size_px: int = 64, seed: int = 0
) -> Iterator[TrainingClip]:
    """Return smooth pictures that drift, each clip of another person; renders are darker."""
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        still: Pixels = np.asarray(
            Image.fromarray(small).resize((size_px, size_px), Image.Resampling.BICUBIC)
        )
        target = np.stack([np.roll(still, frame, axis=1) for frame in range(frames)])
        yield TrainingClip(
            source=still,
            target=target,
            render=(target * 0.8).astype(np.uint8),
            signals=(0.1 * rng.standard_normal((frames, SIGNALS))).astype(np.float32),
            landmarks=rng.uniform(0.3, 0.7, (frames, VERTICES, 2)).astype(np.float32),
            person=index,
            seed=seed,
        )


def random_shards(folder: Path, *, count: int = 6, frames: int = 6) -> Path:
    """Fill a folder with shards and return it."""
    write_shards(random_clips(count, frames=frames), folder, clips_per_shard=4)
    return folder


def log_lines(folder: Path, *, having: str) -> list[dict[str, Any]]:
    """Return those lines of a run's log that have a value of this name."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if having in line]
