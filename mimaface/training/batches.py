"""Batches of windows of frames, each a function of a seed and the batch's number alone.

Clips are visited in a shuffled order, some at a time: the windows of those are shuffled among each
other, so that a decoded clip serves several. Training that goes on at batch k reads the clips of
that batch and gets what it would have got. Nothing is mirrored: signals and landmarks have sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mimaface.face_crop import GRID_PX, LEAST_MARGIN
from mimaface.face_mesh import FEATURES
from mimaface.training.data import ClipPlace, TrainingClip, read_clip
from mimaface.types import Corner, Floats, Pixels

ORDER, MIX, WINDOW = range(3)  # what a seed is drawn for


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How batches are made.

    Attributes:
        size: windows of a batch.
        frames: T of a window.
        seed: everything random is drawn from it and the batch's number.
        crop_px: side of the square around the features that is all there is of render and target;
            None for whole pictures.
        most_stride: frames between those of a window, drawn from 1 up to it.
        colours: strength of the changed colours, the same in all pictures of a window.
        clips_held: clips that are decoded at a time.
        windows_per_clip: drawn of each before the next ones are decoded.
    """

    size: int
    frames: int
    seed: int
    crop_px: int | None = None
    most_stride: int = 4
    colours: float = 1.0
    clips_held: int = 32
    windows_per_clip: int = 8

    def __post_init__(self) -> None:
        for name in ("size", "frames", "most_stride", "clips_held", "windows_per_clip"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.crop_px is not None and (self.crop_px < 32 or self.crop_px % 32):
            raise ValueError(f"crop_px must be a multiple of 32, found {self.crop_px}")
        if self.clips_held * self.windows_per_clip < self.size:
            raise ValueError(
                f"{self.clips_held} clips with {self.windows_per_clip} windows each do not fill "
                f"a batch of {self.size}"
            )

    @property
    def per_group(self) -> int:
        """Batches made of the clips that are held at a time."""
        return self.clips_held * self.windows_per_clip // self.size


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of B clips. Pictures are in [-1, 1]; P is the crop's side, or S.

    Attributes:
        source: [B, 3, S, S].
        source_crop: [B, 3, P, P], the same place of the source as of the frames.
        other: [B, 3, S, S], the last target whole and in other colours: the same person again.
        target: [B, T, 3, P, P].
        render: [B, T, 3, P, P].
        signals: [B, T, M].
        landmarks: [B, T, V, 2], in sides of the crop from its corner; some may lie outside.
        person: [B].
    """

    source: Tensor
    source_crop: Tensor
    other: Tensor
    target: Tensor
    render: Tensor
    signals: Tensor
    landmarks: Tensor
    person: Tensor

    def to(self, device: torch.device) -> Self:
        """Return it on a device."""
        return type(self)(**{name: each.to(device) for name, each in vars(self).items()})


class Batches:
    """Batches by number, with the decoded clips of the last one, and those that follow."""

    def __init__(self, places: Sequence[ClipPlace], options: BatchOptions) -> None:
        """Check that every clip has the frames and pixels of a window."""
        if not places:
            raise ValueError("there are no clips to make batches of")
        shortest = min(place.frames for place in places)
        if options.frames > shortest:
            raise ValueError(f"a window of {options.frames} frames is longer than {shortest}")
        if options.crop_px is not None and options.crop_px > places[0].size_px:
            raise ValueError(
                f"crop_px must be at most the pictures' {places[0].size_px}, "
                f"found {options.crop_px}"
            )
        self.options = options
        self._places = places
        self._groups: dict[int, Future[list[TrainingClip]]] = {}
        # Decoding lets go of the interpreter, so it fits beside a step of training.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clips")

    def __getitem__(self, number: int) -> Batch:
        """Return the batch of a number, from 0 on, without end."""
        options, (group, within) = self.options, divmod(number, self.options.per_group)
        clips = self._read(group)
        order = _rng(options.seed, MIX, group).permutation(len(clips) * options.windows_per_clip)
        chosen = order[within * options.size :][: options.size]
        if within == options.per_group // 2:
            self._start(group + 1)
        return _stack(
            [
                _window(
                    clips[int(each) % len(clips)], options, _rng(options.seed, WINDOW, group, each)
                )
                for each in chosen
            ]
        )

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(cancel_futures=True)

    def _start(self, group: int) -> Future[list[TrainingClip]]:
        if group not in self._groups:
            places = [self._places[each] for each in self._order(group)]
            self._groups[group] = self._reader.submit(lambda: [read_clip(each) for each in places])
        return self._groups[group]

    def _read(self, group: int) -> list[TrainingClip]:
        clips = self._start(group).result()
        self._groups = {key: each for key, each in self._groups.items() if key >= group}
        return clips

    def _order(self, group: int) -> list[int]:
        # Every clip once before any comes again, each time in another order.
        count, held = len(self._places), self.options.clips_held
        positions = range(group * held, (group + 1) * held)
        orders = {
            turn: _rng(self.options.seed, ORDER, turn).permutation(count)
            for turn in range(positions[0] // count, positions[-1] // count + 1)
        }
        return [int(orders[each // count][each % count]) for each in positions]


class Curriculum:
    """Batches of one stage of training after the other; only the present stage's are held."""

    def __init__(
        self, places: Sequence[ClipPlace], stages: Sequence[tuple[int, BatchOptions]]
    ) -> None:
        """Check the clips against all stages: options, and the number where each stage ends."""
        self._places, self._stages = places, [each for each in stages if each[0] > 0]
        for _, options in self._stages:
            Batches(places, options).close()
        self._batches: Batches | None = None

    def __getitem__(self, number: int) -> Batch:
        """Return the batch of a number, from 0 on; the last stage has no end."""
        options = next(
            (options for end, options in self._stages if number < end), self._stages[-1][1]
        )
        if self._batches is None or self._batches.options != options:
            self.close()
            self._batches = Batches(self._places, options)
        return self._batches[number]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._batches is not None:
            self._batches.close()


def _window(clip: TrainingClip, options: BatchOptions, rng: np.random.Generator) -> Batch:
    # One row of a batch, without the batch's axis.
    spare = max((len(clip) - 1) // max(options.frames - 1, 1), 1)
    stride = int(rng.integers(1, min(options.most_stride, spare), endpoint=True))
    reach = (options.frames - 1) * stride
    first = int(rng.integers(0, len(clip) - reach))
    frames = np.arange(first, first + reach + 1, stride)

    size_px = clip.target.shape[1]
    side = options.crop_px or size_px
    features = clip.landmarks[frames][:, FEATURES] * size_px
    left, top = _corner(features, size_px, side, rng)
    rows, columns = slice(top, top + side), slice(left, left + side)
    colours, others = (_Colours.draw(rng, options.colours) for _ in range(2))
    source = colours.change(clip.source)
    return Batch(
        source=source,
        source_crop=source[:, rows, columns].clone(),
        other=others.change(clip.target[frames[-1]]),
        target=colours.change(clip.target[frames, rows, columns]),
        render=colours.change(clip.render[frames, rows, columns]),
        signals=torch.from_numpy(clip.signals[frames]),
        landmarks=torch.from_numpy(
            ((clip.landmarks[frames] * size_px - (left, top)) / side).astype(np.float32)
        ),
        person=torch.tensor(clip.person),
    )


def _corner(landmarks: Floats, size_px: int, side: int, rng: np.random.Generator) -> Corner:
    # Of a square that might be where the features of these frames are (`face_crop.follow`).
    low, high = landmarks.min(axis=(0, 1)), landmarks.max(axis=(0, 1))
    slack = np.maximum(side * (1 - 2 * LEAST_MARGIN) - (high - low), 0)
    corner = (low + high - side) / 2 + slack * rng.uniform(-0.5, 0.5, 2)
    left, top = np.clip(np.round(corner / GRID_PX) * GRID_PX, 0, size_px - side)
    return int(left), int(top)


@dataclass(frozen=True)
class _Colours:
    # x in [0, 1] becomes table[x] mix^T.
    table: Floats  # [256]
    mix: Floats  # [3, 3]

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float) -> Self:
        gamma = np.exp(strength * rng.uniform(-0.25, 0.25))
        gains = np.exp(strength * rng.uniform(-0.15, 0.15, 3))
        mix = np.diag(gains) @ (np.eye(3) + strength * rng.uniform(-0.06, 0.06, (3, 3)))
        mix *= np.exp(strength * rng.uniform(-0.2, 0.1)) / mix.sum(1).mean()
        table = np.linspace(0, 1, 256) ** gamma
        return cls(table.astype(np.float32), mix.astype(np.float32))

    def change(self, pixels: Pixels) -> Tensor:
        # uint8 [.., H, W, 3] -> [.., 3, H, W] in [-1, 1]
        mixed = np.clip(self.table[pixels] @ self.mix.T, 0, 1)
        channels: Tensor = rearrange(torch.from_numpy(mixed), "... h w c -> ... c h w")
        return channels.contiguous() * 2 - 1


def _stack(rows: Sequence[Batch]) -> Batch:
    names = vars(rows[0])
    return Batch(**{name: torch.stack([getattr(row, name) for row in rows]) for name in names})


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([int(each) for each in seed])
