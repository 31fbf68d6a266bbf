"""Compare ways from pictures to latents on portraits that no training has seen.

python -m mimaface.training.latents --data SHARDS --pictures PHOTO [PHOTO ...]

Rearranged pixels lose nothing. Whatever an autoencoder does to 8x8 pixels starts from what the best
linear one keeps of them, which needs no training: the principal components of the clips' true
frames. Printed are what is left of a portrait that goes through each and back, and what a small
convolutional decoder of that form costs on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import cv2
import numpy as np
import torch
from einops import rearrange

from mimaface.autoencoder import TAESD
from mimaface.config import HEAD_AND_SHOULDERS
from mimaface.errors import MimafaceError
from mimaface.evaluation.metrics import psnr, sharpness
from mimaface.photo import crop_around, only_face, read_photo
from mimaface.training.data import index_clips, read_clip
from mimaface.types import Floats, Pixels

SIZE_PX: Final = 256
CELL_PX: Final = 8
CHANNELS: Final = (16, 32)  # of 8x8 pixels; Stable Diffusion has 4
MOST_CLIPS: Final = 60
REPEATS: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print a JSON object; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="portraits")
    args = parser.parse_args(arguments)
    try:
        pictures = [portrait(path) for path in args.pictures]
        frames = [read_clip(place).target[0] for place in index_clips(args.data)[:MOST_CLIPS]]
    except MimafaceError as error:
        print(f"latents: {error}", file=sys.stderr)  # noqa: T201
        return 1
    mean, basis = principal_components(frames)
    rows: dict[str, Any] = {
        f"linear_{count}": kept(pictures, [through(each, mean, basis[:count]) for each in pictures])
        for count in CHANNELS
    }
    rows["unshuffle"] = kept(pictures, pictures)
    rows["decoder_ms"] = decoder_ms()
    print(json.dumps(rows))  # noqa: T201
    return 0


def portrait(path: Path) -> Pixels:
    """Return a photo [S, S, 3] as an avatar of it is framed."""
    picture = read_photo(path)
    crop = crop_around(only_face(picture), picture.shape, HEAD_AND_SHOULDERS)
    cropped = picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    return cv2.resize(cropped, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)


def principal_components(frames: Sequence[Pixels]) -> tuple[Floats, Floats]:
    """Return the mean [192] and the principal components [192, 192], the strongest first."""
    cells = np.concatenate([_cells(each) for each in frames])
    mean = cells.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((cells - mean).T))
    return mean, vectors[:, ::-1].T.astype(np.float32)


def through(picture: Pixels, mean: Floats, basis: Floats) -> Pixels:
    """Return a picture [S, S, 3] of which each cell keeps its coordinates on a basis [C, 192]."""
    cells = (_cells(picture) - mean) @ basis.T @ basis + mean
    back = rearrange(
        np.clip(cells + 0.5, 0, 255).astype(np.uint8),
        "(h w) (i j c) -> (h i) (w j) c",
        h=len(picture) // CELL_PX,
        i=CELL_PX,
        j=CELL_PX,
    )
    return np.ascontiguousarray(back)


def kept(pictures: Sequence[Pixels], made: Sequence[Pixels]) -> dict[str, float | None]:
    """Return PSNR in dB, None of perfect copies, and the share of sharpness left; means."""
    pairs = list(zip(pictures, made, strict=True))
    is_exact = all(np.array_equal(*pair) for pair in pairs)
    return {
        "psnr": None if is_exact else round(float(np.mean([psnr(*pair) for pair in pairs])), 2),
        "sharpness": round(float(np.mean([sharpness(b) / sharpness(a) for a, b in pairs])), 3),
    }


@torch.inference_mode()
def decoder_ms() -> float:
    """Return the least time of a decoder of TAESD's form, 32 wide with one block a level."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = TAESD(width=32, decoder_blocks=(1, 1, 1, 1), latent_channels=CHANNELS[0]).eval()
    latents = torch.zeros(1, CHANNELS[0], SIZE_PX // CELL_PX, SIZE_PX // CELL_PX)
    times_s = []
    for _ in range(REPEATS):
        start_s = perf_counter()
        network.decode(latents)
        times_s.append(perf_counter() - start_s)
    torch.set_num_threads(threads)
    return round(1000 * min(times_s), 1)


def _cells(picture: Pixels) -> Floats:
    cells: Floats = rearrange(
        picture.astype(np.float32), "(h i) (w j) c -> (h w) (i j c)", i=CELL_PX, j=CELL_PX
    )
    return cells


if __name__ == "__main__":
    sys.exit(main())
