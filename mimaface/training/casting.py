"""Draws made-up people, their light, their wall and their camera by chance."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mimaface.training.hair import HairStyle
from mimaface.training.person import Look
from mimaface.training.shading import Light, linear
from mimaface.types import Floats, Reals

SKINS = (
    (240, 200, 178),
    (228, 178, 150),
    (206, 150, 120),
    (172, 118, 88),
    (128, 84, 62),
    (88, 58, 44),
)
HAIRS = (
    (30, 24, 22),
    (52, 36, 28),
    (92, 60, 38),
    (150, 110, 66),
    (190, 160, 112),
    (110, 58, 34),
    (150, 148, 146),
)
IRISES = ((92, 56, 32), (70, 44, 28), (96, 130, 100), (90, 120, 150), (120, 110, 80))

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What surrounds a person.

    Attributes:
        lamps: "key", "fill", "rim" and "kicker".
        sky: linear colours [3] of the light from above, from all round and from below.
        wall: linear [S, S, 3], behind the person.
        exposure: of the camera.
        distance_cm: of the camera, with its focal length in picture widths.
        focal: chosen so that the head fills about the same share of the picture.
        blur_px: of the lens.
        noise: of the sensor, in levels of 255.
        tint: [3], the camera's white balance.
        has_glasses: whether the person wears them.
    """

    lamps: dict[str, Light]
    sky: tuple[Floats, Floats, Floats]
    wall: Floats
    exposure: float
    distance_cm: float
    focal: float
    blur_px: float
    noise: float
    tint: Floats
    has_glasses: bool


def cast(rng: np.random.Generator, *, strands: int) -> Look:
    """Draw a person."""
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.06, 3)
    redder = skin * rng.uniform([0.8, 0.5, 0.5], [0.95, 0.68, 0.72])
    hair = np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.85, 1.15)
    return Look(
        seed=int(rng.integers(2**31)),
        build=float(rng.normal(0, 1.1)),
        variation=float(rng.uniform(0.5, 0.95)),
        eye_size=float(rng.uniform(-0.03, 0.1)),
        shoulders=float(rng.uniform(0.85, 1.15)),
        skin=_colour(skin),
        lips=_colour(redder),
        freckles=float(rng.uniform(0.3, 0.9)) if rng.random() < 0.2 else 0.0,
        iris=_colour(np.array(IRISES[rng.integers(len(IRISES))]) * rng.uniform(0.8, 1.2)),
        hair=HairStyle(
            cut="bob" if rng.random() < 0.45 else "quiff",
            colour=_colour(hair),
            lash_cm=float(rng.uniform(0.1, 0.4)),
            strands=strands,
            parting_cm=float(rng.normal(0, 1.8)),
        ),
        clothes=_colour(rng.uniform(20, 230, 3)),
        background=(_calm_colour(rng), _calm_colour(rng)),
        expression={},
    )


def set_scene(rng: np.random.Generator, look: Look, *, size_px: int) -> Scene:
    """Draw the light, the wall and the camera for a person; the picture is square."""
    side = rng.choice([-1.0, 1.0])
    contrast = rng.uniform(0.35, 1.25)
    warm = rng.uniform(-0.12, 0.12)
    white = np.array([1 + warm, 1.0, 1 - warm])

    def lamp(towards: tuple[float, float, float], strength: float, samples: int) -> Light:
        jitter = rng.normal(0, 0.2, 3)
        x, y, z = np.array(towards) * [side, 1, 1] + jitter
        r, g, b = strength * white
        return Light(towards=(x, y, z), colour=(r, g, b), spread=0.35, samples=samples)

    level = rng.uniform(0.8, 1.7)
    distance_cm = float(rng.uniform(55, 130))
    return Scene(
        lamps={
            "key": lamp((-0.62, -0.6, -0.8), 2.4 * contrast, 4),
            "fill": lamp((0.85, -0.15, -0.75), rng.uniform(0.2, 0.9), 2),
            "rim": lamp((0.75, -0.45, 0.75), rng.uniform(0.0, 1.6), 2),
            "kicker": lamp((-0.9, -0.2, 0.6), rng.uniform(0.0, 0.7), 1),
        },
        sky=(
            level * np.array([0.58, 0.60, 0.63]),
            level * np.array([0.42, 0.41, 0.41]),
            level * np.array([0.30, 0.26, 0.23]),
        ),
        wall=_wall(rng, look, size_px),
        exposure=float(rng.uniform(0.36, 0.6)),
        distance_cm=distance_cm,
        focal=float(2.9 * distance_cm / 104 * rng.uniform(0.86, 1.08)),
        blur_px=float(rng.uniform(0.0, 1.0)),
        noise=float(rng.uniform(0.0, 2.5)),
        tint=rng.uniform(0.93, 1.07, 3).astype(np.float32),
        has_glasses=bool(rng.random() < 0.2),
    )


def _wall(rng: np.random.Generator, look: Look, size: int) -> Floats:
    inner, outer = (linear(colour) for colour in look.background)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    share = 1 - np.exp(-0.9 * np.hypot(x - rng.normal(0, 0.4), y - rng.normal(0, 0.4)) ** 2)
    wall = inner + share[..., None] * (outer - inner)
    if rng.random() < 0.6:  # things out of focus
        shapes = wall.astype(np.float32)
        for _ in range(rng.integers(3, 14)):
            corners = (rng.uniform(0, size, 2) + rng.uniform(-0.35, 0.35, (4, 2)) * size).astype(
                int
            )
            colour = linear(_calm_colour(rng))
            cv2.fillConvexPoly(shapes, cv2.convexHull(corners), colour.tolist(), cv2.LINE_AA)
        wall = cv2.GaussianBlur(shapes, (0, 0), size * rng.uniform(0.003, 0.04))
    grain = rng.standard_normal((size // 4, size // 4, 1)).astype(np.float32)
    grain = cv2.resize(grain, (size, size))[..., None]
    painted: Floats = np.clip(wall * (1 + rng.uniform(0, 0.08) * grain), 0, 1).astype(np.float32)
    return painted


def _calm_colour(rng: np.random.Generator) -> Colour:
    # Rooms are greyer than paint boxes.
    grey = rng.uniform(15, 240)
    return _colour(grey + rng.uniform(0.1, 0.8) * rng.uniform(-70, 70, 3))


def _colour(values: Reals) -> Colour:
    r, g, b = np.clip(values, 4, 250).astype(int).tolist()
    return r, g, b
