"""Films of made-up people: lit once, then shot frame by frame, about a tenth of a second each.

A portrait takes 20 seconds for its soft light; a film keeps which light reaches which vertex from
one look at the person, and computes per frame what each does to the moved surface. The picture is
that of `portrait`, with coarser hair and no light under the skin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mimaface.raster import rasterize
from mimaface.training.casting import Scene
from mimaface.training.face_model import Camera, FaceModel
from mimaface.training.film_raster import draw_lines, light_vertices, shade, smooth_normals
from mimaface.training.hair import SkinMap, Strands, grow_brows, grow_hair, grow_lashes, hair_mask
from mimaface.training.performance import Pose
from mimaface.training.person import Look, enlarge_eyes, identity_of, skin_texture, turn_head
from mimaface.training.portrait import (
    BRIGHTNESS,
    FLESH,
    MATERIALS,
    SKIN_GLOW,
    SKIN_WRAP,
    Portrait,
    dress,
    rows_below_edge,
    shade_eye,
)
from mimaface.training.shading import ShadowMap, develop, linear, sky, unit
from mimaface.types import Floats

TEXTURE_PX = 1024
SKY_SAMPLES = 14
SOFTNESS_CM = {"head": 0.4, "hair": 0.9}
# Light is looked at with the mouth and the eyes somewhat open, so that some reaches the inside.
LIT_EXPRESSION = {"jawOpen": 0.4, "mouthSmile": 0.3, "eyeWide": 0.3}
SCATTERED = (0.1, 0.6)  # share of the face's light that finds its way around the mouth
GLASSES_CM = (2.6, 2.0)  # half width and height of a rim


class Film:
    """A person in a scene, ready to be shot; the same seed makes the same pictures."""

    def __init__(self, model: FaceModel, look: Look, scene: Scene, *, size_px: int) -> None:
        """Prepare what stays: skin, hair, clothes, and where light reaches."""
        rng = np.random.default_rng(look.seed)
        self._model, self._look, self._scene = model, look, scene
        self._camera = Camera(
            translation=(0.0, 0.1, scene.distance_cm),
            focal=scene.focal,
            size_px=size_px,
        )
        self._neutral = model.vertices(identity_of(look))
        rest = self._posed({})
        self._rest = rest
        self._hair = grow_hair(model, rest, look.hair, rng)
        self._brows = grow_brows(model, SkinMap(model, rest), rng)
        self._lash_seed = int(rng.integers(2**31))

        self._seen, self._body, body_triangles, cloth = dress(model, rest, look)
        head_triangles = model.triangles[self._seen]
        self._triangles = np.concatenate([head_triangles, body_triangles + len(rest)])
        texture, _ = skin_texture(model, look, rng, size=TEXTURE_PX)
        self._texture = np.ascontiguousarray(texture, np.float32)
        self._uv = np.zeros((len(self._triangles), 3, 2), np.float32)
        self._uv[: len(self._seen)] = model.uv[model.triangle_uv[self._seen]] * TEXTURE_PX
        self._has_texture = np.zeros(len(self._triangles), np.bool_)
        socket = model.parts["mouth_socket"]
        in_socket = (head_triangles[:, 0] >= socket.start) & (head_triangles[:, 0] < socket.stop)
        is_face = model.material[self._seen] == model.material_names.index("M_Face")
        self._has_texture[: len(self._seen)] = is_face & ~in_socket
        self._paint = np.concatenate([self._head_paint(), _cloth_paint(look, cloth, rng)])
        self._roots = _nearest(self._brows.points[:, 0], rest)

        self._wrap = np.full((len(self._paint), 3), 0.05, np.float32)
        self._wrap[: model.parts["head_neck"].stop] = SKIN_WRAP + 0.12
        self._inside = _mouth_vertices(model)
        self._scattered = rng.uniform(*SCATTERED)
        self._light_up()

    def shoot(self, pose: Pose, *, supersampling: int = 1) -> Portrait:
        """Return one picture, without the camera's faults; edges need supersampling."""
        model = self._model
        camera = replace(self._camera, size_px=self._camera.size_px * supersampling)
        upright = self._posed(pose.expression)
        shift = np.array(pose.shift, np.float32)
        head = turn_head(upright, pose.rotation) + shift
        vertices = np.concatenate([head, self._body + shift]).astype(np.float32)
        normals = smooth_normals(vertices, self._triangles)
        light, gloss = light_vertices(
            normals, self._visible, self._towards, self._colours, self._wrap, SKY_SAMPLES
        )
        light[self._inside] += self._scattered * light[: model.parts["head_neck"].stop].mean(0)
        light[: model.parts["head_neck"].stop] += SKIN_GLOW
        points = camera.project(vertices)
        size = camera.size_px
        index, weights = rasterize(points, self._triangles, size, size)
        colour = cv2.resize(self._scene.wall, (size, size)) / self._scene.exposure
        shade(
            colour, index, weights, self._triangles, self._uv, self._has_texture, self._texture,
            self._paint, light, gloss,
        )  # fmt: skip
        self._shade_eyes(colour, index, weights, vertices, light, pose)

        shown = points[self._triangles[index], 2]
        depth = np.where(index >= 0, np.einsum("hwi,hwi->hw", shown, weights), np.inf)
        depth = depth.astype(np.float32)
        self._draw_hair(colour, depth, upright, pose, shift, camera, supersampling)
        if supersampling > 1:
            colour = cv2.resize(colour, (self._camera.size_px,) * 2, interpolation=cv2.INTER_AREA)
        flat = points[: len(head)] / np.array([supersampling, supersampling, 1], np.float32)
        return Portrait(pixels=develop(self._scene.exposure * colour), vertices=flat)

    def _posed(self, expression: Mapping[str, float]) -> Floats:
        model, shape = self._model, self._neutral.copy()
        for name, weight in expression.items():
            for each in (name, f"{name}_L", f"{name}_R"):
                if each in model.expression_names:
                    shape += weight * model.expression_basis[model.expression_names.index(each)]
        return enlarge_eyes(model, shape, self._look.eye_size).astype(np.float32)

    def _head_paint(self) -> Floats:
        # [V, 4]: colour of every vertex that has no texture, and how far hair covers the skin.
        model, look = self._model, self._look
        paint = np.zeros((len(self._rest), 4), np.float32)
        paint[:, :3] = linear(look.skin)
        for material, colour in MATERIALS.items():
            if colour is not None:
                corners = model.triangles[model.triangles_of(material)]
                paint[np.unique(corners), :3] = linear(colour)
        paint[model.parts["mouth_socket"], :3] = linear(FLESH)
        grown = 0.85 * hair_mask(model)
        scalp = grown > 0.05
        paint[scalp, :3] = 0.5 * linear(look.hair.colour)
        paint[:, 3] = grown
        return paint

    def _light_up(self) -> None:
        # [L, V]: how much of each light reaches each vertex, and each strand of hair.
        vertices = np.concatenate([self._posed(LIT_EXPRESSION), self._body]).astype(np.float32)
        hair = self._hair.points
        lit_hair = hair[:, :: max(hair.shape[1] // 4, 1)]
        lights = [sky(*self._scene.sky, samples=SKY_SAMPLES)]
        lights += [lamp.split() for lamp in self._scene.lamps.values()]
        self._towards = np.concatenate([towards for towards, _ in lights])
        self._colours = np.concatenate([colours for _, colours in lights]).astype(np.float32)
        at_vertices, at_hair = [], []
        for towards in self._towards:
            shadow = ShadowMap(towards, vertices, self._triangles, hair[:, ::3].reshape(-1, 3))
            at_vertices.append(shadow.visibility(vertices, SOFTNESS_CM["head"]))
            at_hair.append(shadow.visibility(lit_hair.reshape(-1, 3), SOFTNESS_CM["hair"]))
        self._visible = np.stack(at_vertices).astype(np.float32)
        strands = np.stack(at_hair).reshape(len(self._towards), *lit_hair.shape[:2])
        share = np.linspace(0, lit_hair.shape[1] - 1, hair.shape[1]).round().astype(int)
        self._hair_visible = strands[:, :, share].astype(np.float32)

    def _shade_eyes(
        self,
        colour: Floats,
        index: NDArray[np.int32],
        weights: Floats,
        vertices: Floats,
        light: Floats,
        pose: Pose,
    ) -> None:
        model = self._model
        for eye in ("left", "right"):
            name = f"M_Sclera{eye.capitalize()}"
            material = model.material_names.index(name)
            is_eye = np.flatnonzero(model.material[self._seen] == material)
            where = (index >= is_eye[0]) & (index <= is_eye[-1])
            if not where.any():
                continue
            corners, share = self._triangles[index[where]], weights[where]
            position = np.einsum("nij,ni->nj", vertices[corners], share)
            colour[where] = shade_eye(
                position,
                unit(-np.array(self._camera.translation, np.float32) - position),
                np.einsum("nij,ni->nj", light[corners], share),
                rows_below_edge(where),
                ball=vertices[model.parts[f"eyeball_{eye}"]],
                look=self._look,
                lamps=self._scene.lamps,
                rng=np.random.default_rng(self._look.seed),
                gaze=pose.gaze,
            )

    def _draw_hair(
        self,
        colour: Floats,
        depth: Floats,
        upright: Floats,
        pose: Pose,
        shift: Floats,
        camera: Camera,
        supersampling: int,
    ) -> None:
        lashes = grow_lashes(
            self._model, upright, self._look.hair, np.random.default_rng(self._lash_seed)
        )
        moved = upright[self._roots] - self._rest[self._roots]
        brows = replace(self._brows, points=self._brows.points + moved[:, None])
        for name, strands in (("lashes", lashes), ("brows", brows), ("hair", self._hair)):
            points = turn_head(strands.points, pose.rotation) + shift
            shades = self._strand_colours(name, strands, pose)
            projected = camera.project(points.reshape(-1, 3)).reshape(points.shape)
            width = supersampling * (2 if name == "hair" else 1)
            draw_lines(colour, depth, projected, shades, width, 0.15)
        if self._scene.has_glasses:
            rims = turn_head(_glasses(self._rest, self._model), pose.rotation) + shift
            projected = camera.project(rims.reshape(-1, 3)).reshape(rims.shape)
            black = np.full(rims.shape, 0.03, np.float32)
            draw_lines(colour, depth, projected, black, 2 * supersampling, 0.6)

    def _strand_colours(self, name: str, strands: Strands, pose: Pose) -> Floats:
        # Light on a strand as on the surface it fills, turned with the head.
        shape = strands.points.shape
        base = linear(self._look.hair.colour) * BRIGHTNESS[name] * strands.tint[:, None, None]
        turn, _ = cv2.Rodrigues(np.array(pose.rotation))
        normals = strands.normals @ turn.T.astype(np.float32)
        total = np.zeros(shape, np.float32)
        for light, (towards, lamp) in enumerate(zip(self._towards, self._colours, strict=True)):
            facing = np.maximum(normals @ towards + 0.35, 0) / 1.35**2
            seen = self._hair_visible[light] if name == "hair" else 0.7
            total += (facing * seen)[..., None] * lamp
        return (base * total * 1.1).astype(np.float32)


def _cloth_paint(look: Look, cloth: Floats, rng: np.random.Generator) -> Floats:
    turn, down = cloth[:, :1], cloth[:, 1:]
    colour = linear(look.clothes)
    kind = rng.integers(4)
    stripes = np.cos(2 * np.pi * rng.integers(4, 14) * (down if kind == 1 else 3 * turn)) > 0.3
    is_other = stripes & (kind < 2)
    painted = np.where(is_other, linear(look.background[0]), colour)
    painted = painted * (1 + 0.08 * rng.standard_normal((len(cloth), 1)))
    return np.concatenate([painted, np.zeros((len(cloth), 1))], axis=1).astype(np.float32)


def _glasses(rest: Floats, model: FaceModel) -> Floats:
    # Rims [S, K, 3] as bundles of lines before the eyes, a bridge and the sides.
    angle = np.linspace(0, 2 * np.pi, 33)
    rims, centres = [], []
    for eye in ("eyeball_right", "eyeball_left"):
        ball = rest[model.parts[eye]]
        centres.append((ball.min(0) + ball.max(0)) / 2 + np.array([0, 0.2, -2.4]))
    bend = 2.5  # a superellipse: between a circle and a rectangle
    for centre in centres:
        x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / bend) * GLASSES_CM[0]
        y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / bend) * GLASSES_CM[1]
        back = 0.09 * (centre[0] + x) ** 2 * 0.35
        rims.append(np.stack([centre[0] + x, centre[1] + y, centre[2] + back], axis=1))
    share = np.linspace(0, 1, 33)[:, None]
    left, right = rims[0][0], rims[1][16]
    rims.append(left + share * (right - left))
    for rim, side in ((rims[0][16], -1.0), (rims[1][0], 1.0)):
        rims.append(rim + share * (np.array([side * 8.3, rim[1], 3.0]) - rim))
    lines = np.stack(rims)
    offsets = np.linspace(-0.12, 0.12, 5)[:, None, None, None] * np.array([0, 1.0, 0.4])
    return (lines[None] + offsets).reshape(-1, *lines.shape[1:]).astype(np.float32)


def _mouth_vertices(model: FaceModel) -> NDArray[np.int64]:
    socket = model.parts["mouth_socket"]
    inner = [model.triangles[model.triangles_of(each)] for each in ("M_GumsTongue", "M_Teeth")]
    return np.union1d(np.arange(socket.start, socket.stop), np.concatenate(inner))


def _nearest(points: Floats, vertices: Floats) -> NDArray[np.int64]:
    _, index = cKDTree(vertices).query(points)
    return np.asarray(index)
