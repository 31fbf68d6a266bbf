"""Compare ways from pictures to latents on pictures that no training has seen.

python -m mimaface.training.latents --data SHARDS --pictures PHOTO [PHOTO ...] --minutes 5

A small autoencoder is trained on the clips, for as long as it is given; rearranged pixels need no
training. Printed are what is left of a picture that goes through each and back, and what that
costs on one core.
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
from torch import Tensor
from torch.nn import functional as F

from mimaface.autoencoder import TAESD, Autoencoder, PixelUnshuffle
from mimaface.condition import to_images
from mimaface.config import HEAD_AND_SHOULDERS
from mimaface.errors import MimafaceError
from mimaface.evaluation.metrics import sharpness
from mimaface.photo import crop_around, only_face, read_photo
from mimaface.training.batches import Batches, BatchOptions
from mimaface.training.data import index_clips
from mimaface.training.losses import sum_of
from mimaface.types import Pixels

WIDTH, LATENT_CHANNELS = 32, 16  # a quarter of TAESD's blocks, four times its latents
CROP_PX: Final = 128
RATE: Final = 1e-3
REPEATS: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print a JSON object; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="portraits")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        pictures = [_portrait(path) for path in args.pictures]
        small = train(args.data, minutes=args.minutes, seed=args.seed)
    except MimafaceError as error:
        print(f"latents: {error}", file=sys.stderr)  # noqa: T201
        return 1
    ways: dict[str, Autoencoder] = {"autoencoder": small, "unshuffle": PixelUnshuffle(4)}
    print(json.dumps({name: measure(way, pictures) for name, way in ways.items()}))  # noqa: T201
    return 0


def train(data: Path, *, minutes: float, seed: int) -> TAESD:
    """Train the small autoencoder on crops of the clips' true frames."""
    torch.manual_seed(seed)
    network = TAESD(
        width=WIDTH,
        encoder_blocks=(1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1),
        latent_channels=LATENT_CHANNELS,
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    options = BatchOptions(size=8, frames=1, seed=seed, crop_px=CROP_PX)
    batches, number, start_s = Batches(index_clips(data), options), 0, perf_counter()
    while perf_counter() - start_s < 60 * minutes:
        images = batches[number].target[:, 0]
        made = network.decode(network.encode(images))
        loss = F.l1_loss(made, images) + sum_of(
            F.l1_loss(made.diff(dim=axis), images.diff(dim=axis)) for axis in (2, 3)
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        number += 1
    batches.close()
    return network.eval()


@torch.inference_mode()
def measure(way: Autoencoder, pictures: Sequence[Pixels]) -> dict[str, Any]:
    """Return PSNR in dB, kept sharpness and milliseconds to decode, means over the pictures.

    A perfect copy has a PSNR of 99.
    """
    psnr, kept = [], []
    for picture in pictures:
        made = _pixels(way.decode(way.encode(to_images(picture[None]))))
        error = np.square(made.astype(np.float64) - picture).mean()
        psnr.append(min(99.0, 10 * np.log10(255**2 / max(error, 1e-12))))
        kept.append(sharpness(made) / sharpness(picture))
    latents, times_s = way.encode(to_images(pictures[0][None])), []
    for _ in range(REPEATS):
        start_s = perf_counter()
        way.decode(latents)
        times_s.append(perf_counter() - start_s)
    return {
        "psnr": round(float(np.mean(psnr)), 2),
        "sharpness": round(float(np.mean(kept)), 3),
        "decode_ms": round(1000 * min(times_s), 2),
        "latents": list(latents.shape[1:]),
    }


def _portrait(path: Path) -> Pixels:
    picture = read_photo(path)
    crop = crop_around(only_face(picture), picture.shape, HEAD_AND_SHOULDERS)
    cropped = picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    return cv2.resize(cropped, (256, 256), interpolation=cv2.INTER_AREA)


def _pixels(images: Tensor) -> Pixels:
    values: Pixels = ((images[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    return np.ascontiguousarray(values.transpose(1, 2, 0))


if __name__ == "__main__":
    sys.exit(main())
