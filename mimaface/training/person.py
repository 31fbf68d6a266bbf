"""A made-up person: face, skin, clothes; the hair is in `hair`.

The style is that of an animated film: eyes a little larger than life, clean shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.training.face_model import LID_EDGE_RING, FaceModel, sample_identity
from mimaface.training.hair import HairStyle
from mimaface.training.shading import linear, unit
from mimaface.types import Floats

TEXTURE_PX = 2048
# Lines round the eye: rings out from the lid's edge, share left of it on the lower lid, blur in
# texture pixels, strength and colour.
LID_LINES = ((0, 0.25, 2.2, 0.9, (70, 40, 40)), (5, 0.0, 7.0, 0.75, (170, 120, 110)))
# The jumper's outline from the collar to below the picture, in centimetres: half width, front and
# back (z), and the height (y, downwards) at the sides, in front and at the back.
OUTLINE = np.array(
    [
        [6.4, -5.6, 8.4, 11.0, 14.4, 9.4],
        [7.6, -6.3, 9.2, 11.7, 15.4, 10.4],
        [10.5, -7.2, 9.8, 12.9, 16.8, 12.0],
        [14.0, -8.2, 10.2, 14.4, 18.6, 14.0],
        [17.2, -9.0, 10.4, 16.4, 20.8, 16.6],
        [19.2, -9.6, 10.5, 19.4, 23.4, 19.8],
        [20.2, -10.0, 10.5, 24.0, 26.0, 24.0],
        [20.8, -10.2, 10.5, 32.0, 32.0, 32.0],
    ],
    np.float32,
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a person looks like; colours are display RGB in [0, 255].

    Attributes:
        seed: of everything that is drawn by chance.
        build: first identity coefficient: about +2 is a small soft face, -2 a large angular one.
        variation: strength of the other identity coefficients.
        eye_size: how far the eyes are enlarged, 0 for life size.
        shoulders: their width, 1 for a man of medium build.
        skin, lips, iris, clothes: their colours.
        freckles: how dark they are, 0 to 1.
        hair: its cut and colour.
        background: colours behind the head and in the corners.
        rotation: rotation vector of the head in rad; the shoulders face the camera.
        expression: FACS shapes and their weights, see `FaceModel.vertices`.
    """

    seed: int
    build: float
    variation: float
    eye_size: float
    shoulders: float = 1.0
    skin: tuple[int, int, int]
    lips: tuple[int, int, int]
    freckles: float = 0.0
    iris: tuple[int, int, int]
    hair: HairStyle
    clothes: tuple[int, int, int]
    background: tuple[tuple[int, int, int], tuple[int, int, int]]
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    expression: Mapping[str, float]


def sample_face(model: FaceModel, look: Look) -> Floats:
    """Return the vertices [V, 3] of a person's upright head with their expression."""
    return enlarge_eyes(model, model.vertices(identity_of(look), look.expression), look.eye_size)


def identity_of(look: Look) -> Floats:
    """Return the identity coefficients [I] of a person."""
    identity = sample_identity(np.random.default_rng(look.seed), look.variation)
    identity[0] = look.build
    return identity


def enlarge_eyes(model: FaceModel, vertices: Floats, amount: float) -> Floats:
    """Return the vertices [V, 3] of a head with its eyes enlarged, 0 for life size."""
    for eye in ("eyeball_left", "eyeball_right"):
        ball = vertices[model.parts[eye]]
        offset = vertices - (ball.min(0) + ball.max(0)) / 2
        near = np.exp(-((offset**2).sum(1, keepdims=True)) / (2 * 2.6**2))
        vertices = vertices + amount * near * offset * [1, 1.15, 1]
    return vertices.astype(np.float32)


def skin_texture(
    model: FaceModel, look: Look, rng: np.random.Generator, *, size: int = TEXTURE_PX
) -> tuple[Floats, Floats]:
    """Paint the skin.

    Args:
        model: the face model.
        look: whose skin.
        rng: draws freckles and grain.
        size: S, side of the texture in pixels.

    Returns:
        Albedo [S, S, 3], linear, and how moist the skin is [S, S], 0 to 1.
    """
    scale = size / TEXTURE_PX
    points = model.texture_place(model.landmarks68)
    column, row = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)

    def spot(centre: Floats, across: float, down: float) -> Floats:
        x, y = (column - centre[0]) / across, (row - centre[1]) / down
        return np.exp(-(x * x + y * y) / 2)[..., None].astype(np.float32)

    def noise(cell_px: float) -> Floats:
        grain = rng.standard_normal((size // 2, size // 2)).astype(np.float32)
        grain = cv2.GaussianBlur(grain, (0, 0), max(cell_px * scale / 2, 0.3))
        return cv2.resize(grain / grain.std(), (size, size))[..., None]

    base = linear(look.skin)
    red = base * np.array([1.02, 0.72, 0.70], np.float32)
    warm = np.zeros((size, size, 1), np.float32)
    for x in (0.26, 0.74):
        warm += 0.75 * spot(np.array([x, 0.425]), 0.075, 0.06)
    warm += 0.6 * spot(points[33] - [0, 0.03], 0.055, 0.05)
    warm += 0.25 * spot(points[8] - [0, 0.03], 0.07, 0.035)
    warm += (
        0.7
        * np.clip((np.abs(column - 0.5)[..., None] - 0.385) / 0.03, 0, 1)
        * ((row > 0.28) & (row < 0.56))[..., None]
    )
    warm = np.clip(warm + 0.07 * noise(14) + 0.05 * noise(40), 0, 1)
    albedo = base + warm * (red - base)
    albedo *= 1 + 0.018 * noise(2.2) + 0.03 * noise(60)
    for eye in (points[36:42].mean(0), points[42:48].mean(0)):
        albedo *= 1 - 0.13 * spot(eye - [0, 0.025], 0.065, 0.03)  # the hollow over the eye
        albedo *= 1 - 0.05 * spot(eye + np.array([0, 0.03]), 0.05, 0.014) * [0.6, 1, 0.8]

    if look.freckles:
        flecks = (noise(3.0) > 2.0).astype(np.float32)[..., 0]
        flecks = cv2.GaussianBlur(flecks, (0, 0), 1.6 * scale)[..., None]
        where = spot(np.array([0.5, 0.4]), 0.2, 0.05)
        albedo *= 1 - look.freckles * where * flecks * [0.35, 0.55, 0.65]

    contour = points[48:60] * size
    lips = np.zeros((size, size), np.float32)
    cv2.fillPoly(lips, [_smooth(contour).astype(np.int32)], 1.0, cv2.LINE_AA)
    lips = cv2.GaussianBlur(lips, (0, 0), size / 190)[..., None]
    seam = points[[60, 62, 64, 66]].mean(0)
    lip = linear(look.lips) * (1 - 0.3 * spot(seam, 0.13, 0.02)) * (1 + 0.04 * noise(4))
    albedo += lips * 0.88 * (lip - albedo)

    moist = 0.42 * np.ones((size, size, 1), np.float32)
    moist += 0.25 * spot(points[33] - [0, 0.05], 0.04, 0.1) + 0.35 * lips
    moist += 0.12 * spot(np.array([0.5, 0.12]), 0.15, 0.07)
    moist *= 1 + 0.12 * noise(1.6)

    for socket in ("eye_socket_left", "eye_socket_right"):
        for steps, floor, blur, strength, line in LID_LINES:
            edge = model.texture_place(model.ring(socket, LID_EDGE_RING + steps)) * size
            rim = np.zeros((size, size), np.float32)
            cv2.polylines(rim, [edge.astype(np.int32)], True, 1.0, round(6 * scale), cv2.LINE_AA)
            above = np.clip((edge[:, 1].mean() - row * size) / (17 * scale) - 0.3, 0, 1)
            shown = cv2.GaussianBlur(rim, (0, 0), blur * scale) * np.maximum(above, floor)
            shown *= strength
            albedo += shown[..., None] * (linear(line) * albedo - albedo)
    return np.clip(albedo, 0.002, 1).astype(np.float32), np.clip(moist, 0, 1)[..., 0]


def _smooth(contour: Floats, steps: int = 8) -> Floats:
    """Round a closed polygon [N, 2] with a Catmull-Rom spline."""
    before, here = np.roll(contour, 1, 0), contour
    after, beyond = np.roll(contour, -1, 0), np.roll(contour, -2, 0)
    s = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * here
        + (after - before) * s
        + (2 * before - 5 * here + 4 * after - beyond) * s**2
        + (3 * here - before - 3 * after + beyond) * s**3
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def jumper(
    shoulders: float, turns: int = 240, rows: int = 96
) -> tuple[Floats, NDArray[np.int32], Floats]:
    """Return vertices [N, 3], triangles [M, 3] and cloth coordinates [N, 2] of a jumper."""
    knot = np.linspace(0, 1, len(OUTLINE))
    share = np.linspace(0, 1, rows)
    outline = np.stack([np.interp(share, knot, OUTLINE[:, i]) for i in range(6)], axis=1)
    outline = cv2.GaussianBlur(outline.astype(np.float32), (1, 15), 0, sigmaY=4.0)
    width, front, back, side_y, front_y, back_y = outline.T[:, :, None]
    width = width[:1] + shoulders * (width - width[:1])
    turn = np.linspace(0, 2 * np.pi, turns, endpoint=False)
    ahead, behind = np.maximum(np.cos(turn), 0), np.maximum(-np.cos(turn), 0)
    x = width * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.9
    z = 1.5 + (front - 1.5) * ahead**0.8 + (back - 1.5) * behind**0.8
    y = side_y + (front_y - side_y) * ahead**1.6 + (back_y - side_y) * behind**1.6
    body = np.stack([x, y, z], axis=-1)

    # The collar: a rolled band along the neckline.
    roll = np.linspace(-0.5, 1.25, 14)[::-1, None] * np.pi
    middle = body[0] + [0, 0.15, 0]
    outwards = unit(middle * [1, 0, 1] - [0, 0, 1.5])
    band = (
        middle
        + 0.55 * np.cos(roll)[..., None] * outwards
        + 0.95 * np.sin(roll)[..., None] * np.array([0, -1, 0])
    )
    grid = np.concatenate([band, body[3:]]).astype(np.float32)
    count = len(grid)
    index = np.arange(count * turns).reshape(count, turns)
    a, b = index[:-1], index[1:]
    c, d = np.roll(a, -1, 1), np.roll(b, -1, 1)
    triangles = np.concatenate([np.stack([a, b, c], -1), np.stack([c, b, d], -1)]).reshape(-1, 3)
    down = np.concatenate([np.full(len(band), -1.0), np.linspace(0, 1, count - len(band))])
    cloth = np.stack(np.broadcast_arrays(turn[None] / (2 * np.pi), down[:, None]), axis=-1)
    return grid.reshape(-1, 3), triangles.astype(np.int32), cloth.reshape(-1, 2).astype(np.float32)


def turn_head(vertices: Floats, rotation: tuple[float, float, float]) -> Floats:
    """Turn points [.., 3] of the head about the neck, less and less down to the collar."""
    matrix, _ = cv2.Rodrigues(np.array(rotation))
    pivot = np.array([0, 6.0, 1.5])
    turned = (vertices - pivot) @ matrix.T + pivot
    share = np.clip((13.0 - vertices[..., 1:2]) / 6, 0, 1)
    posed: Floats = (vertices + share * (turned - vertices)).astype(np.float32)
    return posed
