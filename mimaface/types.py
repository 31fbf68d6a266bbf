"""The types that flow through the library, and the one shape legend.

    B  clips in a batch (one per session)     F  frames of a clip, carried ones included
    K  carried frames                         N  new frames of a clip, N = F - K
    C  latent channels                        H W  pixels        h w  latent cells
    L D  context tokens and their width       V  vertices of the face mesh, 478
    E  expression values per frame, 3 V

Pixels outside the library are uint8 [.., H, W, 3] RGB; inside the generator they are float
[.., 3, H, W] in [-1, 1]. Coordinates are x right, y down, z away from the camera; angles are
radians; times are seconds. A *head unit* is the distance between the outer corners of the eyes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mimaface.errors import UnreadableMediaError

if TYPE_CHECKING:
    from mimaface.render import SourceMesh

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]  # of either precision

VERTICES = 478


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the frames of a face say about its movement; there are no pixels in it.

    Absolute motion describes the face that was seen. Relative motion (`is_relative`) describes
    its deviation from that face's own neutral, in the proportions of the canonical face, so that
    it can drive any other face.

    Attributes:
        time_s: [F] float64, media time, increasing.
        valid: [F] bool, False where no face was seen; the other rows are then held or idle values.
        landmarks: [F, V, 3], MediaPipe's points: x over the frame's width, y over its height,
            z over its width (smaller is nearer).
        aspect: [F], the frame's width over its height.
        rotation: [F, 3], pitch, yaw and roll from head to camera: `face_mesh.rotation_matrix`.
        translation: [F, 3], head origin in head units; x and y from the frame's centre, z the
            distance from a camera whose focal length is one frame width.
        expression: [F, E], displacement of every vertex from the canonical face in head space,
            in head units, flattened.
        gaze: [F, 4], yaw and pitch of the left eye of the picture, then of the right one: how far
            each iris sits from the middle of its eye, as an angle in head space.
        is_relative: whether rotation, translation, expression and gaze are deviations.
    """

    time_s: NDArray[np.float64]
    valid: NDArray[np.bool_]
    landmarks: Floats
    aspect: Floats
    rotation: Floats
    translation: Floats
    expression: Floats
    gaze: Floats
    is_relative: bool = False

    def __post_init__(self) -> None:
        frames = len(self.time_s)
        for name, shape in _MOTION_SHAPES.items():
            found = getattr(self, name).shape
            if found != (frames, *shape):
                raise ValueError(f"{name} must have shape {(frames, *shape)}, found {found}")

    def __len__(self) -> int:
        return len(self.time_s)

    def __getitem__(self, frames: slice | NDArray[np.intp]) -> Motion:
        """Return a stretch of the motion, or the frames of the given indices."""
        rows: dict[str, Any] = {name: getattr(self, name)[frames] for name in _MOTION_SHAPES}
        return Motion(**rows, is_relative=self.is_relative)

    @staticmethod
    def missing(time_s: float) -> Motion:
        """Return one absolute frame in which no face was seen."""
        return Motion(
            time_s=np.array([time_s]),
            valid=np.array([False]),
            landmarks=np.zeros((1, VERTICES, 3), np.float32),
            aspect=np.ones(1, np.float32),
            rotation=np.zeros((1, 3), np.float32),
            translation=np.zeros((1, 3), np.float32),
            expression=np.zeros((1, 3 * VERTICES), np.float32),
            gaze=np.zeros((1, 4), np.float32),
        )

    @staticmethod
    def concatenate(parts: Sequence[Motion]) -> Motion:
        """Join stretches of one kind (all absolute or all relative) in order."""
        if not parts:
            raise ValueError("there is no motion to join")
        if len({part.is_relative for part in parts}) > 1:
            raise ValueError("absolute and relative motion cannot be joined")
        if len(parts) == 1:
            return parts[0]
        rows: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _MOTION_SHAPES
        }
        return Motion(**rows, is_relative=parts[0].is_relative)

    def save(self, path: Path) -> None:
        """Write the motion as a compressed .npz file."""
        with path.open("wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: Path) -> Motion:
        """Read what `save` wrote.

        Raises:
            UnreadableMediaError: the file is missing, damaged or not a motion file.
        """
        try:
            with path.open("rb") as file:
                stored = np.load(file, allow_pickle=False)
                rows: dict[str, Any] = {name: stored[name] for name in _MOTION_SHAPES}
                if not all(np.isfinite(row).all() for row in rows.values()):
                    raise ValueError("it holds values that are no numbers")
                return Motion(**rows, is_relative=bool(stored["is_relative"]))
        except (OSError, KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
            raise UnreadableMediaError(f"{path} is not a motion file: {error}") from error


_MOTION_SHAPES: dict[str, tuple[int, ...]] = {
    "time_s": (),
    "valid": (),
    "landmarks": (VERTICES, 3),
    "aspect": (),
    "rotation": (3,),
    "translation": (3,),
    "expression": (3 * VERTICES,),
    "gaze": (4,),
}


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The square of a photo that becomes the avatar's picture, in the photo's pixels."""

    left: int
    top: int
    side: int


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The encoded source image; made once per portrait, shared by every clip.

    Attributes:
        source: uint8 [H, W, 3], the square crop around the face at the model's size.
        crop: where in the photo that is.
        motion: the source's own absolute motion, one frame: the pose and expression of the photo.
        mesh: the source as a textured mesh, ready to be moved.
    """

    source: Pixels
    crop: Crop
    motion: Motion
    mesh: SourceMesh


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the generator is shown of the motion: the source, moved by a mesh.

    Attributes:
        render: uint8 [F, H, W, 3], the moved source.
        coverage: uint8 [F, H, W], 255 where the person is, 0 where the background shows.
        confidence: uint8 [F, H, W], 255 where the texture was seen in the source and is not
            stretched, falling to 0 where it is guessed.
    """

    render: Pixels
    coverage: Pixels
    confidence: Pixels


@dataclass(frozen=True, kw_only=True)
class ICAState:
    """What one clip hands to the next: latents [K, C, h, w]. Only animate.py looks inside."""

    latents: Floats


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """Everything needed to make one clip; any worker can serve it.

    Attributes:
        appearance: the portrait.
        motion: relative motion of the N new frames.
        ica: state of the previous clip, None for the first.
        steps: denoising steps; 0 delivers the condition render itself.
        seed: noise is drawn from (seed, frame index).
    """

    appearance: Appearance
    motion: Motion
    ica: ICAState | None = None
    steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.motion.is_relative:
            raise ValueError("a clip is driven by relative motion, found absolute motion")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """N avatar frames, uint8 [N, H, W, 3], and the state for the next clip."""

    pixels: Pixels
    ica: ICAState | None
