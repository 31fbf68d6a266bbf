"""The types that flow through the library, and the one shape legend.

    B  clips in a batch (one per session)     F  frames of a clip, carried ones included
    K  carried frames                         N  new frames of a clip, N = F - K
    C  latent channels                        H W  pixels        h w  latent cells
    L D  context tokens and their width       V  vertices of the face mesh, 478
    E  values of an expression: 3 V on the face mesh, 64 on the official face model
    M  signals of a frame's motion, M = E + 10: expression, rotation, translation, gaze

Pixels outside the library are uint8 [.., H, W, 3] RGB; inside the generator they are float
[.., 3, H, W] in [-1, 1]. Coordinates are x right, y down, z away from the camera; angles are
radians; times are seconds. A *head unit* is the distance between the outer corners of the eyes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mimaface.errors import UnreadableMediaError

if TYPE_CHECKING:
    from torch import Tensor

    from mimaface.bfm_fit import SourceFace
    from mimaface.render import SourceMesh

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Reals = NDArray[np.floating[Any]]  # of either precision
Corner = tuple[int, int]  # x, y of the first pixel of a square
Stage = Callable[[str], AbstractContextManager[None]]  # entered with a stage's name, to measure it

VERTICES = 478
EXPRESSION = 3 * VERTICES
ROTATION, TRANSLATION, GAZE = 3, 3, 4


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the frames of a face say about its movement; there are no pixels in it.

    Absolute motion describes the face that was seen. Relative motion (`is_relative`) describes
    its deviation from that face's own neutral, in the proportions of the canonical face, so that
    it can drive any other face.

    Attributes:
        time_s: [F] float64, media time, increasing.
        valid: [F] bool, False where no face was seen. Landmarks are zeros then, and so is the rest
            of absolute motion; relative motion is held, or eases to the idle pose.
        landmarks: [F, V, 3], MediaPipe's points: x over the frame's width, y over its height,
            z over its width (smaller is nearer).
        aspect: [F], the frame's width over its height.
        rotation: [F, 3], pitch, yaw and roll from head to camera: `face_mesh.rotation_matrix`.
        translation: [F, 3], head origin in head units; x and y from the frame's centre, z the
            distance from a camera whose focal length is one frame width. Of relative motion x and
            y are seen from where the neutral was, and z is by how much the head looks larger than
            it did there, as a natural logarithm.
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
            expression=np.zeros((1, EXPRESSION), np.float32),
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
                if (np.diff(rows["time_s"]) <= 0).any():
                    raise ValueError("its times do not increase")
                return Motion(**rows, is_relative=bool(stored["is_relative"]))
        except (
            *(OSError, KeyError, IndexError, ValueError, TypeError, EOFError),
            *(BadZipFile, zlib.error),
        ) as error:
            raise UnreadableMediaError(f"{path} is not a motion file: {error}") from error


_MOTION_SHAPES: dict[str, tuple[int, ...]] = {
    "time_s": (),
    "valid": (),
    "landmarks": (VERTICES, 3),
    "aspect": (),
    "rotation": (3,),
    "translation": (3,),
    "expression": (EXPRESSION,),
    "gaze": (4,),
}


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The square of a photo that becomes the avatar's picture, in the photo's pixels."""

    left: int
    top: int
    side: int


@dataclass(frozen=True, kw_only=True)
class SourceFeatures:
    """The source image as the generator reads it.

    Attributes:
        tokens: [L, D'], of the source encoder, the class token first.
        identity: [I], its identity embedding.
        coefficients: [T], texture and lighting on the official face model; none without it.
        latents: [C, h, w].
        face: the official face model in the source's shape; None where the mesh is the condition.
    """

    tokens: Floats
    identity: Floats
    coefficients: Floats
    latents: Floats
    face: SourceFace | None


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """What takes the person of one picture out of it.

    A picture shows the person over the background: alpha * person + (1 - alpha) * background.

    Attributes:
        matte: uint8 [H, W], 255 where the person is, 0 where only the background shows.
        background: uint8 [H, W, 3], what shows through where the matte is below 255.
    """

    matte: Pixels
    background: Pixels


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The encoded source image; made once per portrait, shared by every clip.

    Attributes:
        source: uint8 [H, W, 3], the square crop around the face at the model's size.
        crop: where in the photo that is.
        motion: the source's own absolute motion, one frame: the pose and expression of the photo.
        mesh: the source as a textured mesh, ready to be moved.
        features: what the generator reads; None where only the mesh is drawn.
        cutout: of the source; its background stays while the person moves before it.
        half: the same at half the side, for no denoising steps; None where there is none.
    """

    source: Pixels
    crop: Crop
    motion: Motion
    mesh: SourceMesh
    features: SourceFeatures | None = None
    cutout: Cutout | None = None
    half: Appearance | None = None


@dataclass(frozen=True, kw_only=True)
class MeshRender:
    """The source, moved as a textured mesh.

    Attributes:
        mesh: what was moved.
        pixels: uint8 [F, H, W, 3], the moved source.
        coverage: uint8 [F, H, W], 255 where the person is, 0 where the background shows.
        landmarks: [F, V, 2], where the face lies, in pixels.
    """

    mesh: SourceMesh
    pixels: Pixels
    coverage: Pixels
    landmarks: Floats

    def __getitem__(self, frames: slice) -> MeshRender:
        """Return a stretch of the render."""
        return MeshRender(
            mesh=self.mesh,
            pixels=self.pixels[frames],
            coverage=self.coverage[frames],
            landmarks=self.landmarks[frames],
        )

    @staticmethod
    def concatenate(parts: Sequence[MeshRender]) -> MeshRender:
        """Join renders of one mesh, in their order."""
        if len(parts) == 1:
            return parts[0]
        return MeshRender(
            mesh=parts[0].mesh,
            pixels=np.concatenate([part.pixels for part in parts]),
            coverage=np.concatenate([part.coverage for part in parts]),
            landmarks=np.concatenate([part.landmarks for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the generator is shown of the motion.

    Attributes:
        render: float32 [F, 3, H, W] in [-1, 1], the mesh or the face model moved by it; of a
            model that works on a square around eyes and mouth, that square.
        signals: [F, M], what MIA reads of it.
        corner: of the square, in pixels of the picture at the size that the networks work on.
        whole: uint8 [F, .., .., 3], the render of the whole avatar at its own size, where `render`
            shows less.
        matte: uint8 [F, .., ..], the person in the render at the avatar's size; None of the face
            model, which knows no hair and no shoulders.
    """

    render: Tensor
    signals: Floats
    corner: Corner = (0, 0)
    whole: Pixels | None = None
    matte: Pixels | None = None


def pack_signals(
    *, expression: Floats, rotation: Floats, translation: Floats, gaze: Floats
) -> Floats:
    """Return the signals of frames [F, E], [F, 3], [F, 3] and [F, 4] side by side, [F, M]."""
    return np.concatenate([expression, rotation, translation, gaze], axis=1, dtype=np.float32)


def signal_sizes(expression: int) -> list[int]:
    """Return how many signals are expression, rotation, translation and gaze, in their order."""
    return [expression, ROTATION, TRANSLATION, GAZE]


@dataclass(frozen=True, kw_only=True)
class ICAState:
    """What one clip hands to the next, about its last K frames. Only the generator looks inside.

    Attributes:
        latents: [K, C, h, w], float16 of a model in half precision, else float32.
        signals: [K, M], of their motion.
        render_latents: the same of their condition, where the next clip makes them again.
        next_frame: index of the session's next frame; noise is drawn from it.
        corner: of the square that the latents show, where they do not show the whole picture.
    """

    latents: Reals
    signals: Floats
    render_latents: Reals | None
    next_frame: int
    corner: Corner = (0, 0)


def is_finite(parts: object) -> bool:
    """Return whether a dataclass' own arrays hold nothing but numbers."""
    return all(
        np.isfinite(value).all() for value in vars(parts).values() if isinstance(value, np.ndarray)
    )


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """Everything needed to make one clip; any worker can serve it.

    Attributes:
        appearance: the portrait.
        motion: relative motion of the N new frames.
        ica: state of the previous clip, None for the first.
        steps: denoising steps; 0 delivers the condition render itself.
        seed: noise is drawn from (seed, frame index).
        moved: the portrait's mesh as the motion moves it, if it was drawn ahead (`draw_ahead`).
    """

    appearance: Appearance
    motion: Motion
    ica: ICAState | None = None
    steps: int = 0
    seed: int = 0
    moved: MeshRender | None = None

    def __post_init__(self) -> None:
        if not len(self.motion):
            raise ValueError("a clip needs at least one frame of motion")
        if not self.motion.is_relative:
            raise ValueError("a clip is driven by relative motion, found absolute motion")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        if self.moved is not None and self.moved.mesh is not self.appearance.mesh:
            raise ValueError("what was drawn ahead shows another portrait")

    @property
    def first_frame(self) -> int:
        """Index of its first new frame in the session."""
        return 0 if self.ica is None else self.ica.next_frame


@dataclass(frozen=True, kw_only=True)
class Clip:
    """N avatar frames and the state for the next clip.

    Attributes:
        pixels: uint8 [N, H, W, 3].
        ica: the state.
        matte: uint8 [N, H, W], 255 where the person is, 0 where only the background of the
            appearance's cutout shows; None where the model draws an outline of its own.
        is_finite: whether it was made of numbers alone; pixels cannot show that they were none.
    """

    pixels: Pixels
    ica: ICAState | None
    matte: Pixels | None = None
    is_finite: bool = True
