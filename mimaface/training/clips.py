"""Training clips: a made-up person is filmed, tracked, and driven by their own film.

Everything behind the film is the live system's own: the tracker, the smoothing, the mesh. So the
condition that training sees is the one that the avatar is made from, faults included. The true
landmarks say how far the tracker was off, and where eyes and mouth are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from mimaface.appearance import encode_photo
from mimaface.errors import SourceImageError
from mimaface.motion import FaceMeshExtractor, Neutral, RelativeMotion
from mimaface.render import render
from mimaface.sight import pack_motion
from mimaface.training.canonical import Correspondence, load_correspondence
from mimaface.training.casting import Scene, cast, set_scene
from mimaface.training.data import TrainingClip
from mimaface.training.face_model import FaceModel
from mimaface.training.film import Film
from mimaface.training.performance import perform
from mimaface.types import Appearance, Floats, Motion, Pixels

PICTURE_PX: Final = 576  # photos and cameras have more than the avatar
TRACKED_PX: Final = 384
SIZE_PX: Final = 256
FPS: Final = 20.0
STRANDS: Final = 6000
# Of the distance between the outer eye corners: a tracker that is further off has lost the face.
MOST_DEVIATION: Final = 0.12
CAMERA_JPEG: Final = (45, 95)  # qualities of what the tracker sees


def film_clips(
    face_model: Path, *, seed: int, clips: int, frames: int, first: int, workers: int
) -> Iterator[TrainingClip]:
    """Film people one after the other, each for one clip; those the tracker lost are left out.

    Args:
        face_model: the ICT face model's file.
        seed: of everything; clip `i` depends on (seed, i) alone.
        clips: how many people are filmed.
        frames: F, of each clip.
        first: index of the first person.
        workers: processes.
    """
    jobs = [(str(face_model), seed, index, frames) for index in range(first, first + clips)]
    with get_context("spawn").Pool(workers) as pool:
        for clip in pool.imap(_film, jobs):
            if clip is not None:
                yield clip


def film_clip(
    model: FaceModel, correspondence: Correspondence, *, seed: int, index: int, frames: int
) -> TrainingClip | None:
    """Film one person; return None where the tracker does not see them."""
    rng = np.random.default_rng((seed, index))
    look = cast(rng, strands=STRANDS)
    scene = set_scene(rng, look, size_px=PICTURE_PX)
    film = Film(model, look, scene, size_px=PICTURE_PX)

    shots = [film.shoot(pose) for pose in perform(rng, frames, fps=FPS)]
    pictures = [_through_lens(shot.pixels, scene) for shot in shots]
    try:
        appearance = encode_photo(pictures[0], size_px=SIZE_PX)
    except SourceImageError:
        return None
    motion, seen = _track(pictures, scene, rng)
    truth = np.stack([correspondence.evaluate(model, shot.vertices)[:, :2] for shot in shots])
    if seen is None or _deviation(seen * PICTURE_PX, truth) > MOST_DEVIATION:
        return None
    crop = appearance.crop
    return TrainingClip(
        source=appearance.source,
        target=np.stack([_cropped(picture, appearance) for picture in pictures]),
        render=render(appearance.mesh, motion).pixels,
        signals=pack_motion(motion),
        landmarks=((truth - [crop.left, crop.top]) / crop.side).astype(np.float32),
        person=index,
        seed=seed,
        fps=FPS,
    )


def _film(job: tuple[str, int, int, int]) -> TrainingClip | None:
    path, seed, index, frames = job
    cv2.setNumThreads(1)
    model, correspondence = _loaded(path)
    return film_clip(model, correspondence, seed=seed, index=index, frames=frames)


@cache
def _loaded(path: str) -> tuple[FaceModel, Correspondence]:
    return FaceModel.load(Path(path)), load_correspondence()


def _through_lens(pixels: Pixels, scene: Scene) -> Pixels:
    seen = pixels * scene.tint
    if scene.blur_px > 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), scene.blur_px)
    return np.clip(seen + 0.5, 0, 255).astype(np.uint8)


def _track(
    pictures: list[Pixels], scene: Scene, rng: np.random.Generator
) -> tuple[Motion, Floats | None]:
    # Relative motion, and the landmarks [F, V, 2] as they were seen; None where a face was lost.
    quality = int(rng.integers(*CAMERA_JPEG))
    seen = []
    with closing(FaceMeshExtractor()) as extractor:
        for frame, picture in enumerate(pictures):
            picture = cv2.resize(picture, (TRACKED_PX, TRACKED_PX), interpolation=cv2.INTER_AREA)
            noisy = picture + rng.normal(0, scene.noise + 1e-3, picture.shape)
            _, file = cv2.imencode(
                ".jpg",
                np.clip(noisy, 0, 255).astype(np.uint8),
                [cv2.IMWRITE_JPEG_QUALITY, quality],
            )
            seen.append(extractor.extract(frame / FPS, cv2.imdecode(file, cv2.IMREAD_COLOR)))
    absolute = Motion.concatenate(seen)
    if not absolute.valid.all():
        return absolute, None
    relative = RelativeMotion(Neutral.of(seen[0]))
    return Motion.concatenate([relative.push(each) for each in seen]), absolute.landmarks[..., :2]


def _deviation(seen: Floats, truth: Floats) -> float:
    eyes = np.linalg.norm(truth[:, 263] - truth[:, 33], axis=-1)
    error = np.linalg.norm(seen[:, :468] - truth[:, :468], axis=-1).mean(axis=1)
    return float((error / eyes).max())


def _cropped(picture: Pixels, appearance: Appearance) -> Pixels:
    crop = appearance.crop
    window = picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    how = cv2.INTER_AREA if crop.side > SIZE_PX else cv2.INTER_CUBIC
    return cv2.resize(window, (SIZE_PX, SIZE_PX), interpolation=how)
