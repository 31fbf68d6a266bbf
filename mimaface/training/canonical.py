"""Where MediaPipe's 478 landmarks lie on the face model.

MediaPipe is shown plain renders of many identities and poses. Each landmark's pixel names a point
of the model's surface; the median of these points over the renders is the landmark's place.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import cv2
import mediapipe as mp
import numpy as np
from numpy.typing import NDArray

from mimaface.raster import rasterize
from mimaface.training.face_model import (
    LID_EDGE_RING,
    LIP_SEAM_RING,
    Camera,
    FaceModel,
    sample_identity,
    vertex_normals,
)
from mimaface.types import Floats, Pixels

SKIN_POINTS = 468
EYE_CORNERS = [33, 263]  # outer; their distance is one head unit
TRAGI = [234, 454]  # the head's origin lies between them
# On the inner contour MediaPipe counts the mouth's corners (78, 308) to both lips.
UPPER_SEAM = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
LOWER_SEAM = [95, 88, 178, 87, 14, 317, 402, 318, 324]
# The lids without the inner corners, which lie off the lid's line, in the tear duct.
LIDS = {
    "eye_socket_right": [33, 246, 161, 160, 159, 158, 157, 173, 155, 154, 153, 145, 144, 163, 7],
    "eye_socket_left": [263, 466, 388, 387, 386, 385, 384, 398, 382, 381, 380, 374, 373, 390, 249],
}
IRISES = {"eyeball_right": (468, 469, 470, 471, 472), "eyeball_left": (473, 474, 475, 476, 477)}
IRIS_DIRECTIONS = ((0, 0), (1, 0), (0, -1), (-1, 0), (0, 1))  # middle, right, top, left, bottom
IRIS_PAIRS = [473, 476, 475, 474, 477, 468, 471, 470, 469, 472]
IRIS_RADIUS_CM = 0.6
MIDDLE_EDGE = (10, 151)  # on the forehead
YAWS = (0.0, -0.5, -0.25, 0.25, 0.5)  # rad
PITCHES = (0.0, -0.2, 0.2)  # rad
MIRROR = np.array([-1, 1, 1])


class Correspondence(NamedTuple):
    """Points on the face model: triangle [N] and barycentric weights [N, 3]."""

    triangle: NDArray[np.int32]
    barycentric: Floats

    def evaluate(self, model: FaceModel, vertices: Floats) -> Floats:
        """Return the points [.., N, 3] on posed or deformed vertices [.., V, 3]."""
        corners = vertices[..., model.triangles[self.triangle], :]
        points: Floats = np.einsum("...nij,ni->...nj", corners, self.barycentric)
        return points


def load_correspondence() -> Correspondence:
    """Return where the package's canonical face has its landmarks on the face model."""
    path = Path(__file__).parents[1] / "assets" / "canonical_face.npz"
    with np.load(path, allow_pickle=False) as file:
        return Correspondence(file["ict_triangle"], file["ict_barycentric"])


def tessellation() -> NDArray[np.int32]:
    """Return MediaPipe's triangles [852, 3], their normals outwards; eyes and mouth are holes."""
    neighbours: dict[int, set[int]] = {}
    for a, b in mp.solutions.face_mesh.FACEMESH_TESSELATION:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    triangles = {
        tuple(sorted((a, b, c)))
        for a in neighbours
        for b in neighbours[a]
        for c in neighbours[a] & neighbours[b]
    }
    around: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for triangle in triangles:
        for edge in combinations(triangle, 2):
            around.setdefault(edge, []).append(triangle)
    # Three triangles round one vertex make a fourth 3-cycle, which is no triangle of the mesh.
    triangles -= {t for t in triangles if all(len(around[e]) == 3 for e in combinations(t, 2))}

    start = min(triangles)
    wound = {start: start}
    queue = [start]
    while queue:
        a, b, c = wound[queue.pop()]
        for first, second in ((a, b), (b, c), (c, a)):
            for triangle in around[min(first, second), max(first, second)]:
                if triangle in triangles and triangle not in wound:
                    (third,) = set(triangle) - {first, second}
                    wound[triangle] = (second, first, third)
                    queue.append(triangle)
    return np.array([wound[t] for t in sorted(triangles)], np.int32)[:, ::-1]


def plain_texture(model: FaceModel, size_px: int = 1024) -> Pixels:
    """Paint what MediaPipe needs to find the features: lips, brows and the line of the lids."""
    texture = np.full((size_px, size_px, 3), (216, 172, 148), np.uint8)
    points = (size_px * model.texture_place(model.landmarks68)).astype(np.int32)
    cv2.fillPoly(texture, [points[48:60]], (178, 92, 88), cv2.LINE_AA)
    for brow in (points[17:22], points[22:27]):
        cv2.polylines(texture, [brow], False, (70, 48, 38), size_px // 50, cv2.LINE_AA)
    for socket in LIDS:
        line = size_px * model.texture_place(model.ring(socket, LID_EDGE_RING))
        cv2.polylines(
            texture, [line.astype(np.int32)], True, (90, 56, 48), size_px // 300, cv2.LINE_AA
        )
    return texture


def render_plain(
    model: FaceModel, texture: Pixels, vertices: Floats, camera: Camera
) -> tuple[Pixels, NDArray[np.int32], Floats]:
    """Render a bald grey-lit face.

    Returns:
        The picture [H, W, 3], the model's triangle under each pixel [H, W], -1 where there is
        none, and its barycentric weights [H, W, 3].
    """
    visible = model.triangles_of(
        "M_Face", "M_BackHead", "M_ScleraLeft", "M_ScleraRight", "M_Teeth", "M_GumsTongue"
    )
    triangles = model.triangles[visible]
    points = camera.project(vertices)
    index, weights = rasterize(points, triangles, camera.size_px, camera.size_px)
    is_face = index >= 0
    hit = visible[index]
    normals = vertex_normals(camera.to_camera(vertices), model.triangles)
    normal = np.einsum("hwij,hwi->hwj", normals[triangles[index]], weights)
    light = 0.35 + 0.75 * np.clip(normal @ np.array([-0.3, -0.4, -0.87]), 0, 1)

    height = len(texture)
    place = np.einsum("hwij,hwi->hwj", model.uv[model.triangle_uv[hit]], weights)
    texel = np.clip(place * height, 0, height - 1).astype(np.int32)
    albedo = texture[texel[..., 1], texel[..., 0]].astype(np.float32)
    material = np.array(model.material_names)[model.material[hit]]
    albedo[material == "M_BackHead"] = (92, 66, 52)
    albedo[material == "M_GumsTongue"] = (120, 50, 50)
    rest = np.einsum("hwij,hwi->hwj", model.neutral[triangles[index]], weights)
    for eye in IRISES:
        centre = eye_centre(model, eye)
        off_axis = np.linalg.norm((rest - centre)[..., :2], axis=-1)
        side = "Left" if eye.endswith("left") else "Right"
        is_eye = material == f"M_Sclera{side}"
        albedo[is_eye] = (236, 232, 228)
        albedo[is_eye & (off_axis < IRIS_RADIUS_CM)] = (86, 60, 42)
        albedo[is_eye & (off_axis < 0.4 * IRIS_RADIUS_CM)] = (16, 12, 10)
    picture = np.clip(albedo * light[..., None], 0, 255)
    picture[~is_face] = (150, 160, 170)
    return picture.astype(np.uint8), np.where(is_face, hit, -1), weights


def eye_centre(model: FaceModel, eye: str) -> Floats:
    """Return the centre [3] of an eyeball of the neutral face."""
    ball = model.neutral[model.parts[eye]]
    centre: Floats = (ball.min(0) + ball.max(0)) / 2
    return centre


def eyeball_front(model: FaceModel, eye: str) -> NDArray[np.int32]:
    """Return the triangles of an eyeball's outer surface that face the camera."""
    ball = model.triangles_of("M_ScleraLeft" if eye.endswith("left") else "M_ScleraRight")
    depth = model.neutral[model.triangles[ball], 2].mean(1)
    return ball[depth < eye_centre(model, eye)[2]]


def find_correspondence(model: FaceModel, identities: int = 6) -> Correspondence:
    """Find the 478 landmarks on the face model; takes about half a minute."""
    texture = plain_texture(model)
    rng = np.random.default_rng(0)
    skin = model.triangles_of("M_Face")
    samples: list[list[Floats]] = [[] for _ in range(SKIN_POINTS)]
    with mp.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, min_detection_confidence=0.3
    ) as face_mesh:
        faces = [model.vertices(sample_identity(rng, 0.7)) for _ in range(identities)]
        frontal = [render_plain(model, texture, face, Camera())[0] for face in faces]
        own = np.mean([_detect(face_mesh, picture) for picture in frontal], axis=0)
        side = np.sign(own[:, 0] - own[TRAGI, 0].mean())
        for vertices, yaw, pitch in product(faces, YAWS, PITCHES):
            camera = Camera(rotation=(pitch, yaw, 0.0))
            picture, hit, weights = render_plain(model, texture, vertices, camera)
            normals = vertex_normals(camera.to_camera(vertices), model.triangles)
            landmarks = _detect(face_mesh, picture) * camera.size_px
            for i, (x, y) in enumerate(landmarks[:, :2].astype(int)):
                corners = model.triangles[hit[y, x]]
                is_turned_away = side[i] * yaw < 0
                is_skin = np.isin(hit[y, x], skin)
                is_grazed = weights[y, x] @ normals[corners, 2] > -0.35
                if is_skin and not is_turned_away and not is_grazed:
                    samples[i].append(weights[y, x] @ model.neutral[corners])

    pairs = mirror_pairs(own, tessellation())
    points = np.stack(
        [
            np.median([*samples[i], *(np.array(samples[pairs[i]]) * MIRROR)], axis=0)
            for i in range(SKIN_POINTS)
        ]
    )
    places = [_closest(model, skin, _on_contours(model, points))]
    for eye in IRISES:
        rim = eye_centre(model, eye)[:2] + np.array(IRIS_DIRECTIONS) * IRIS_RADIUS_CM
        places.append(_closest(model, eyeball_front(model, eye), rim))
    triangle, barycentric = (np.concatenate(columns) for columns in zip(*places, strict=True))
    return Correspondence(triangle, barycentric)


def _detect(face_mesh: mp.solutions.face_mesh.FaceMesh, picture: Pixels) -> Floats:
    """Return MediaPipe's landmarks [468, 3] in picture widths."""
    faces = face_mesh.process(picture).multi_face_landmarks
    assert faces, "MediaPipe finds the plain renders of the face model"
    points = [(point.x, point.y, point.z) for point in faces[0].landmark[:SKIN_POINTS]]
    return np.array(points, np.float32)


def mirror_pairs(points: Floats, triangles: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for every landmark [468] the one across the middle of the face.

    Pairs grow along the mesh from an edge on the middle line, those that mirror best first:
    distance alone confuses the lips, and the mesh alone has quads split the other way.

    Args:
        points: [468, 3], a nearly symmetric face.
        triangles: [852, 3], wound alike.
    """
    third = {}
    for a, b, c in triangles.tolist():
        third[a, b], third[b, c], third[c, a] = c, a, b
    centred = points - [points[TRAGI, 0].mean(), 0, 0]
    distance = np.linalg.norm(centred[:, None] - centred * MIRROR, axis=-1)
    distance += distance.T
    pairs = {landmark: landmark for landmark in MIDDLE_EDGE}
    heap: list[tuple[float, int, int]] = []
    grown = list(MIDDLE_EDGE)
    while len(pairs) < len(points):
        for a, b in third:
            if a in pairs and b in pairs and (a in grown or b in grown):
                one, other = third[a, b], third.get((pairs[b], pairs[a]))
                if other is not None:
                    heappush(heap, (distance[one, other], one, other))
        _, one, other = heappop(heap)
        grown = [] if one in pairs or other in pairs else [one, other]
        if grown:
            pairs[one], pairs[other] = other, one
    return np.array([pairs[i] for i in range(len(points))])


def _on_contours(model: FaceModel, points: Floats) -> Floats:
    """Move the points of the inner lips and of the lids onto the model's own lines."""
    points = points.copy()
    ring = model.ring("mouth_socket", LIP_SEAM_RING)
    seam = model.neutral[ring]
    jaw = model.expression_basis[model.expression_names.index("jawOpen")][ring, 1]
    corner = seam[:, 0].argmax()
    # The lips touch, but an opening jaw moves the lower one more than the corners.
    for landmarks, is_lip in ((UPPER_SEAM, jaw <= jaw[corner]), (LOWER_SEAM, jaw >= jaw[corner])):
        line = seam[is_lip][seam[is_lip, 0].argsort()]
        x = points[landmarks, 0] * seam[corner, 0] / points[UPPER_SEAM[-1], 0]
        points[landmarks] = np.stack([np.interp(x, line[:, 0], line[:, i]) for i in range(3)], 1)
    for socket, landmarks in LIDS.items():
        line = _dense(model.neutral[model.ring(socket, LID_EDGE_RING)])
        distance = np.linalg.norm(points[landmarks, None, :2] - line[:, :2], axis=-1)
        points[landmarks] = line[distance.argmin(1)]
    return points


def _dense(line: Floats, steps: int = 16) -> Floats:
    """Put points on the segments of a closed line [N, 3]."""
    share = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    points: Floats = (line + share * (np.roll(line, -1, axis=0) - line)).reshape(-1, 3)
    return points


def _closest(model: FaceModel, among: NDArray[np.int32], points: Floats) -> Correspondence:
    """Find the points of the neutral surface nearest to `points` among these triangles.

    Points [N, 3] lie in space, points [N, 2] in the frontal view.
    """
    corners = model.neutral[model.triangles[among], : points.shape[1]].astype(np.float64)
    triangles, weights = [], []
    for point in points:
        near = np.linalg.norm(corners.mean(1) - point, axis=1).argsort()[:40]
        candidates = [_barycentric(point, *corners[i]) for i in near]
        distance = [
            np.linalg.norm(weight @ corners[i] - point)
            for i, weight in zip(near, candidates, strict=True)
        ]
        best = int(np.argmin(distance))
        triangles.append(among[near[best]])
        weights.append(candidates[best])
    return Correspondence(np.array(triangles, np.int32), np.array(weights, np.float32))


def _barycentric(point: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    """Return the weights [3] of the triangle's point nearest to `point`."""
    basis = np.stack([b - a, c - a], axis=1)
    v, w = np.linalg.lstsq(basis, point - a, rcond=None)[0]
    if v >= 0 and w >= 0 and v + w <= 1:
        return np.array([1 - v - w, v, w])
    best = np.array([1.0, 0.0, 0.0])
    corners = np.stack([a, b, c])
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[j] - corners[i]
        share = np.clip((point - corners[i]) @ edge / (edge @ edge), 0, 1)
        weights = np.zeros(3)
        weights[[i, j]] = 1 - share, share
        if np.linalg.norm(weights @ corners - point) < np.linalg.norm(best @ corners - point):
            best = weights
    return best


def canonical_face(model: FaceModel) -> dict[str, NDArray[np.generic]]:
    """Make the arrays of canonical_face.npz; training/README.md describes them."""
    places = find_correspondence(model)
    points = places.evaluate(model, model.neutral)
    expressions = places.evaluate(model, model.expression_basis)
    head_unit = np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]])
    skin_pairs = mirror_pairs(points[:SKIN_POINTS], tessellation())
    pairs = np.concatenate([skin_pairs, IRIS_PAIRS])
    points = (points + points[pairs] * MIRROR) / 2
    return {
        "vertices": ((points - points[TRAGI].mean(0)) / head_unit).astype(np.float32),
        "triangles": tessellation(),
        "expression_basis": (expressions / head_unit).astype(np.float32),
        "expression_names": np.array(model.expression_names),
        "ict_triangle": places.triangle,
        "ict_barycentric": places.barycentric,
    }
