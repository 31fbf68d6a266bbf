"""Paints what a photo does not show: skin of shut lids, whole eyeballs, lips, the wall behind.

It happens once per portrait; drawing a frame only looks the plates up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from mimaface.face_mesh import EYES, INNER_LIPS, Contour, rims
from mimaface.render import Plate
from mimaface.types import Floats, Pixels, Reals

CHEEKS: Final = (50, 280, 205, 425)
BACKGROUND_LIKENESS: Final = 14  # levels of 255 that a wall may differ from its surroundings
GRABCUT_SIDE: Final = 384  # pixels; it takes half a second
DISTINCT: Final = 40  # levels of 255 from which on the colours tell a person from what is behind
LASHES: Final = 0.28  # eye widths that lashes and their shadow reach beyond the lids
FEATHER: Final = 0.08  # eye widths over which it fades into the photo
SKIN_AROUND: Final = 0.5  # eye widths beyond them from which the skin of shut lids is taken
LEAST_SKIN: Final = 0.6  # of its brightness: what is darker is no bare skin
UNLIKE_SKIN: Final = 24  # levels of 255 that the rim of a face may differ from the skin beside it
LIP_EDGE: Final = 0.015  # head units that landmarks may miss the inner edge of the lips by
CLEAR: Final = 0.06  # share of the person, or the background, that is nothing but noise


@dataclass(frozen=True)
class Canvas:
    """The photo as far as it is needed: uint8 [H', W', 3], and where it lies.

    `corner` is the place of its first texel's corner in pixels of the avatar picture.
    """

    rgb: Pixels
    corner: Reals
    texels_per_px: float

    def to_texels(self, pixels: Reals) -> Floats:
        """Return pixel coordinates [.., 2] of the avatar picture as texel coordinates."""
        return ((pixels - self.corner) * self.texels_per_px).astype(np.float32)

    def sample(self, image: Pixels, pixels: Reals) -> Pixels:
        """Look up an image [H', W', ..] of this canvas at pixel coordinates [h, w, 2]."""
        texels = self.to_texels(pixels) - np.float32(0.5)
        return cv2.remap(image, texels, None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)


def _fill(picture: Pixels | Floats, known: Reals) -> Floats:
    """Fill [H, W, C] smoothly from where `known` [H, W] is 1 into where it is 0.

    Push-pull: average the known part into ever coarser pictures, then fill each from the coarser
    (S. J. Gortler et al., The Lumigraph, SIGGRAPH 1996).
    """
    height, width_px = known.shape
    picture, known = picture.astype(np.float32), known.astype(np.float32)
    if min(height, width_px) <= 2 or known.min() >= 1:
        mean = (picture * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return picture * known[..., None] + mean * (1 - known[..., None])
    half = ((width_px + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(picture * known[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = _fill(colour / np.maximum(weight, 1e-6)[..., None], np.minimum(weight * 4, 1))
    guess = cv2.resize(coarse, (width_px, height), interpolation=cv2.INTER_LINEAR)
    return guess + known[..., None] * (picture - guess)


def _polygon(shape: tuple[int, ...], points: Reals) -> Pixels:
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def matte_person(photo: Pixels, oval: Reals) -> Pixels:
    """Return the matte of the person, uint8 [H, W]; most of the oval [O, 2] belongs to it.

    MediaPipe's segmentation knows roughly where the person is; in a band around its edge the
    photo's own colours decide (C. Rother, V. Kolmogorov, A. Blake, GrabCut, SIGGRAPH 2004).
    """
    from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

    with SelfieSegmentation(model_selection=0) as graph:
        rough = graph.process(photo).segmentation_mask
    zoom = GRABCUT_SIDE / max(photo.shape)
    small = cv2.resize(photo, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    rough = cv2.resize(rough, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    band = np.ones((15, 15), np.uint8)
    labels = np.where(rough > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode((rough > 0.9).astype(np.uint8), band) > 0] = cv2.GC_FGD
    labels[cv2.dilate((rough > 0.1).astype(np.uint8), band) == 0] = cv2.GC_BGD
    inner = oval.mean(axis=0) + 0.88 * (oval - oval.mean(axis=0))  # its rim may miss the cheek
    labels[_polygon(small.shape, inner * zoom) > 0] = cv2.GC_FGD
    if (labels == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)  # its clustering starts from OpenCV's own generator
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, labels, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    person = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    # Without threads and islands: what hangs together with most of the person.
    person = cv2.morphologyEx(person, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, islands, sizes, _ = cv2.connectedComponentsWithStats(person)
    person = (islands == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()).astype(np.float32)
    person = cv2.resize(person, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    radius = max(round(0.006 * max(photo.shape)), 2)
    matte = cv2.ximgproc.guidedFilter(photo.astype(np.float32) / 255, person, radius, 1e-4)
    return (np.clip(matte, 0, 1) * 255).astype(np.uint8)


def paint_background(canvas: Canvas, matte: Pixels) -> Pixels:
    """Return the canvas without the person [H', W', 3]."""
    reach = max(round(0.012 * max(matte.shape)), 2) * 2 + 1
    person = cv2.dilate(matte, np.ones((reach, reach), np.uint8))
    return np.clip(_fill(canvas.rgb, person < 12), 0, 255).astype(np.uint8)


def paint_person(canvas: Canvas, matte: Pixels, background: Pixels, points: Reals) -> Pixels:
    """Return the person [H', W', 4]: their own colours up to the edge and on beyond it.

    Around the edge the photo mixes the person with the background. What is known of both, each
    carried on from where it is alone, says how much of either a texel has: no light of the old
    background is left on the person, who can be laid over any other.

    Where the oval of the face (of the landmarks `points` [V, 2], in pixels) misses the cheek, it
    shows background. That would be torn wide open when the head turns, so there too the skin is
    carried on.
    """
    face, _, core = (_polygon(matte.shape, canvas.to_texels(points[loop])) > 0 for loop in rims())
    off = canvas.rgb.astype(np.float32) - background
    is_wall = face & (np.abs(off).max(axis=2) < BACKGROUND_LIKENESS)
    reach = max(round(0.004 * max(matte.shape)), 1) * 2 + 1
    inner = cv2.erode((matte > 250).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    person = _fill(canvas.rgb, (inner & ~is_wall).astype(np.float32))
    alpha = np.where(core | inner, matte / np.float32(255), _unmix(matte, off, person - background))
    # Of the photo itself, as much as is the person's.
    share = np.where(is_wall, 0, alpha)[..., None]
    colour = person + share * (canvas.rgb - person)
    return np.dstack([np.clip(colour, 0, 255), alpha * 255]).astype(np.uint8)


def _unmix(matte: Pixels, off: Floats, apart: Floats) -> Floats:
    """Return the share of the person [H, W] in texels that are `off` the background's colour.

    The person's colour is `apart` from it [H, W, 3]; the less it is, the more the matte decides.
    """
    rough = matte / np.float32(255)
    square = (apart * apart).sum(axis=2)
    share = (off * apart).sum(axis=2) / np.maximum(square, 1)
    certain = square / (square + DISTINCT**2)
    share = np.clip((share - CLEAR) / (1 - 2 * CLEAR), 0, 1)
    # Where the matte leaves little doubt, something behind may have the person's colour.
    return np.clip(rough + certain * (share - rough), 3 * rough - 1.65, np.minimum(3 * rough, 1))


def paint_lids(canvas: Canvas, points: Reals) -> Pixels:
    """Return the canvas with skin where the eyes [V, 2] (pixels) and their lashes are.

    The skin is that around them which is not much darker than the rest of it: no lashes, no
    shadow of theirs, no brow and no rim of glasses.
    """
    lids = canvas.rgb.astype(np.float32)
    grey, texels = lids.mean(axis=2), canvas.to_texels(points)
    for upper, lower in EYES:
        outline = texels[[*upper, *lower[-2:0:-1]]]
        wide = float(np.linalg.norm(texels[upper[0]] - texels[upper[-1]]))
        eye = _polygon(grey.shape, outline)
        lashes = _grown(eye, LASHES * wide)
        around = (_grown(lashes, SKIN_AROUND * wide) > 0) & (lashes == 0)
        known = around & (grey > LEAST_SKIN * np.quantile(grey[around], 0.75))
        skin = _fill(lids, known.astype(np.float32))
        share = cv2.GaussianBlur(lashes, (0, 0), FEATHER * wide)[..., None] / np.float32(255)
        lids += share * (skin - lids)
    return np.clip(lids, 0, 255).astype(np.uint8)


def paint_rim(canvas: Canvas, matte: Pixels, points: Reals) -> Pixels:
    """Return the person [H', W', 4] with skin where an ear, hair or glasses lie on a face's rim.

    The photo saw the rim at a grazing angle, and landmarks miss it by a few pixels: a turn of the
    head would tear what is there wide open.

    Args:
        canvas: the person's colours, beyond their edge too.
        matte: uint8 [H', W'].
        points: [V, 2], the landmarks in pixels.
    """
    texels = canvas.to_texels(points)
    rim, beside, inner = (_polygon(matte.shape, texels[loop]) > 0 for loop in rims())
    rgb = canvas.rgb.astype(np.float32)
    grey = rgb.mean(axis=2)
    cheeks = rim & inner & (matte > 250)
    cheeks &= grey > LEAST_SKIN * np.median(grey[cheeks])
    off = np.abs(rgb - _fill(rgb, cheeks.astype(np.float32))).max(axis=2)
    bare = np.where(rim & inner, 1, rim * np.clip(2 - off / UNLIKE_SKIN, 0, 1))
    known = np.where(inner, cheeks, bare)
    # What a rim that is folded hides in the photo lies beyond it there.
    face = rim | beside
    rgb[face] += ((1 - bare)[..., None] * (_fill(rgb, known) - rgb))[face]
    return np.dstack([np.clip(rgb, 0, 255), np.where(face, 255, matte)]).astype(np.uint8)


def paint_lips(canvas: Canvas, person: Pixels, points: Reals, *, unit_px: float) -> Pixels:
    """Return the person [H', W', 4] with the lips carried on over what they show between them.

    Landmarks miss the lips' edge by a pixel or so: bright teeth would stay on it as a dotted line
    wherever the lips go. What they show is the plates' (`show_mouth`).

    Args:
        canvas: the photo.
        person: see `paint_person`.
        points: [V, 2], the landmarks in pixels.
        unit_px: pixels per head unit.
    """
    upper, lower = INNER_LIPS
    outline = canvas.to_texels(points[[*upper, *lower[-2:0:-1]]])
    between = _polygon(person.shape, outline)
    rim = LIP_EDGE * unit_px * canvas.texels_per_px
    missed = _grown(between, rim)
    beside = _grown(missed, 2 * rim)
    known = ((beside > 0) & (missed == 0)).astype(np.float32)
    lips = _fill(person[..., :3], known)
    share = cv2.GaussianBlur(missed, (0, 0), rim / 2)[..., None] / np.float32(255)
    painted = person.copy()
    painted[..., :3] = person[..., :3] + share * (lips - person[..., :3])
    return painted


def _grown(mask: Pixels, reach: float) -> Pixels:
    side = max(round(reach), 1) * 2 + 1
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def paint_eyeball(canvas: Canvas, points: Reals, frame: Reals, eye: Contour, iris: int) -> Plate:
    """Return an eye as if its lids were away, in eye widths around the middle of its corners.

    Args:
        canvas: the photo.
        points: [V, 2], the landmarks in pixels.
        frame: [2, 3], eye coordinates to pixels (`eye_frame`).
        eye: the contour of its lids.
        iris: the vertex in the middle of its iris.
    """
    left, top, per_unit, columns, rows = -0.75, -0.6, 96.0, 144, 116
    texels = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1)
    pixels = (texels / per_unit + (left, top)) @ frame[:, :2].T + frame[:, 2]
    seen = canvas.sample(canvas.rgb, pixels).astype(np.float32)
    units = (points - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T
    on_plate = (units - (left, top)) * per_unit

    outline = on_plate[[*eye[0], *eye[1][-2:0:-1]]]
    inside = cv2.erode(_polygon(seen.shape, outline), np.ones((7, 7), np.uint8)) / np.float32(255)
    inside = cv2.blur(inside, (3, 3))
    centre, rim = on_plate[iris], on_plate[iris + 1 : iris + 5]
    radius = float(np.linalg.norm(rim - centre, axis=1).max())
    distance = np.linalg.norm(texels - centre, axis=2)
    in_iris = np.clip((1.12 * radius - distance) / 2, 0, 1)
    beside_iris = inside * np.clip((distance - 1.3 * radius) / 2, 0, 1)

    colourful = np.ptp(seen, axis=2)  # skin and corners are, the white is not
    limit = np.quantile(np.append(colourful[beside_iris > 0.5], 255), 0.5)
    white = _fill(seen, beside_iris * (colourful <= limit))
    disc = _complete_iris(seen, inside * in_iris, centre, distance / radius)
    ball = white + in_iris[..., None] * (disc - white)
    ball = ball + inside[..., None] * (seen - ball)
    rgba = np.dstack([np.clip(ball, 0, 255), np.full(distance.shape, 255)]).astype(np.uint8)
    return Plate(rgba=rgba, left=left, top=top, per_unit=per_unit)


def _complete_iris(seen: Floats, known: Reals, centre: Reals, radius: Reals) -> Floats:
    """Return the iris with what the lids hide: its mirror image, else the mean at that radius."""
    flip = np.array([[1, 0, 0], [0, -1, 2 * centre[1] - 1]], np.float64)
    size = seen.shape[1::-1]
    mirrored = cv2.warpAffine(seen, flip, size)
    in_mirror = cv2.warpAffine(known.astype(np.float32), flip, size)
    both = known + (1 - known) * in_mirror
    disc = mirrored + known[..., None] * (seen - mirrored)
    bins = np.arange(13)
    ring = np.minimum(radius * 10, 12).astype(int).ravel()
    weight = np.bincount(ring, both.ravel(), len(bins))
    reached = weight > 0.5
    if not reached.any():
        return seen
    for channel in range(3):
        total = np.bincount(ring, (both * disc[..., channel]).ravel(), len(bins))
        means = np.interp(bins, bins[reached], total[reached] / weight[reached])
        mean = np.interp(radius * 10 - 0.5, bins, means)
        disc[..., channel] = mean + both * (disc[..., channel] - mean)
    return disc


def skin_tone(canvas: Canvas, points: Reals) -> Floats:
    """Return the colour of the cheeks [3], 0 to 255."""
    cheeks = canvas.sample(canvas.rgb, points[None, list(CHEEKS)])
    return np.median(cheeks[0], axis=0).astype(np.float32)
