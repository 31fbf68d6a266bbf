"""Training data: WebDataset shards of clips of made-up people.

A shard is a tar file `clips-000000.tar`; a sample is one clip of F consecutive frames:

    {key}.source.jpg   [S, S, 3], the source image: the film's first frame
    {key}.target.jpg   [F S, S, 3], the true frames, one below the other
    {key}.render.jpg   [F S, S, 3], the mesh renders of them, the condition
    {key}.motion.npz   signals float32 [F, M], landmarks float16 [F, V, 2] of the targets in [0, 1]
    {key}.meta.json    {"person": int, "seed": int, "fps": float}

Tar members are found by an index, so that a clip is read without those before it. This file knows
neither batches nor how clips are made.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final
from zipfile import BadZipFile

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from mimaface.errors import MimafaceError, UnreadableMediaError, UnwritableMediaError
from mimaface.types import EXPRESSION, GAZE, ROTATION, TRANSLATION, VERTICES, Floats, Pixels

SHARD: Final = "clips-{:06d}.tar"
JPEG_QUALITY: Final = 95
SIGNALS: Final = EXPRESSION + ROTATION + TRANSLATION + GAZE  # M of the mesh
FIELDS: Final = ("source.jpg", "target.jpg", "render.jpg", "motion.npz", "meta.json")
JPEG_END: Final = b"\xff\xd9"


@dataclass(frozen=True, kw_only=True)
class TrainingClip:
    """Consecutive frames of one person, and a source image of theirs.

    Attributes:
        source: uint8 [S, S, 3].
        target: uint8 [F, S, S, 3], the true frames.
        render: uint8 [F, S, S, 3], the source moved as a mesh.
        signals: [F, M], of the relative motion, as `mimaface.types.pack_signals` packs it.
        landmarks: [F, V, 2] in [0, 1], MediaPipe's points in the target.
        person: who it is.
        seed: that made it.
        fps: frames a second.
    """

    source: Pixels
    target: Pixels
    render: Pixels
    signals: Floats
    landmarks: Floats
    person: int
    seed: int = 0
    fps: float = 25.0

    def __post_init__(self) -> None:
        frames, size_px = self.target.shape[:2]
        pictures = (frames, size_px, size_px, 3)
        shapes = {
            "source": pictures[1:],
            "target": pictures,
            "render": pictures,
            "signals": (frames, SIGNALS),
            "landmarks": (frames, VERTICES, 2),
        }
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} must have shape {shape}, found {found}")

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, kw_only=True)
class ClipPlace:
    """Where a clip lies: its shard, and offset and length in bytes of each field."""

    shard: Path
    key: str
    fields: dict[str, tuple[int, int]]
    frames: int
    size_px: int


def encode_clip(key: str, clip: TrainingClip) -> dict[str, Any]:
    """Return a clip as a sample of a shard, its fields in bytes."""
    motion = BytesIO()
    np.savez(
        motion,
        signals=clip.signals.astype(np.float32),
        landmarks=clip.landmarks.astype(np.float16),
    )
    meta = {"person": int(clip.person), "seed": int(clip.seed), "fps": float(clip.fps)}
    return {
        "__key__": key,
        "source.jpg": _jpeg(clip.source),
        "target.jpg": _jpeg(rearrange(clip.target, "f h w c -> (f h) w c")),
        "render.jpg": _jpeg(rearrange(clip.render, "f h w c -> (f h) w c")),
        "motion.npz": motion.getvalue(),
        "meta.json": json.dumps(meta).encode(),
    }


def write_shards(
    clips: Iterable[TrainingClip], folder: Path, *, clips_per_shard: int, first_shard: int = 0
) -> list[Path]:
    """Write clips as they come; a shard has its name only once it is whole.

    Args:
        clips: what is written.
        folder: where; made if it is not there.
        clips_per_shard: the last shard may have fewer.
        first_shard: number of the first one, so that several processes can fill a folder.

    Returns:
        The shards, in order.
    """
    require_extra()
    from webdataset import TarWriter

    shards: list[Path] = []
    clips = iter(clips)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while some := next(clips, None):
            path = folder / SHARD.format(first_shard + len(shards))
            partial = path.with_suffix(".partial")
            rest = islice(clips, clips_per_shard - 1)
            with TarWriter(str(partial), encoder=False, mtime=0) as writer:
                for index, clip in enumerate(chain([some], rest)):
                    writer.write(encode_clip(f"{path.stem[6:]}{index:04d}", clip))
            partial.rename(path)
            shards.append(path)
    except OSError as error:
        raise UnwritableMediaError(f"{folder} cannot hold shards: {error}") from error
    return shards


def index_clips(folder: Path) -> list[ClipPlace]:
    """Find all clips of a folder's shards, and look into each, but not at its pixels.

    Raises:
        UnreadableMediaError: there are none, a shard is damaged or lacks something, or the clips
            differ in size.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UnreadableMediaError(f"there are no shards (*.tar) in {folder}: make some first")
    places = [place for shard in shards for place in _index_shard(shard)]
    sizes = {place.size_px for place in places}
    if len(sizes) > 1:
        raise UnreadableMediaError(f"{folder} has clips of several sizes: {sorted(sizes)} pixels")
    return places


def read_clip(place: ClipPlace) -> TrainingClip:
    """Read and decode one clip.

    Raises:
        UnreadableMediaError: it is damaged, or was changed since it was found.
    """
    try:
        with place.shard.open("rb") as file:
            fields = {name: _span(file, *span) for name, span in place.fields.items()}
        meta = json.loads(fields["meta.json"])
        with np.load(BytesIO(fields["motion.npz"]), allow_pickle=False) as motion:
            signals, landmarks = motion["signals"], motion["landmarks"].astype(np.float32)
        return TrainingClip(
            source=_pixels(fields["source.jpg"]),
            target=rearrange(_pixels(fields["target.jpg"]), "(f h) w c -> f h w c", f=place.frames),
            render=rearrange(_pixels(fields["render.jpg"]), "(f h) w c -> f h w c", f=place.frames),
            signals=signals,
            landmarks=landmarks,
            person=int(meta["person"]),
            seed=int(meta["seed"]),
            fps=float(meta["fps"]),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UnreadableMediaError(
            f"clip {place.key} of {place.shard} cannot be read: {error}"
        ) from error


def require_extra() -> None:
    """Raise one clear error where the optional packages for training are not installed."""
    try:
        import accelerate  # noqa: F401
        import webdataset  # noqa: F401
    except ImportError as error:
        raise MimafaceError(
            f"training needs optional packages, and {error.name} is missing: "
            "pip install 'mimaface[train]'"
        ) from error


def _index_shard(shard: Path) -> Iterator[ClipPlace]:
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                spans.setdefault(key, {})[name] = (member.offset_data, member.size)
        if not spans:
            raise ValueError("it is empty")
        with shard.open("rb") as file:
            for key, fields in spans.items():
                yield _look_into(shard, key, fields, file)
    except (OSError, tarfile.TarError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UnreadableMediaError(
            f"{shard} is not a whole shard of clips: {error}; make it again or remove it"
        ) from error


def _look_into(
    shard: Path, key: str, fields: dict[str, tuple[int, int]], file: IO[bytes]
) -> ClipPlace:
    # Everything but the pixels is read: those would take as long as training on them.
    if lacking := [name for name in FIELDS if name not in fields]:
        raise ValueError(f"clip {key} lacks {', '.join(lacking)}")
    meta = json.loads(_span(file, *fields["meta.json"]))
    if not isinstance(meta, dict) or not {"person", "seed", "fps"} <= meta.keys():
        raise ValueError(f"meta.json of clip {key} lacks person, seed or fps")
    sizes = {}
    for name in FIELDS[:3]:
        jpeg = _span(file, *fields[name])
        if not jpeg.endswith(JPEG_END):
            raise ValueError(f"{name} of clip {key} is cut off")
        with Image.open(BytesIO(jpeg)) as image:
            sizes[name] = image.size
    with np.load(BytesIO(_span(file, *fields["motion.npz"])), allow_pickle=False) as motion:
        signals, landmarks = motion["signals"], motion["landmarks"]
    frames, size_px = len(signals), sizes["source.jpg"][0]
    found = {**sizes, "signals": signals.shape, "landmarks": landmarks.shape}
    wanted = {
        "source.jpg": (size_px, size_px),
        "target.jpg": (size_px, frames * size_px),
        "render.jpg": (size_px, frames * size_px),
        "signals": (frames, SIGNALS),
        "landmarks": (frames, VERTICES, 2),
    }
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{name} of clip {key} must have shape {shape}, found {found[name]}")
    if not (np.isfinite(signals).all() and np.isfinite(landmarks).all()):
        raise ValueError(f"motion.npz of clip {key} holds values that are no numbers")
    return ClipPlace(
        shard=shard,
        key=key,
        fields={name: fields[name] for name in FIELDS},
        frames=frames,
        size_px=size_px,
    )


def _span(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise EOFError("the file is cut off")
    return data


def _jpeg(pixels: Pixels) -> bytes:
    # Colours at full resolution: the edges of lips and irises are colour edges.
    buffer = BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _pixels(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))
