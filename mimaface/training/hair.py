"""Hair, brows and lashes as strands that grow on the face model.

Everything is grown on the head at rest, in head space; the portrait poses it with the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.raster import rasterize
from mimaface.training.face_model import LID_EDGE_RING, FaceModel, vertex_normals
from mimaface.training.shading import unit
from mimaface.types import Floats

SKULL_CENTRE = np.array([0, -4.0, -0.5], np.float32)  # all of the scalp can be seen from here
# The hair's edge over the face, in texture coordinates: across and, from there, downwards.
HAIRLINE_U = (0.0, 0.1, 0.13, 0.17, 0.21, 0.27, 0.36, 0.43, 0.5)
HAIRLINE_V = (0.22, 0.28, 0.34, 0.2, 0.13, 0.085, 0.07, 0.072, 0.075)
UV_MAP_PX = 1024


@dataclass(frozen=True, kw_only=True)
class HairStyle:
    """How the hair is cut; the colour is display RGB in [0, 255].

    Attributes:
        cut: "bob" falls from a parting to the chin, "quiff" is short with a longer, raised top.
        lash_cm: length of the upper lashes.
        strands: number of hairs.
        parting_cm: where a bob divides, right of the middle.
    """

    cut: Literal["bob", "quiff"]
    colour: tuple[int, int, int]
    lash_cm: float
    strands: int = 26000
    parting_cm: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Strands:
    """Hairs as polylines [S, K, 3], the normals [S, K, 3] of the volume they fill, tints [S]."""

    points: Floats
    normals: Floats
    tint: Floats


class SkinMap:
    """The skin's surface by texture coordinates."""

    def __init__(self, model: FaceModel, vertices: Floats) -> None:
        skin = model.triangles_of("M_Face")
        flat = np.concatenate([model.uv, np.ones((len(model.uv), 1))], axis=1)
        flat = (flat * [UV_MAP_PX, UV_MAP_PX, 1]).astype(np.float32)
        index, weights = rasterize(flat, model.triangle_uv[skin], UV_MAP_PX, UV_MAP_PX)
        corners = model.triangles[skin][index]
        normals = vertex_normals(vertices, model.triangles)
        self.points = np.einsum("hwij,hwi->hwj", vertices[corners], weights)
        self.normals = unit(np.einsum("hwij,hwi->hwj", normals[corners], weights))

    def at(self, uv: Floats) -> tuple[Floats, Floats]:
        """Return points and normals [.., 3] at texture coordinates [.., 2]."""
        place = np.clip(uv * UV_MAP_PX - 0.5, 0, UV_MAP_PX - 1).astype(np.float32)
        shape = uv.shape[:-1]
        columns, rows = place[..., 0].reshape(shape[0], -1), place[..., 1].reshape(shape[0], -1)
        points, normals = (
            cv2.remap(field, columns, rows, cv2.INTER_LINEAR).reshape(*shape, 3)
            for field in (self.points, self.normals)
        )
        return points, normals


class Skull:
    """The head's radius in every direction from `SKULL_CENTRE`, without the ears."""

    ROWS, COLUMNS = 90, 180

    def __init__(self, model: FaceModel, vertices: Floats) -> None:
        part = slice(0, model.parts["head_neck"].stop)
        is_ear = np.abs(model.neutral[part, 0]) > 7.9
        offset = vertices[part][~is_ear] - SKULL_CENTRE
        rows, columns = self._cell(offset)
        radius = np.zeros((self.ROWS, self.COLUMNS), np.float32)
        np.maximum.at(radius, (rows, columns), np.linalg.norm(offset, axis=1))
        while (radius == 0).any():
            grown = cv2.dilate(np.pad(radius, ((0, 0), (1, 1)), mode="wrap"), np.ones((3, 3)))
            radius = np.where(radius == 0, grown[:, 1:-1], radius)
        wide = np.pad(radius, ((0, 0), (20, 20)), mode="wrap")
        self.radius = cv2.GaussianBlur(wide, (0, 0), 1.5)[:, 20:-20]

    def _cell(self, offset: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        turn = np.arctan2(offset[..., 0], -offset[..., 2]) / (2 * np.pi) + 0.5
        fall = np.arccos(np.clip(unit(offset)[..., 1], -1, 1)) / np.pi
        rows = np.clip((fall * self.ROWS).astype(np.int64), 0, self.ROWS - 1)
        return rows, (turn * self.COLUMNS).astype(np.int64) % self.COLUMNS

    def height(self, points: Floats) -> Floats:
        """Return how far points [.., 3] lie above the skin."""
        offset = points - SKULL_CENTRE
        height: Floats = np.linalg.norm(offset, axis=-1) - self.radius[self._cell(offset)]
        return height


def hair_mask(model: FaceModel) -> Floats:
    """Return how much hair grows at every vertex [V] of the head, 0 to 1, with a soft edge."""
    mask = np.zeros(len(model.neutral), np.float32)
    back = np.unique(model.triangles[model.triangles_of("M_BackHead")])
    back = back[back < model.parts["head_neck"].stop]
    mask[back] = np.clip((3.5 - model.neutral[back, 1]) / 1.0, 0, 1)
    skin = model.triangles_of("M_Face")
    uv = model.uv[model.triangle_uv[skin].ravel()]
    edge = np.interp(0.5 - np.abs(uv[:, 0] - 0.5), HAIRLINE_U, HAIRLINE_V)
    is_ear = (np.abs(uv[:, 0] - 0.5) > 0.4) & (uv[:, 1] > 0.29)
    vertex = model.triangles[skin].ravel()
    mask[vertex] = np.clip((edge - uv[:, 1]) / 0.025, 0, 1) * ~is_ear
    return mask


def grow_hair(
    model: FaceModel, vertices: Floats, style: HairStyle, rng: np.random.Generator
) -> Strands:
    """Grow the hair of a head."""
    mask = hair_mask(model)
    head = np.concatenate([model.triangles_of("M_Face"), model.triangles_of("M_BackHead")])
    corners = model.triangles[head]
    a, b, c = (vertices[corners[:, i]] for i in range(3))
    chance = np.linalg.norm(np.cross(b - a, c - a), axis=1) * mask[corners].mean(1) ** 2
    chosen = corners[rng.choice(len(corners), style.strands, p=chance / chance.sum())]
    weights = rng.dirichlet((1, 1, 1), style.strands).astype(np.float32)
    roots = np.einsum("nij,ni->nj", vertices[chosen], weights)
    skull = Skull(model, vertices)
    match style.cut:
        case "bob":
            tint, points = _clump(_bob(roots, skull, style.parting_cm, rng), rng, strength=0.55)
        case "quiff":
            tint, points = _clump(_quiff(roots, skull, rng), rng, strength=0.75)
    return Strands(points=points, normals=unit(points - SKULL_CENTRE), tint=tint)


def _bob(
    roots: Floats, skull: Skull, parting_cm: float, rng: np.random.Generator, knots: int = 30
) -> Floats:
    count = len(roots)
    side = np.where(roots[:, 0] > parting_cm, 1.0, -1.0)
    layer = rng.random(count) ** 0.7
    lift = 0.5 + layer * np.interp(roots[:, 1], [-13, -8, 0, 4], [1.2, 1.5, 1.2, 0.7])
    tip_y = rng.normal(8.6, 0.45, count) + 0.8 * layer
    phase = rng.random(count) * 0.6
    points = np.empty((count, knots, 3), np.float32)
    points[:, 0] = roots
    direction = np.stack([side, -0.25 * np.ones(count), 0.3 + 0 * side], axis=1)
    step = 27.0 / knots
    for k in range(1, knots):
        here = points[:, k - 1]
        share = k / knots
        is_front = np.clip((-here[:, 2] - 1.5) / 4, 0, 1) * (here[:, 1] > -9.5)
        pull = np.stack(
            [
                np.where(here[:, 1] < -8, 0.35 * side, 0.0),
                np.interp(here[:, 1], [-14, -9, -4], [0.25, 0.7, 1.1]),
                0.55 * is_front,
            ],
            axis=1,
        )
        is_tip = np.clip((here[:, 1] - 5.0) / 3.5, 0, 1)
        pull[:, 0] -= 0.5 * is_tip * np.sign(here[:, 0])  # the tips turn in under the chin
        direction = unit(0.72 * direction + 0.45 * pull)
        there = here + step * direction
        outwards = unit(there - SKULL_CENTRE)
        height = skull.height(there)
        wanted = lift * min(1.0, 5 * share)
        is_low = there[:, 1] > 0.5
        correction = wanted - height
        correction = np.where(correction > 0, 0.8 * correction, 0.5 * correction * ~is_low)
        there = there + correction[:, None] * outwards
        wave = np.sin(2 * np.pi * (1.6 * share + phase)) * 0.10 * share
        there = there + wave[:, None] * np.array([0, 0, 1]) + 0.4 * wave[:, None] * outwards
        is_done = here[:, 1] > tip_y
        points[:, k] = np.where(is_done[:, None], here, there)
        direction = unit(there - here)
    return points


def _quiff(roots: Floats, skull: Skull, rng: np.random.Generator, knots: int = 14) -> Floats:
    count = len(roots)
    is_top = np.clip((-roots[:, 1] - 8.2) / 2.4, 0, 1)
    is_front = np.clip((-roots[:, 2] - 1.0) / 7, 0, 1)
    length = 0.7 + 0.5 * np.clip((-roots[:, 1] - 2) / 6, 0, 1)
    length = length + is_top * (1.9 + 3.0 * is_front) * rng.uniform(0.75, 1.1, count)
    outwards = unit(roots - SKULL_CENTRE)
    along = np.stack([0.28 - 0.1 * is_front, -0.1 * is_top, 0.55 + 0 * is_top], axis=1)
    down = np.stack([0 * is_top, 0.8 + 0 * is_top, 0.45 + 0 * is_top], axis=1)
    rest = unit(is_top[:, None] * along + (1 - is_top)[:, None] * down)
    direction = unit(outwards * (0.45 + 0.75 * is_top * is_front)[:, None] + 0.5 * rest)
    direction = unit(direction + 0.12 * rng.standard_normal((count, 3)))
    points = np.empty((count, knots, 3), np.float32)
    points[:, 0] = roots
    for k in range(1, knots):
        direction = unit(direction + 0.16 * rest)
        there = points[:, k - 1] + (length / knots)[:, None] * direction
        sunk = np.maximum(0.25 * k / knots - skull.height(there), 0)
        points[:, k] = there + sunk[:, None] * unit(there - SKULL_CENTRE)
    return points


def _clump(points: Floats, rng: np.random.Generator, strength: float) -> tuple[Floats, Floats]:
    """Draw strands to a few of their kind; return their tints [S] and points [S, K, 3]."""
    count, knots = points.shape[:2]
    guides = rng.choice(count, count // 45, replace=False)
    middle = knots // 2
    nearest = np.empty(count, np.int64)
    for start in range(0, count, 2000):
        rows = slice(start, start + 2000)
        offset = points[rows, None, middle] - points[None, guides, middle]
        offset2 = points[rows, None, 0] - points[None, guides, 0]
        nearest[rows] = ((offset**2).sum(-1) + (offset2**2).sum(-1)).argmin(1)
    pull = strength * np.linspace(0, 1, knots)[None, :, None] ** 1.5
    # A guide's own colour and lift set its clump apart from the next.
    tint = 1 + 0.16 * rng.standard_normal(len(guides))[nearest]
    tint = tint + 0.12 * rng.standard_normal(count)
    stray = (rng.random(count) < 0.03)[:, None, None]
    step_cm = np.linalg.norm(np.diff(points, axis=1), axis=2).mean(1)[:, None, None]
    wander = np.cumsum(rng.standard_normal((count, knots, 3)) * 0.06 * step_cm, axis=1)
    drawn = points + np.where(stray, wander, pull * (points[guides][nearest] - points))
    return np.clip(tint, 0.5, 1.6).astype(np.float32), drawn.astype(np.float32)


def grow_brows(model: FaceModel, skin: SkinMap, rng: np.random.Generator) -> Strands:
    """Grow both brows."""
    brows = model.texture_place(model.landmarks68[17:27])
    parts = []
    for brow, side in ((brows[4::-1], -1), (brows[5:], 1)):
        count = 620
        along = rng.beta(1.4, 1.4, count)
        knot = np.linspace(0, 1, len(brow))
        middle = np.stack([np.interp(along, knot, brow[:, i]) for i in range(2)], axis=1)
        thickness = 0.0105 * np.interp(along, [0, 0.12, 0.5, 1], [0.8, 1, 0.75, 0.12])
        across = np.clip(rng.normal(0, 0.45, count), -1, 1)
        root = middle + np.stack([0 * along, across * thickness + 0.004], axis=1)
        angle = np.interp(along, [0, 0.15, 0.5, 1], [1.2, 0.75, 0.28, -0.1])
        angle = angle - across * -0.35 + rng.normal(0, 0.12, count)
        length = np.interp(along, [0, 0.2, 0.7, 1], [0.02, 0.03, 0.028, 0.01])
        length = length * rng.uniform(0.7, 1.1, count)
        share = np.linspace(0, 1, 7)
        bend = angle[:, None] * (1 - 0.5 * share)
        step = np.stack([side * np.cos(bend), -np.sin(bend)], axis=-1)
        uv = root[:, None] + step * (length[:, None] * share)[..., None]
        points, normals = skin.at(uv.astype(np.float32))
        points = points + normals * (0.03 + 0.08 * np.sin(np.pi * share))[None, :, None]
        parts.append((points, normals))
    points, normals = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    tint = rng.normal(1, 0.12, len(points))
    return Strands(points=points, normals=normals, tint=tint.astype(np.float32))


def grow_lashes(
    model: FaceModel, vertices: Floats, style: HairStyle, rng: np.random.Generator
) -> Strands:
    """Grow the lashes of all four lids."""
    parts = []
    share = np.linspace(0, 1, 8)[None, :, None]
    for socket, side in (("eye_socket_right", -1), ("eye_socket_left", 1)):
        ring = model.ring(socket, LID_EDGE_RING)
        rest, line = model.neutral[ring], vertices[ring]
        inner, outer = rest[:, 0].min(), rest[:, 0].max()
        slope = np.interp(rest[:, 0], *_corners(rest))
        for is_upper in (True, False):
            lid = (rest[:, 1] < slope) == is_upper
            order = np.flatnonzero(lid)[rest[lid, 0].argsort()]
            count = 80 if is_upper else 30
            x = np.sort(rng.uniform(0.1 if side < 0 else 0.14, 0.86 if side < 0 else 0.9, count))
            x = inner + (outer - inner) * x
            root = np.stack([np.interp(x, rest[order, 0], line[order, i]) for i in range(3)], 1)
            spread = side * (2 * (x - inner) / (outer - inner) - 1)  # -1 inner to 1 outer corner
            length = (style.lash_cm if is_upper else 0.35 * style.lash_cm) * (1 + 0.3 * spread)
            length = (length * rng.uniform(0.55, 1.15, count))[:, None, None]
            up = -1.0 if is_upper else 0.7
            outwards = np.stack([side * (0.2 + 0.6 * spread), 0.1 + 0 * x, -1 + 0 * x], 1)
            curl = np.stack([side * 0.6 * spread, 1.2 * up + 0 * x, 0.15 + 0 * x], 1)
            outwards += rng.normal(0, 0.14, outwards.shape)
            points = root[:, None] + length * (
                share * unit(outwards)[:, None] + 0.45 * share**2 * curl[:, None]
            )
            parts.append(points)
    points = np.concatenate(parts).astype(np.float32)
    normals = np.broadcast_to(np.array([0, 0, -1], np.float32), points.shape)
    return Strands(points=points, normals=normals, tint=np.ones(len(points), np.float32))


def _corners(ring: Floats) -> tuple[Floats, Floats]:
    ends = ring[[ring[:, 0].argmin(), ring[:, 0].argmax()]]
    return ends[:, 0], ends[:, 1]
