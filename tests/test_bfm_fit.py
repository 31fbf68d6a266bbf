"""Fitting the official face model to landmarks: what it recovers, and what it must survive."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from mimaface.bfm import Coefficients, make_source
from mimaface.bfm_fit import JAW, FaceMotion, SourceFace, calibrate, fit, keypoints
from mimaface.face_mesh import canonical_face
from mimaface.stand_in_face import stand_in

FACS = len(canonical_face().expressions)
INNER = slice(JAW.stop, None)
MOVES: dict[str, dict[str, Any]] = {
    "rest": {},
    "open": {"jawOpen": 0.7},
    "smile": {"mouthSmile_L": 0.8, "mouthSmile_R": 0.8, "turn": (0.1, 0.3, 0.0)},
    "blink": {"eyeBlink_L": 1.0, "eyeBlink_R": 1.0, "turn": (-0.2, 0.1, 0.1), "shift": 0.05},
    "brows": {"browInnerUp_L": 0.8, "browInnerUp_R": 0.8, "turn": (0.0, -0.5, -0.2), "shift": -0.1},
    "kiss": {"mouthPucker": 0.8, "turn": (0.3, 0.0, 0.3)},
}
every_move = pytest.mark.parametrize("name", sorted(MOVES))


@cache
def face() -> SourceFace:
    """Return a person whose portrait smiles a little, with landmarks off the model's keypoints."""
    rng = np.random.default_rng(0)
    vector = np.zeros(261)
    vector[:80] = rng.normal(0, 0.7, 80)
    vector[80 : 80 + FACS] = rng.uniform(0, 0.2, FACS)
    vector[224:227], vector[254:257] = (0.05, -0.1, 0.02), (0.02, 0.03, -0.2)
    coefficients = Coefficients.split(vector)
    source = make_source(
        stand_in(),
        identity=coefficients.identity,
        texture=coefficients.texture,
        lighting=coefficients.lighting,
    )
    exact = calibrate(stand_in(), source, coefficients, np.zeros((68, 2)))
    model_px = keypoints(exact, exact.rest) - exact.offset_px
    return calibrate(stand_in(), source, coefficients, model_px + rng.normal(0, 3, (68, 2)))


def moved(
    *, turn: tuple[float, float, float] = (0, 0, 0), shift: float = 0.0, **shapes: float
) -> FaceMotion:
    expression = face().rest.expression.copy()
    for name, strength in shapes.items():
        expression[list(canonical_face().expressions).index(name)] = strength
    return FaceMotion(
        expression,
        face().rest.rotation + np.array(turn, np.float32),
        face().rest.translation + np.float32(shift),
    )


def missed_px(fitted: FaceMotion, landmarks_px: np.ndarray) -> np.ndarray:
    return np.linalg.norm(keypoints(face(), fitted) - landmarks_px, axis=1)


@every_move
def test_motion_is_recovered_from_its_own_landmarks(name: str) -> None:
    motion = moved(**MOVES[name])
    landmarks = keypoints(face(), motion)
    fitted = fit(face(), landmarks)
    missed = missed_px(fitted, landmarks)
    assert missed[INNER].max() < 0.2
    assert missed.max() < 0.4
    np.testing.assert_allclose(fitted.rotation, motion.rotation, atol=0.01)
    np.testing.assert_allclose(fitted.translation, motion.translation, atol=0.01)
    # Also where there are no landmarks the face is as it was: within 3 mm at the worst place.
    wrong = stand_in().expression_basis @ (fitted.expression - motion.expression)
    assert np.linalg.norm(wrong, axis=1).max() < 0.03


def test_the_portrait_is_its_own_coefficients_exactly() -> None:
    landmarks = keypoints(face(), face().rest)
    for start in (None, face().rest, moved(jawOpen=0.9, turn=(0.2, 0.4, 0.1))):
        for fitted, known in zip(fit(face(), landmarks, start), face().rest, strict=True):
            np.testing.assert_array_equal(fitted, known)


@every_move
def test_a_warm_start_ends_where_a_cold_one_does(name: str) -> None:
    landmarks = keypoints(face(), moved(**MOVES[name]))
    cold = fit(face(), landmarks)
    for start in (cold, *(moved(**move) for move in MOVES.values())):
        warm = fit(face(), landmarks, start)
        np.testing.assert_allclose(warm.rotation, cold.rotation, atol=0.002)
        np.testing.assert_allclose(warm.expression, cold.expression, atol=0.02)


def test_a_fit_that_starts_at_its_end_stays_there() -> None:
    landmarks = keypoints(face(), moved(**MOVES["brows"]))
    fitted = fit(face(), landmarks)
    for again, before in zip(fit(face(), landmarks, fitted), fitted, strict=True):
        np.testing.assert_array_equal(again, before)


@every_move
def test_noise_of_the_tracker_moves_the_face_little(name: str) -> None:
    rng = np.random.default_rng(1)
    landmarks = keypoints(face(), moved(**MOVES[name]))
    clean = fit(face(), landmarks)
    for _ in range(5):
        noisy = fit(face(), landmarks + rng.normal(0, 0.3, landmarks.shape), clean)
        assert np.abs(noisy.rotation - clean.rotation).max() < 0.03
        assert np.sqrt(((noisy.expression - clean.expression) ** 2).mean()) < 0.25
        assert np.sqrt((missed_px(noisy, keypoints(face(), clean)) ** 2).mean()) < 0.4


def test_what_landmarks_do_not_show_stays_as_in_the_portrait() -> None:
    # The last 7 expressions of the stand-in move nothing.
    for move in MOVES.values():
        fitted = fit(face(), keypoints(face(), moved(**move)))
        np.testing.assert_array_equal(fitted.expression[FACS:], face().rest.expression[FACS:])


def test_a_larger_face_is_nearer_and_not_differently_shaped() -> None:
    nearer = face().rest._replace(translation=face().rest.translation + np.float32([0, 0, 0.5]))
    fitted = fit(face(), keypoints(face(), nearer))
    assert fitted.translation[2] == pytest.approx(nearer.translation[2], abs=0.02)
    np.testing.assert_allclose(fitted.expression, nearer.expression, atol=0.05)


def test_the_outline_counts_less_than_the_features() -> None:
    landmarks = keypoints(face(), face().rest)
    turned = []
    for points in (JAW, INNER):
        shifted = landmarks.copy()
        shifted[points, 0] += 4
        turned.append(fit(face(), shifted).translation[0] - face().rest.translation[0])
    assert turned[1] > 3 * turned[0]


def test_no_landmarks_are_too_wild() -> None:
    rng = np.random.default_rng(2)
    own = keypoints(face(), face().rest)
    wild = [
        np.zeros((68, 2)),
        np.full((68, 2), 1e30),
        rng.normal(0, 1e6, (68, 2)),
        256 - own,  # upside down
        own * [-1, 1] + [256, 0],  # mirrored
        (own - 128) * 5 + 128,
        np.full((68, 2), own.mean()),
    ]
    start = None
    for landmarks in wild:
        start = fit(face(), landmarks, start)
        assert all(np.isfinite(part).all() for part in start)
    # And the next good frame is as good as ever.
    landmarks = keypoints(face(), moved(**MOVES["smile"]))
    assert missed_px(fit(face(), landmarks, start), landmarks)[INNER].max() < 0.2
