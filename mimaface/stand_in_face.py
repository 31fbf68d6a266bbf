"""A face model of our own in the official one's layout, for who does not have that one.

Runs with untrained weights, benches and tests draw it; weights trained on the official model
would not know it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimaface.bfm import AROUND, EXPRESSION, IDENTITY, MULTI_PIE, TEXTURE, BfmModel
from mimaface.face_mesh import OUTER_LIPS, canonical_face, nearness
from mimaface.types import Floats

# The stand-in's size and place: its five points come to lie where the 256 px crop has them, and
# the mean of its surface is the origin of depth, as the official model's is.
_UNITS_PER_HEAD_UNIT: Final = 0.892
_ORIGIN: Final = np.array([0.0, 0.031, -0.686], np.float32)  # in head space


def stand_in(subdivisions: int = 0) -> BfmModel:
    """Make a face model of our own: the canonical face in the official one's layout and units.

    Its first 57 expressions are the FACS shapes of the canonical face in their order, full at 1;
    the other 7 move nothing. Identities and skins are smooth and mean nothing. Eyes and mouth are
    open.

    Args:
        subdivisions: how often every triangle is split in four; 3 give about the official size.
    """
    face, rng = canonical_face(), np.random.default_rng(0)
    count = len(face.vertices)
    to_model = _UNITS_PER_HEAD_UNIT * np.array([1, -1, -1], np.float32)
    mean = to_model * (face.vertices - _ORIGIN)
    expressions = np.zeros((count, 3, EXPRESSION), np.float32)
    for column, displacement in enumerate(face.expressions.values()):
        expressions[:, :, column] = to_model * displacement
    lips = nearness(OUTER_LIPS, reach=0.1)[:, None]
    colour = np.array([205, 160, 135]) - lips * [15, 50, 40]
    parts = [
        mean,
        0.03 * _waves(mean, IDENTITY, rng).reshape(count, -1),  # 3 mm
        expressions.reshape(count, -1),
        colour,
        8.0 * _waves(mean, TEXTURE, rng).reshape(count, -1),
    ]
    values, triangles = np.concatenate(parts, axis=1, dtype=np.float32), face.triangles
    for _ in range(subdivisions):
        values, triangles = _split_in_four(values, triangles)
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    mean, identities, expressions, colour, textures = (
        np.ascontiguousarray(part) for part in np.split(values, ends, axis=1)
    )
    return BfmModel(
        mean_shape=mean,
        identity_basis=identities.reshape(-1, 3, IDENTITY),
        expression_basis=expressions.reshape(-1, 3, EXPRESSION),
        mean_texture=colour,
        texture_basis=textures.reshape(-1, 3, TEXTURE),
        triangles=triangles,
        neighbours=_neighbours(triangles, len(values)),
        keypoints=np.array(MULTI_PIE, np.int32),
    )


def _waves(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    # [V, 3, count], long waves over the face in all directions, weaker and weaker.
    lengths = rng.normal(0, 1.5, (3, count))
    phases = rng.uniform(0, 2 * np.pi, count)
    ways = rng.normal(0, 1, (3, count)) / np.sqrt(3 * np.arange(1, count + 1))
    return (np.sin(points @ lengths + phases)[:, None] * ways).astype(np.float32)


def _split_in_four(
    values: Floats, triangles: NDArray[np.int32]
) -> tuple[Floats, NDArray[np.int32]]:
    a, b, c = triangles.T
    edges = np.sort(np.stack([[a, b], [b, c], [c, a]]), axis=1)  # [3, 2, T]
    edges = edges.transpose(0, 2, 1).reshape(-1, 2)
    unique, which = np.unique(edges, axis=0, return_inverse=True)
    middles = values[unique].mean(axis=1)
    ab, bc, ca = (len(values) + which.reshape(3, -1)).astype(np.int32)
    split = np.stack([[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]])  # [4, 3, T]
    return np.concatenate([values, middles]), split.transpose(2, 0, 1).reshape(-1, 3)


def _neighbours(triangles: NDArray[np.int32], vertices: int) -> NDArray[np.int32]:
    order = np.argsort(triangles.ravel(), kind="stable")
    vertex = triangles.ravel()[order]
    place = np.arange(len(order)) - np.searchsorted(vertex, vertex)
    around = np.full((vertices, AROUND), len(triangles), np.int32)
    seated = place < AROUND
    around[vertex[seated], place[seated]] = order[seated] // 3
    return around
