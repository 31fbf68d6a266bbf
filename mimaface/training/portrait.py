"""Portraits of made-up people: the studio, its lights, and what the camera sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mimaface.raster import rasterize
from mimaface.training.face_model import (
    Camera,
    FaceModel,
    vertex_normals,
)
from mimaface.training.hair import (
    SkinMap,
    Strands,
    grow_brows,
    grow_hair,
    grow_lashes,
    hair_mask,
)
from mimaface.training.person import TEXTURE_PX, Look, jumper, sample_face, skin_texture, turn_head
from mimaface.training.shading import (
    Light,
    ShadowMap,
    develop,
    diffuse_over_mesh,
    draw_strands,
    gather,
    linear,
    sky,
    strand_light,
    unit,
)
from mimaface.types import Floats, Pixels

SUPERSAMPLING = 2
EXPOSURE = 0.4
BRIGHTNESS = {"hair": 1.0, "brows": 0.6, "lashes": 0.3}  # of hair of one head
SKIN_SPREAD = (14, 5, 3)  # steps that red, green and blue light take through the skin
SKIN_WRAP = np.array([0.3, 0.1, 0.06], np.float32)
FLESH = (150, 66, 62)
# What is rendered of the face model, and its colour where it is not the skin's.
MATERIALS: dict[str, tuple[int, int, int] | None] = {
    "M_Face": None,
    "M_BackHead": None,
    "M_GumsTongue": FLESH,
    "M_Teeth": (238, 230, 216),
    "M_ScleraLeft": (238, 232, 228),
    "M_ScleraRight": (238, 232, 228),
}
SKIN_GLOW = np.array([0.12, 0.05, 0.04], np.float32)  # light that comes through the skin
SKY = (
    np.array([0.56, 0.58, 0.62]),  # from above
    np.array([0.40, 0.39, 0.39]),  # from all round
    np.array([0.30, 0.25, 0.22]),  # from below
)
LAMPS = {
    "key": Light(towards=(-0.62, -0.62, -0.8), colour=(2.5, 2.34, 2.14), spread=0.3, samples=20),
    "fill": Light(towards=(0.85, -0.15, -0.75), colour=(0.44, 0.48, 0.55), spread=0.4, samples=8),
    "rim": Light(towards=(0.75, -0.45, 0.75), colour=(1.7, 1.65, 1.6), samples=6),
    "kicker": Light(towards=(-0.9, -0.2, 0.6), colour=(0.7, 0.72, 0.8), samples=4),
}


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A rendered person: pixels uint8 [S, S, 3] and the face model's vertices in the picture.

    `vertices` [V, 3] are x and y in pixels and depth in centimetres; a `Correspondence` turns them
    into the true landmarks.
    """

    pixels: Pixels
    vertices: Floats


def render_portrait(model: FaceModel, look: Look, size_px: int = 768) -> Portrait:
    """Render a person, head and shoulders, looking into the camera."""
    rng = np.random.default_rng(look.seed)
    camera = Camera(translation=(0.0, 0.1, 104.0), size_px=size_px * SUPERSAMPLING)
    rest = sample_face(model, look)
    hairs = {
        "hair": grow_hair(model, rest, look.hair, rng),
        "brows": grow_brows(model, SkinMap(model, rest), rng),
        "lashes": grow_lashes(model, rest, look.hair, rng),
    }
    head = turn_head(rest, look.rotation)
    posed = {name: turn_head(hair.points, look.rotation) for name, hair in hairs.items()}

    seen, body, body_triangles, cloth = dress(model, rest, look)
    vertices = np.concatenate([head, body])
    triangles = np.concatenate([model.triangles[seen], body_triangles + len(head)])
    normals = vertex_normals(vertices, triangles)
    studio = _Studio(vertices, triangles, posed["hair"][:, ::2].reshape(-1, 3))
    is_skin = np.arange(len(vertices)) < model.parts["head_neck"].stop
    wrap = np.where(is_skin[:, None], SKIN_WRAP, 0.05).astype(np.float32)
    light = studio.light(vertices, normals, wrap=wrap, softness_cm=0.15)
    for name in light:
        blurred = diffuse_over_mesh(light[name], triangles, SKIN_SPREAD)
        light[name] = np.where(is_skin[:, None], blurred, light[name]).astype(np.float32)

    screen = _Screen(camera, vertices, triangles, normals, light)
    colour = _background(look, camera.size_px) / EXPOSURE
    is_head = (screen.index >= 0) & (screen.index < len(seen))
    _shade_skin(colour, screen, is_head, model, seen, look, rng)
    for eye in ("left", "right"):
        material = model.material_names.index(f"M_Sclera{eye.capitalize()}")
        is_eye = is_head & (model.material[seen][screen.index % len(seen)] == material)
        if is_eye.any():
            colour[is_eye] = shade_eye(
                screen.position[is_eye],
                screen.view[is_eye],
                np.sum([screen.light[name][is_eye] for name in screen.light], axis=0),
                rows_below_edge(is_eye),
                ball=head[model.parts[f"eyeball_{eye}"]],
                look=look,
                lamps=LAMPS,
                rng=rng,
            )
    _shade_cloth(colour, screen, screen.index >= len(seen), cloth, len(head), look)

    pixels = develop(EXPOSURE * colour)
    _draw_hair(pixels, screen, camera, hairs, posed, studio, look)
    pixels = cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA)
    points = camera.project(head) / [SUPERSAMPLING, SUPERSAMPLING, 1]
    return Portrait(pixels=pixels, vertices=points.astype(np.float32))


def dress(
    model: FaceModel, rest: Floats, look: Look
) -> tuple[NDArray[np.int32], Floats, NDArray[np.int32], Floats]:
    """Put a jumper on a person.

    Args:
        model: the face model.
        rest: [V, 3], the head at rest.
        look: the person.

    Returns:
        Indices of the head's triangles that it leaves to be seen; its vertices [N, 3], triangles
        [M, 3] and cloth coordinates [N, 2].
    """
    body, body_triangles, cloth = jumper(look.shoulders)
    off_neck = np.hypot(rest[:, 0] / 6.6, (rest[:, 2] - 1.5) / 6.8)
    neckline_cm = 9.5 + 4 * np.clip(-rest[:, 2] / 5, 0, 1)
    is_covered = (rest[:, 1] > 15.5) | ((rest[:, 1] > neckline_cm) & (off_neck > 1))
    seen = model.triangles_of(*MATERIALS)
    return seen[~is_covered[model.triangles[seen]].all(1)], body, body_triangles, cloth


class _Studio:
    """The lights and what stands in their way."""

    def __init__(self, vertices: Floats, triangles: NDArray[np.int32], hair: Floats) -> None:
        groups = {"sky": sky(*SKY), **{name: lamp.split() for name, lamp in LAMPS.items()}}
        self.lights = {
            name: [
                (ShadowMap(towards, vertices, triangles, hair), colour)
                for towards, colour in zip(directions, colours, strict=True)
            ]
            for name, (directions, colours) in groups.items()
        }

    def light(
        self, points: Floats, normals: Floats, *, wrap: Floats, softness_cm: float
    ) -> dict[str, Floats]:
        """Return the light [P, 3] that points receive, by lamp."""
        return {
            name: gather(points, normals, lights, wrap=wrap, softness_cm=softness_cm)
            for name, lights in self.lights.items()
        }


class _Screen:
    """What the camera sees of the surfaces, pixel by pixel."""

    def __init__(
        self,
        camera: Camera,
        vertices: Floats,
        triangles: NDArray[np.int32],
        normals: Floats,
        light: dict[str, Floats],
    ) -> None:
        points = camera.project(vertices)
        size = camera.size_px
        self.index, self.weights = rasterize(points, triangles, size, size)
        self.corners = triangles[self.index]
        self.depth = np.where(self.index >= 0, self.mix(points[:, 2]), np.inf)
        self.position = self.mix(vertices)
        self.normal = unit(self.mix(normals))
        self.light = {name: self.mix(values) for name, values in light.items()}
        eye = -np.array(camera.translation, np.float32)
        self.view = unit(eye - self.position)

    def mix(self, values: Floats) -> Floats:
        """Interpolate values [V, ..] over the pixels [S, S, ..]."""
        return np.einsum("hwi...,hwi->hw...", values[self.corners], self.weights)

    def gloss(self, where: NDArray[np.bool_], normal: Floats, sharpness: float) -> Floats:
        """Return the highlights [N, 3] of every light on the pixels `where`."""
        total = np.zeros((int(where.sum()), 3), np.float32)
        for name, lamp in LAMPS.items():
            halfway = unit(unit(np.array(lamp.towards)) + self.view[where])
            lobe = np.maximum((normal * halfway).sum(-1), 0) ** sharpness
            total += lobe[:, None] * self.light[name][where]
        return total * (sharpness + 8) / 25


def _background(look: Look, size: int) -> Floats:
    inner, outer = (linear(colour) for colour in look.background)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    distance = np.hypot(x + 0.12, y + 0.2)[..., None]
    share = 1 - np.exp(-0.9 * distance**2)
    colour: Floats = (inner + share * (outer - inner)).astype(np.float32)
    return colour


def _shade_skin(
    colour: Floats,
    screen: _Screen,
    where: NDArray[np.bool_],
    model: FaceModel,
    seen: NDArray[np.int32],
    look: Look,
    rng: np.random.Generator,
) -> None:
    texture, moisture = skin_texture(model, look, rng)
    hit = seen[screen.index[where]]
    weights = screen.weights[where]
    place = np.einsum("nij,ni->nj", model.uv[model.triangle_uv[hit]], weights)
    is_face = model.material[hit] == model.material_names.index("M_Face")
    sheet = np.clip(place * TEXTURE_PX - 0.5, 0, TEXTURE_PX - 1.001).astype(np.float32)
    sheet = np.where(is_face[:, None], sheet, 0).reshape(1, -1, 2)
    # OpenCV maps at most 32767 pixels a row.
    blocks = [sheet[:, i : i + 30000] for i in range(0, sheet.shape[1], 30000)]
    albedo = np.concatenate([cv2.remap(texture, b, None, cv2.INTER_LINEAR)[0] for b in blocks])
    moist = np.concatenate([cv2.remap(moisture, b, None, cv2.INTER_LINEAR)[0] for b in blocks])
    for material, colours in MATERIALS.items():
        if material != "M_Face":
            is_it = model.material[hit] == model.material_names.index(material)
            albedo[is_it] = linear(colours or look.skin)
            moist[is_it] = 0.35
    socket = model.parts["mouth_socket"]
    corner = model.triangles[hit, 0]
    albedo[(corner >= socket.start) & (corner < socket.stop)] = linear(FLESH)
    grown = np.einsum("ni,ni->n", hair_mask(model)[model.triangles[hit]], weights)[:, None]
    albedo += 0.85 * grown * (0.5 * linear(look.hair.colour) - albedo)

    light = sum(screen.light[name][where] for name in screen.light) + SKIN_GLOW
    normal = screen.normal[where]
    facing = np.clip((normal * screen.view[where]).sum(-1), 0, 1)[:, None]
    gloss = 0.05 * screen.gloss(where, normal, 9) + 0.035 * screen.gloss(where, normal, 45)
    fuzz = 0.22 * (1 - facing) ** 4 * (screen.light["sky"] + screen.light["rim"])[where]
    colour[where] = albedo * light + moist[:, None] * (1 - grown) * (gloss + fuzz)


def shade_eye(
    position: Floats,
    view: Floats,
    light: Floats,
    rows: Floats,
    *,
    ball: Floats,
    look: Look,
    lamps: Mapping[str, Light],
    rng: np.random.Generator,
    gaze: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """Return the colours [N, 3] of points of an eyeball.

    Args:
        position: [N, 3], of the points.
        view: [N, 3], unit directions to the camera.
        light: [N, 3], that reaches them.
        rows: [N], how far below the upper lid, in heights of the picture.
        ball: [B, 3], vertices of the eyeball.
        look: whose eye.
        lamps: "key" and "fill" are mirrored in it.
        rng: draws the fibres of the iris.
        gaze: tangents of how far it looks past the camera, right and down in the picture.
    """
    low, high = ball.min(0), ball.max(0)
    centre, radius = (low + high) / 2, (high[0] - low[0]) / 2
    outwards = unit(position - centre)
    forward = unit(unit(view.mean(0)) + np.array([*gaze, 0.0], np.float32))
    across = unit(np.cross([0, 1, 0], forward))
    upwards = np.cross(forward, across)
    x, y = outwards @ across * radius, outwards @ upwards * radius
    iris_radius = 0.46 * radius
    r = np.hypot(x, y) / iris_radius
    turn = np.arctan2(y, x)

    white = linear((238, 232, 228)) * (1 - 0.25 * np.clip(np.abs(x) / radius - 0.4, 0, 1)[:, None])
    white = white * np.where(np.abs(x)[:, None] / radius > 0.6, [1, 0.9, 0.88], 1)
    fibres = sum(
        rng.uniform(0.4, 1) * np.cos(n * turn + rng.uniform(0, 6.3) + 1.5 * np.sin(4 * r))
        for n in (17, 29, 43, 61)
    )
    glow = np.clip(0.62 + 0.5 * (y / iris_radius), 0.25, 1.3)  # light gathers opposite the lamp
    iris = linear(look.iris) * (glow * (1 + 0.13 * fibres * np.clip(r, 0, 1)))[:, None]
    iris = iris * (1 + 0.7 * np.exp(-(((r - 0.48) / 0.12) ** 2)))[:, None]
    iris = iris * (1 - 0.75 * _step(r, 0.78, 1.02))[:, None]
    inner = iris + _step(0.44 - r, -0.03, 0.03)[:, None] * (0.004 - iris)
    albedo = inner + _step(r, 0.93, 1.07)[:, None] * (white - inner)

    glint = np.zeros_like(albedo)
    normal = unit(outwards + np.where(r < 1.3, 0.22, 0.0)[:, None] * (outwards - forward))
    mirrored = unit(2 * (normal * view).sum(-1, keepdims=True) * normal - view)
    for lamp, size, strength in (("key", 0.26, 2.6), ("fill", 0.2, 0.25)):
        angle = np.arccos(np.clip(mirrored @ unit(np.array(lamps[lamp].towards)), -1, 1))
        glint += strength * _step(size - angle, -0.06, 0.06)[:, None]
    light = light * (1 - 0.55 * np.exp(-rows / 0.006))[:, None]  # shadow of upper lid and lashes
    return albedo * light * 0.92 + glint * np.clip(light.mean(-1, keepdims=True), 0.3, 1)


def rows_below_edge(where: NDArray[np.bool_]) -> Floats:
    """Return how far pixels [N] of a mask [H, W] lie below its upper edge, in heights H."""
    below: Floats = (np.arange(len(where))[:, None] - where.argmax(0))[where] / len(where)
    return below


def _step(value: Floats, low: float, high: float) -> Floats:
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _shade_cloth(
    colour: Floats,
    screen: _Screen,
    where: NDArray[np.bool_],
    cloth: Floats,
    first: int,
    look: Look,
) -> None:
    corners = screen.corners[where] - first
    place = np.einsum("nij,ni->nj", cloth[np.maximum(corners, 0)], screen.weights[where])
    normal = screen.normal[where]
    position = screen.position[where]
    is_collar = place[:, 1] < 0
    # Knit: ribs round the collar, small stitches below.
    turn = np.arctan2(position[:, 0], -(position[:, 2] - 1.5))
    ribs = np.cos(turn * 110)
    stitch = np.cos(position[:, 0] * 26) * np.cos(
        position[:, 1] * 22 + 2 * np.cos(position[:, 0] * 26)
    )
    shade = np.where(is_collar, 1 + 0.16 * ribs, 1 + 0.05 * stitch)
    light = sum(screen.light[name][where] for name in screen.light)
    facing = np.clip((normal * screen.view[where]).sum(-1), 0, 1)[:, None]
    albedo = linear(look.clothes) * shade[:, None]
    fuzz = 0.35 * (1 - facing) ** 3 * albedo**0.5 * 0.4
    colour[where] = (albedo + fuzz) * light * 0.9


def _draw_hair(
    pixels: Pixels,
    screen: _Screen,
    camera: Camera,
    hairs: dict[str, Strands],
    posed: dict[str, Floats],
    studio: _Studio,
    look: Look,
) -> None:
    base = linear(look.hair.colour)
    for name, strands in hairs.items():
        points = posed[name]
        count, knots = points.shape[:2]
        flat = points.reshape(-1, 3)
        tangent = unit(np.gradient(points, axis=1))
        normals = strands.normals - (strands.normals * tangent).sum(-1, keepdims=True) * tangent
        normals = unit(0.65 * unit(normals) + 0.35 * strands.normals)
        # Light changes slowly along a hair.
        some = np.linspace(0, knots - 1, (knots + 5) // 3).astype(int)
        share = np.arange(knots)
        sampled = studio.light(
            points[:, some].reshape(-1, 3),
            normals[:, some].reshape(-1, 3),
            wrap=np.full(3, 0.35, np.float32),
            softness_cm=0.9 if name == "hair" else 0.4,
        )
        upper = np.searchsorted(some, share).clip(1)
        part = ((share - some[upper - 1]) / (some[upper] - some[upper - 1]))[:, None]
        light = {}
        for lamp, values in sampled.items():
            grid = values.reshape(count, len(some), 3)
            light[lamp] = grid[:, upper - 1] * (1 - part) + grid[:, upper] * part
        view = unit(-np.array(camera.translation, np.float32) - points)
        albedo = base * strands.tint[:, None, None] * BRIGHTNESS[name]
        colour = albedo * sum(light.values()) * 1.1
        if name == "hair":
            for lamp, source in LAMPS.items():
                towards = unit(np.array(source.towards, np.float32))
                shifted = unit(tangent + 0.12 * normals)
                sheen = 0.1 * strand_light(shifted, towards, view, 90)[..., None]
                sheen = sheen + 0.5 * albedo * strand_light(tangent, towards, view, 26)[..., None]
                colour = colour + sheen * light[lamp] * strands.tint[:, None, None]
        shades = develop(EXPOSURE * (colour[:, 1:] + colour[:, :-1]) / 2)
        projected = camera.project(flat).reshape(count, knots, 3)
        draw_strands(
            pixels,
            screen.depth,
            projected,
            shades,
        )
