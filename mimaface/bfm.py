"""The official 3D face model: its shape, skin and light, and its render in the 256 px crop.

Model space is x right in the picture, y up and z towards the camera, which is at z = 10; one unit
is about 10 cm. Points are rows: `points @ rotation + translation`. The model itself is the user's
file and no part of this project (`mimaface.stand_in_face` has one in its layout). This file knows
coefficients, not where they come from: `mimaface.bfm_fit` fits some of them to landmarks.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from mimaface.errors import WeightsError
from mimaface.raster import blend, illuminate, paint, rasterize, turn
from mimaface.raster import vertex_normals as normals_of
from mimaface.types import Floats, Reals

IDENTITY, EXPRESSION, TEXTURE, LIGHTING, GAZE = 80, 64, 80, 27, 4  # lengths of the coefficients
KEYPOINTS: Final = 68
AROUND: Final = 8  # triangles that a vertex normal is made of, at most

SIZE_PX: Final = 256
FOCAL_PX: Final = 1015 * 256 / 224  # the model's camera was made for pictures of 224 px
CAMERA_Z: Final = 10.0
NEAREST: Final = 0.01  # depth of the plane before which nothing is drawn

# Spherical harmonics up to the second order, each times the reflection of a matt surface.
_ZEROTH: Final = np.pi / np.sqrt(4 * np.pi)
_FIRST: Final = 2 * np.pi / np.sqrt(3) * np.sqrt(3 / (4 * np.pi))
_SECOND: Final = 2 * np.pi / np.sqrt(8) * 3 * np.sqrt(5 / (12 * np.pi))
# The factors of 1, y, z, x, xy, yz, 3 z^2 - 1, xz and x^2 - y^2 of the normal.
HARMONICS: Final = (
    _ZEROTH, -_FIRST, _FIRST, -_FIRST, _SECOND, -_SECOND,
    _SECOND * 0.5 / np.sqrt(3), -_SECOND, _SECOND / 2,
)  # fmt: skip
AMBIENT: Final = 0.8  # of the zeroth harmonic, under every light

# Which of MediaPipe's points are the 68 of Multi-PIE, in its order. Points in the middle of the
# face lie on the same features; those of the jaw only on the same outline.
MULTI_PIE: Final = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose, down its back and along its base
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BfmModel:
    """The face model, float32 and int32 in C order. Indices count from 0.

    Attributes:
        mean_shape: [V, 3], around its mean vertex.
        identity_basis: [V, 3, 80], displacements per coefficient.
        expression_basis: [V, 3, 64].
        mean_texture: [V, 3], RGB from 0 to 255, before any light.
        texture_basis: [V, 3, 80].
        triangles: [T, 3].
        neighbours: [V, 8], the triangles around each vertex; T where there are fewer.
        keypoints: [68], the vertices of the Multi-PIE landmarks.
    """

    mean_shape: Floats
    identity_basis: Floats
    expression_basis: Floats
    mean_texture: Floats
    texture_basis: Floats
    triangles: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    keypoints: NDArray[np.int32]

    def __post_init__(self) -> None:
        # What draws the model does not look whether an index is inside.
        vertices, triangles = len(self.mean_shape), len(self.triangles)
        for name, most in (
            ("triangles", vertices - 1),
            ("neighbours", triangles),
            ("keypoints", vertices - 1),
        ):
            indices = getattr(self, name)
            if indices.min() < 0 or indices.max() > most:
                raise ValueError(f"{name} must be 0 to {most}")
        for name in ("identity_basis", "expression_basis", "mean_texture", "texture_basis"):
            if getattr(self, name).shape[:2] != (vertices, 3):
                raise ValueError(f"{name} must have {vertices} vertices, as mean_shape has")

    @staticmethod
    def load(path: Path) -> BfmModel:
        """Read the user's BFM09_model_info.mat.

        Raises:
            WeightsError: it is missing, damaged, or some of its arrays are missing or misshaped.
        """
        try:
            with path.open("rb") as file:
                arrays = loadmat(file)
        except FileNotFoundError as error:
            raise WeightsError(f"there is no face model at {path}") from error
        except (
            OSError, TypeError, ValueError, NotImplementedError, MatReadError, zlib.error,
        ) as error:  # fmt: skip
            raise WeightsError(f"{path} cannot be read as a .mat file: {error}") from error
        return BfmModel.from_arrays(arrays, name=str(path))

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any], *, name: str = "the mapping") -> BfmModel:
        """Take over the arrays of the .mat file: flat interleaved xyz, indices from 1.

        Raises:
            WeightsError: some are missing or misshaped; it names all of them.
        """
        problems = _problems(arrays)
        if problems:
            raise WeightsError(f"{name} does not hold the face model: {'; '.join(problems)}")

        def rows(key: str, *shape: int) -> Floats:
            return np.array(arrays[key], np.float32, order="C").reshape(-1, *shape)

        def indices(key: str) -> NDArray[np.int32]:
            return np.array(arrays[key], np.int32, order="C") - np.int32(1)

        mean = rows("meanshape", 3)
        return BfmModel(
            mean_shape=mean - mean.mean(axis=0),
            identity_basis=rows("idBase", 3, IDENTITY),
            expression_basis=rows("exBase", 3, EXPRESSION),
            mean_texture=rows("meantex", 3),
            texture_basis=rows("texBase", 3, TEXTURE),
            triangles=indices("tri"),
            neighbours=indices("point_buf"),
            keypoints=indices("keypoints").ravel(),
        )


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What describes a face in an aligned picture: rows [F, n], or one [n].

    Attributes:
        identity: [.., 80], expression: [.., 64] and texture: [.., 80] on the model's bases.
        rotation: [.., 3], angles around x, y and z: `row_rotation`.
        lighting: [.., 27], nine harmonics of red, of green and of blue.
        translation: [.., 3], in model space.
        gaze: [.., 4], zeros where the coefficients say nothing of it.
    """

    identity: Floats
    expression: Floats
    texture: Floats
    rotation: Floats
    lighting: Floats
    translation: Floats
    gaze: Floats

    @staticmethod
    def split(vector: Reals) -> Coefficients:
        """Take apart the regressor's vectors [.., 261], or [.., 257] without a gaze."""
        lengths = (IDENTITY, EXPRESSION, TEXTURE, 3, LIGHTING, 3, GAZE)
        length, full = vector.shape[-1], sum(lengths)
        if length not in (full, full - GAZE):
            raise ValueError(f"a vector must have {full} or {full - GAZE} values, found {length}")
        if length < full:
            vector = np.concatenate([vector, np.zeros((*vector.shape[:-1], GAZE))], axis=-1)
        parts = np.split(np.asarray(vector, np.float32), np.cumsum(lengths)[:-1], axis=-1)
        identity, expression, texture, rotation, lighting, translation, gaze = parts
        return Coefficients(
            identity=identity,
            expression=expression,
            texture=texture,
            rotation=rotation,
            lighting=lighting,
            translation=translation,
            gaze=gaze,
        )


@dataclass(frozen=True, kw_only=True)
class BfmSource:
    """The face model as one person, made once per portrait.

    Attributes:
        shape: [V, 3], the person's, without expression.
        texture: [V, 3], the person's skin, before any light.
        bands: [9, 3], the light of the portrait: `light_bands`.
    """

    shape: Floats
    texture: Floats
    bands: Floats


def make_source(model: BfmModel, *, identity: Reals, texture: Reals, lighting: Reals) -> BfmSource:
    """Make the face model one person by coefficients [80], [80] and [27]."""
    return BfmSource(
        shape=blend(model.mean_shape, model.identity_basis, _singles(identity)),
        texture=blend(model.mean_texture, model.texture_basis, _singles(texture)),
        bands=light_bands(lighting),
    )


def render(
    model: BfmModel,
    source: BfmSource,
    *,
    expression: Reals,
    rotation: Reals,
    translation: Reals,
    size_px: int = SIZE_PX,
    focal_px: float = FOCAL_PX,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw a person's face as it moves.

    Args:
        model: the face model.
        source: the person.
        expression: [64], of the frame.
        rotation: [3], angles: `row_rotation`.
        translation: [3], in model space.
        size_px: side of the picture.
        focal_px: focal length in pixels of that picture.

    Returns:
        RGB float32 [H, W, 3] from 0 to 255, black around the face, and where the face is,
        bool [H, W].
    """
    points = blend(source.shape, model.expression_basis, _singles(expression))
    rotating = _singles(row_rotation(rotation))
    # The light stays where it is while the head turns.
    normals = turn(vertex_normals(model, points), rotating, np.zeros(3, np.float32))
    colours = illuminate(source.texture, normals, source.bands)
    placed = turn(points, rotating, _singles(translation))
    pixels = project(placed, size_px=size_px, focal_px=focal_px)
    index, weights = rasterize(pixels, model.triangles, size_px, size_px)
    picture = paint(index, weights, model.triangles, colours)
    return np.clip(picture, 0, 255, out=picture), index >= 0


def row_rotation(angles: Reals) -> NDArray[np.float64]:
    """Return the rotation [3, 3] for points in rows, of angles [3] around x, y and z.

    It is (Rz Ry Rx)^T; `face_mesh.rotation_matrix` has other angles in another space.
    """
    angles = np.asarray(angles, np.float64)
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles), np.cos(angles)
    return np.array(
        [
            [cz * cy, sz * cy, -sy],
            [cz * sy * sx - sz * cx, sz * sy * sx + cz * cx, cy * sx],
            [cz * sy * cx + sz * sx, sz * sy * cx - cz * sx, cy * cx],
        ]
    )


def vertex_normals(model: BfmModel, points: Floats) -> Floats:
    """Return unit normals [V, 3] of a shape [V, 3]."""
    return np.asarray(normals_of(points, model.triangles, model.neighbours))


def light_bands(lighting: Reals) -> Floats:
    """Return the light [9, 3] of coefficients [27] as factors of the harmonics' polynomials."""
    bands = np.asarray(lighting, np.float32).reshape(3, len(HARMONICS)).T.copy()
    bands[0] += AMBIENT
    return bands * np.array(HARMONICS, np.float32)[:, None]


def project(points: Reals, *, size_px: int = SIZE_PX, focal_px: float = FOCAL_PX) -> Floats:
    """Return pixels x, y and the depth [.., 3] of placed points [.., 3].

    The centre of the picture's first pixel is at 0.5, 0.5.
    """
    depth = np.maximum(CAMERA_Z - points[..., 2], NEAREST)
    x = focal_px * points[..., 0] / depth + size_px / 2
    y = size_px / 2 - focal_px * points[..., 1] / depth
    return np.stack([x, y, depth], axis=-1).astype(np.float32)


def _singles(vector: Reals) -> Floats:
    # The compiled loops exist for one precision.
    return np.ascontiguousarray(vector, np.float32)


def _problems(arrays: Mapping[str, Any]) -> list[str]:
    found = {
        key: np.atleast_1d(np.asarray(arrays[key]))
        for key in (
            "meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "point_buf", "keypoints",
        )
        if key in arrays
    }  # fmt: skip
    # How many vertices there are, most of the arrays agree on.
    counts = [found[key].size // 3 for key in ("meanshape", "meantex") if key in found]
    counts += [len(found[key]) // 3 for key in ("idBase", "exBase", "texBase") if key in found]
    counts += [len(found["point_buf"])] if "point_buf" in found else []
    vertices = Counter(counts).most_common(1)[0][0] if counts else 0
    triangles = len(found["tri"]) if "tri" in found else 0
    expected: dict[str, tuple[tuple[int, ...], int | None]] = {  # shape, and greatest index
        "meanshape": ((3 * vertices,), None),
        "idBase": ((3 * vertices, IDENTITY), None),
        "exBase": ((3 * vertices, EXPRESSION), None),
        "meantex": ((3 * vertices,), None),
        "texBase": ((3 * vertices, TEXTURE), None),
        "tri": ((triangles, 3), vertices),
        "point_buf": ((vertices, AROUND), triangles + 1),
        "keypoints": ((KEYPOINTS,), vertices),
    }
    problems = []
    for key, (wanted, most) in expected.items():
        if key not in found:
            problems.append(f"{key} is missing")
            continue
        array = found[key]
        is_flat = len(wanted) == 1 and array.size == max(array.shape, default=0)
        if ((array.size,) if is_flat else array.shape) != wanted or not array.size:
            problems.append(f"{key} must have shape {wanted}, found {array.shape}")
        elif array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            problems.append(f"{key} must hold numbers")
        elif most is not None and not (array.min() >= 1 and array.max() <= most):
            problems.append(f"{key} must hold indices from 1 to {most}")
    return problems
