"""Soft light on surfaces and hair: many small lights, each with its own shadow map.

Colours are linear RGB; `develop` turns them into pixels. Lengths are centimetres, axes as in
`face_model`: the camera is towards -z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.raster import rasterize
from mimaface.types import Floats, Pixels

SHADOW_MAP_PX = 384
SCENE_RADIUS_CM = 27.0
PIECES = 6
CLEARANCE_CM = 0.15  # hair this deep in a surface is still drawn
FAR_CM = 1000.0  # shadow maps look from so far away that they are all but orthographic


@dataclass(frozen=True, kw_only=True)
class Light:
    """A distant area light.

    Attributes:
        towards: [3], direction to the light's middle, any length.
        colour: linear RGB it gives a surface that faces it.
        spread: half its angular size in rad.
        samples: small lights it is made of.
    """

    towards: tuple[float, float, float]
    colour: tuple[float, float, float]
    spread: float = 0.2
    samples: int = 12

    def split(self) -> tuple[Floats, Floats]:
        """Return directions [samples, 3] and their colours [samples, 3]."""
        middle = unit(np.array(self.towards, np.float32))
        across, upwards = tangents(middle)
        turn = np.arange(self.samples) * 2.39996  # the golden angle fills a disc evenly
        radius = np.tan(self.spread) * np.sqrt((np.arange(self.samples) + 0.5) / self.samples)
        offset = radius[:, None] * (
            np.cos(turn)[:, None] * across + np.sin(turn)[:, None] * upwards
        )
        colours = np.tile(np.array(self.colour, np.float32) / self.samples, (self.samples, 1))
        return unit(middle + offset).astype(np.float32), colours


def sky(top: Floats, horizon: Floats, ground: Floats, samples: int = 48) -> tuple[Floats, Floats]:
    """Return directions [samples, 3] and colours [samples, 3] of light from all round."""
    height = 1 - 2 * (np.arange(samples) + 0.5) / samples
    turn = np.arange(samples) * 2.39996
    ring = np.sqrt(1 - height**2)
    directions = np.stack([ring * np.cos(turn), -height, ring * np.sin(turn)], axis=1)
    share = np.abs(height)[:, None]
    colours = horizon + (np.where(height[:, None] > 0, top, ground) - horizon) * share
    return directions.astype(np.float32), (colours * 4 / samples).astype(np.float32)


class ShadowMap:
    """How far a light sees: distance [S, S] of the nearest surface or hair from it."""

    def __init__(
        self, towards: Floats, vertices: Floats, triangles: NDArray[np.int32], points: Floats
    ) -> None:
        self.towards = towards
        across, upwards = tangents(towards)
        self.view = np.stack([across, upwards, -towards]).astype(np.float32)
        seen = self.project(vertices)
        index, weights = rasterize(seen, triangles, SHADOW_MAP_PX, SHADOW_MAP_PX)
        depth = (seen[triangles[index], 2] * weights).sum(-1)
        depth[index < 0] = FAR_CM + SCENE_RADIUS_CM
        hair = self.project(points)
        column, row = np.clip(hair[:, :2], 0, SHADOW_MAP_PX - 1).astype(np.int32).T
        np.minimum.at(depth, (row, column), hair[:, 2])
        self.depth = cv2.GaussianBlur(depth.astype(np.float32), (0, 0), 0.8)

    def project(self, points: Floats) -> Floats:
        """Return points [N, 3] as pixels of the map and distance."""
        seen = points @ self.view.T
        seen[:, :2] = (seen[:, :2] / SCENE_RADIUS_CM + 1) * (SHADOW_MAP_PX / 2)
        seen[:, 2] += FAR_CM
        return seen

    def visibility(self, points: Floats, softness_cm: float) -> Floats:
        """Return how much of the light reaches points [N, 3], 0 to 1.

        Args:
            points: [N, 3].
            softness_cm: the depth behind the nearest surface at which 1 / e of it is left.
        """
        seen = self.project(points)
        column, row = np.clip(seen[:, :2], 0, SHADOW_MAP_PX - 1).astype(np.int32).T
        behind = seen[:, 2] - self.depth[row, column] - 0.25  # no surface shadows itself
        visible: Floats = np.exp(-np.maximum(behind, 0) / softness_cm)
        return visible


def gather(
    points: Floats,
    normals: Floats,
    lights: Sequence[tuple[ShadowMap, Floats]],
    *,
    wrap: Floats,
    softness_cm: float,
) -> Floats:
    """Return the light [P, 3] that reaches points [P, 3] with unit normals [P, 3].

    Args:
        points: [P, 3].
        normals: [P, 3].
        lights: shadow maps and the colours [3] of their lights.
        wrap: [3] or [P, 3], how far each colour creeps round the terminator; 0 is Lambert.
        softness_cm: of the shadows, see `ShadowMap.visibility`.
    """
    total = np.zeros((len(points), 3), np.float32)
    for shadow, colour in lights:
        visible = shadow.visibility(points, softness_cm)
        facing = np.maximum((normals @ shadow.towards)[:, None] + wrap, 0) / (1 + wrap) ** 2
        total += visible[:, None] * facing * colour
    return total


def diffuse_over_mesh(light: Floats, triangles: NDArray[np.int32], steps: Sequence[int]) -> Floats:
    """Let light [V, 3] spread to neighbouring vertices, `steps` times per colour.

    This is what skin does to light, red most of all.
    """
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    count = np.maximum(np.bincount(edges[:, 0], minlength=len(light)), 1)
    spread = light.copy()
    for colour, repeats in enumerate(steps):
        for _ in range(repeats):
            around = np.bincount(edges[:, 0], spread[edges[:, 1], colour], len(light)) / count
            spread[:, colour] = 0.4 * spread[:, colour] + 0.6 * around
    return spread


def strand_light(tangent: Floats, towards: Floats, view: Floats, sharpness: float) -> Floats:
    """Return the sheen [..] of hair with tangents [.., 3] (Kajiya and Kay, 1989)."""
    halfway = unit(towards + view)
    along = (tangent * halfway).sum(-1)
    sheen: Floats = np.maximum(1 - along**2, 0) ** (sharpness / 2)
    return sheen


def draw_strands(picture: Pixels, depth: Floats, points: Floats, colours: Pixels) -> None:
    """Draw strands into a picture of surfaces, the far ones first.

    Args:
        picture: [H, W, 3], drawn into.
        depth: [H, W], of the surfaces, infinite where there is none.
        points: [S, K, 3], pixels and depth.
        colours: [S, K - 1, 3], of the segments.
    """
    ends = np.stack([points[:, :-1], points[:, 1:]], axis=2).reshape(-1, 2, 3)
    colours = colours.reshape(-1, 3)
    length_px = np.abs(ends[:, 1] - ends[:, 0])[:, :2].max(1)
    ends, colours = ends[length_px > 1e-3], colours[length_px > 1e-3]
    reach = 2 * int(np.percentile(length_px, 90) / 2) + 1
    row, column = _cells(ends.mean(1), depth)
    hidden_from = cv2.erode(depth, np.ones((reach, reach)))[row, column] + CLEARANCE_CM
    seen_up_to = cv2.dilate(depth, np.ones((reach, reach)))[row, column] + CLEARANCE_CM
    # Segments on an outline are cut into pieces, which are seen or hidden one by one.
    is_cut = (ends[..., 2].max(1) > hidden_from) & (ends[..., 2].min(1) < seen_up_to)
    is_whole = ends[..., 2].max(1) <= hidden_from
    share = np.linspace(0, 1, PIECES + 1)[:, None]
    first, last = ends[is_cut, :1], ends[is_cut, 1:]
    knots = first + share * (last - first)
    pieces = np.stack([knots[:, :-1], knots[:, 1:]], axis=2).reshape(-1, 2, 3)
    row, column = _cells(pieces.mean(1), depth)
    is_seen = pieces[..., 2].mean(1) < depth[row, column] + CLEARANCE_CM
    ends = np.concatenate([ends[is_whole], pieces[is_seen]])
    colours = np.concatenate([colours[is_whole], np.repeat(colours[is_cut], PIECES, 0)[is_seen]])

    order = np.argsort(-ends[..., 2].mean(1), kind="stable")
    fixed = np.round(16 * (ends[order, :, :2] - 0.5)).astype(np.int32).tolist()
    for (start, end), colour in zip(fixed, colours[order].tolist(), strict=True):
        cv2.line(picture, start, end, colour, 1, cv2.LINE_AA, 4)


def _cells(points: Floats, picture: Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    column, row = points[:, :2].astype(np.int32).T
    height, width = picture.shape
    return np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)


def develop(light: Floats) -> Pixels:
    """Turn linear light [.., 3] into pixels, with a film's soft shoulder."""
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    pixels: Pixels = (255 * np.clip(film, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)
    return pixels


def linear(colour: Sequence[float]) -> Floats:
    """Turn display colours in [0, 255] into linear light in [0, 1]."""
    light: Floats = ((np.array(colour, np.float32) / 255) ** 2.2).astype(np.float32)
    return light


def unit(vectors: Floats) -> Floats:
    """Scale vectors [.., 3] to length one."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return scaled


def tangents(direction: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors [3] square to a direction [3] and to each other."""
    helper = np.array([0, 0, 1] if abs(direction[2]) < 0.9 else [0, 1, 0], np.float32)
    across = unit(np.cross(helper, direction))
    return across, np.cross(direction, across)
