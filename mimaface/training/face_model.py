"""The ICT face model: identities, expressions and the topology the renders are made on.

Everything here is in centimetres with the library's axes: x right in the picture, y down, z away
from the camera; the neutral face looks at the camera, towards -z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.errors import UnreadableMediaError
from mimaface.types import Floats

FLIP = np.array([1, -1, -1], np.float32)  # the model's y points up and its z to the camera
LIP_SEAM_RING = 7  # rings from the mouth socket's edge to where the shut lips touch
LID_EDGE_RING = 3  # rings from an eye socket's edge to the middle of the lid's margin
FIRST_PRINCIPAL_IDENTITIES = 40  # the rest moves vertices by less than 0.2 mm


@dataclass(frozen=True, kw_only=True)
class FaceModel:
    """Shapes [.., V, 3] and triangles of the face model.

    Attributes:
        neutral: [V, 3], the mean face at rest.
        identity_basis: [I, V, 3], offsets for coefficients drawn from N(0, 1).
        expression_basis: [E, V, 3], offsets for weights in [0, 1].
        expression_names: [E], the FACS shapes.
        triangles: [T, 3], vertices; triangle_uv [T, 3] indexes `uv` [U, 2], x right and y down.
        material: [T], index into `material_names`.
        landmarks68: [68], vertices of the Multi-PIE landmarks.
        parts: vertex range of every named part.
    """

    neutral: Floats
    identity_basis: Floats
    expression_basis: Floats
    expression_names: tuple[str, ...]
    triangles: NDArray[np.int32]
    triangle_uv: NDArray[np.int32]
    uv: Floats
    material: NDArray[np.uint8]
    material_names: tuple[str, ...]
    landmarks68: NDArray[np.int32]
    parts: Mapping[str, slice]

    @staticmethod
    def load(path: Path) -> FaceModel:
        """Read the light ICT face model from its .npz file.

        Raises:
            UnreadableMediaError: the file is missing or lacks one of the model's arrays.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return FaceModel(
                    neutral=file["neutral"] * FLIP,
                    identity_basis=file["identity_basis"].astype(np.float32) * FLIP,
                    expression_basis=file["expression_basis"].astype(np.float32) * FLIP,
                    expression_names=tuple(map(str, file["expression_names"])),
                    triangles=file["triangles"],
                    triangle_uv=file["triangle_uv"],
                    uv=file["uv"] * [1, -1] + np.array([0, 1], np.float32),
                    material=file["triangle_material"],
                    material_names=tuple(map(str, file["material_names"])),
                    landmarks68=file["landmarks68"],
                    parts={
                        str(name): slice(int(start), int(end))
                        for name, (start, end) in zip(
                            file["part_names"], file["part_ranges"], strict=True
                        )
                    },
                )
        except (OSError, KeyError, ValueError) as error:
            raise UnreadableMediaError(f"{path} is not the ICT face model: {error}") from error

    def vertices(
        self, identity: Floats | None = None, expression: Mapping[str, float] | None = None
    ) -> Floats:
        """Return the face [V, 3] of an identity [I] with weighted FACS shapes.

        A name without its side (`mouthSmile`) sets both sides.
        """
        shape = self.neutral.copy()
        if identity is not None:
            shape += np.tensordot(identity, self.identity_basis[: len(identity)], axes=1)
        for name, weight in (expression or {}).items():
            sides = [n for n in self.expression_names if n in (name, f"{name}_L", f"{name}_R")]
            if not sides:
                raise ValueError(f"the face model has no expression {name!r}")
            for side in sides:
                shape += weight * self.expression_basis[self.expression_names.index(side)]
        return shape.astype(np.float32)

    def triangles_of(self, *materials: str) -> NDArray[np.int32]:
        """Return the indices of the triangles made of these materials."""
        wanted = [self.material_names.index(material) for material in materials]
        return np.flatnonzero(np.isin(self.material, wanted)).astype(np.int32)

    def ring(self, start: str, steps: int) -> NDArray[np.int32]:
        """Return the face vertices `steps` edges away from a socket's edge, in order round it.

        Args:
            start: the socket's part: mouth_socket, eye_socket_left or eye_socket_right.
            steps: edges to walk over the skin.
        """
        skin = self.triangles[self.triangles_of("M_Face")]
        beyond = self.triangles[self.triangles_of("M_BackHead")]
        part = self.parts[start]
        touching = beyond[((beyond >= part.start) & (beyond < part.stop)).any(1)]
        found = np.intersect1d(touching, skin)
        seen = found
        for _ in range(steps):
            neighbours = np.unique(skin[np.isin(skin, found).any(1)])
            found = np.setdiff1d(neighbours, seen)
            seen = np.union1d(seen, found)
        offset = (self.neutral[found] - self.neutral[found].mean(0))[:, :2]
        order = np.argsort(np.arctan2(offset[:, 1], offset[:, 0]))
        return found[order].astype(np.int32)

    def texture_place(self, vertices: NDArray[np.int32]) -> Floats:
        """Return the texture coordinates [N, 2] of vertices [N] of the face."""
        skin = self.triangles_of("M_Face")
        place = np.zeros((len(self.neutral), 2), np.float32)
        place[self.triangles[skin]] = self.uv[self.triangle_uv[skin]]
        return place[vertices]


def sample_identity(rng: np.random.Generator, strength: float = 1.0) -> Floats:
    """Draw identity coefficients [I]; strength 0 is the mean face, 1 the population."""
    return (strength * rng.standard_normal(FIRST_PRINCIPAL_IDENTITIES)).astype(np.float32)


def vertex_normals(vertices: Floats, triangles: NDArray[np.int32]) -> Floats:
    """Return smooth unit normals [V, 3] that point out of the surface."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            sum(np.bincount(triangles[:, i], face[:, axis], len(vertices)) for i in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-12)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole that looks along +z at a posed head.

    Attributes:
        rotation: [3] rad, rotation vector from head to camera.
        translation: [3] cm, where the head model's origin is.
        focal: focal length in picture widths.
        size_px: width and height of the picture.
    """

    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 90.0)
    focal: float = 2.4
    size_px: int = 512

    def to_camera(self, vertices: Floats) -> Floats:
        """Return vertices [V, 3] in camera space, in centimetres."""
        rotation, _ = cv2.Rodrigues(np.array(self.rotation, np.float64))
        return (vertices @ rotation.T + np.array(self.translation)).astype(np.float32)

    def project(self, vertices: Floats) -> Floats:
        """Return vertices [V, 3] as x and y in pixels and depth in centimetres."""
        points = self.to_camera(vertices)
        points[:, :2] *= self.focal * self.size_px / points[:, 2:]
        points[:, :2] += self.size_px / 2
        return points
