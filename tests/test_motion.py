"""Motion from frames, relative motion, and what bridges its gaps."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimaface.errors import UnreadableMediaError
from mimaface.evaluation.agreement import signals
from mimaface.face_mesh import EYES, INNER_LIPS, canonical_face, gap
from mimaface.motion import (
    FaceMeshExtractor,
    Neutral,
    OneEuroFilter,
    RelativeMotion,
    measure,
    relative_ahead,
)
from mimaface.photo import read_photo
from mimaface.types import Floats, Motion, Pixels
from mimaface.video import VideoReader

FPS = 30


@pytest.fixture
def extractor() -> Iterator[FaceMeshExtractor]:
    made = FaceMeshExtractor()
    yield made
    made.close()


@pytest.fixture(scope="module")
def face(portrait: Path) -> Motion:
    """One frame of absolute motion of a real tracker."""
    extractor = FaceMeshExtractor()
    seen = extractor.extract(0.0, read_photo(portrait))
    extractor.close()
    assert seen.valid[0]
    return seen


def at(face: Motion, time_s: float, *, yaw: float = 0.0, **shapes: float) -> Motion:
    """The face at another time, turned and with an expression."""
    moved = sum(
        (weight * canonical_face().expressions[name].ravel() for name, weight in shapes.items()),
        np.zeros_like(face.expression[0]),
    )
    return replace(
        face,
        time_s=np.array([time_s]),
        rotation=face.rotation + np.array([[0, yaw, 0]], np.float32),
        expression=face.expression + moved.astype(np.float32),
    )


def noisy(picture: Pixels, seed: int) -> Pixels:
    """The picture with the grain of a sensor."""
    grain = np.random.default_rng(seed).normal(0, 3, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def calibrated(face: Motion) -> tuple[RelativeMotion, float]:
    relative = RelativeMotion()
    for index in range(FPS + 1):
        relative.push(at(face, index / FPS))
    return relative, (FPS + 1) / FPS


def mouth(relative: Motion) -> float:
    return gap(canonical_face().vertices + relative.expression[0].reshape(-1, 3), INNER_LIPS)


def test_a_turned_portrait_is_measured_as_turned(driving_clip: Path) -> None:
    with VideoReader(driving_clip) as video:
        extractor = FaceMeshExtractor()
        motion = Motion.concatenate([extractor.extract(*frame) for frame in video])
        extractor.close()
    assert motion.valid.all()
    assert np.ptp(signals(motion).yaw) > 0.3
    assert np.ptp(signals(motion).mouth_opening) > 0.1


def test_the_first_frame_of_a_face_is_measured_as_well_as_later_ones(
    extractor: FaceMeshExtractor, portrait: Path
) -> None:
    picture = read_photo(portrait)

    def looked_at(time_s: float) -> Floats:
        return extractor.extract(time_s, picture).landmarks[0, :, :2]

    first, *_, last = (looked_at(row / FPS) for row in range(8))
    assert not extractor.extract(0.5, np.zeros_like(picture)).valid[0]
    again = looked_at(1.0)
    height = last[:, 1].max() - last[:, 1].min()
    for landmarks in (first, again):
        apart = np.linalg.norm(landmarks - last, axis=1)
        assert apart.mean() < 0.0025 * height, "a single look is off by twice as much"


def test_a_frame_without_a_face_is_not_valid(extractor: FaceMeshExtractor) -> None:
    wall = np.random.default_rng(0).integers(0, 60, (240, 320, 3), np.uint8)
    assert not extractor.extract(0.0, wall).valid[0]


def test_a_black_picture_is_not_valid(extractor: FaceMeshExtractor) -> None:
    assert not extractor.extract(0.0, np.zeros((240, 320, 3), np.uint8)).valid[0]


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300, 3), (7, 5, 3)])
def test_a_frame_of_a_few_pixels_is_not_valid(
    extractor: FaceMeshExtractor, shape: tuple[int, int, int]
) -> None:
    assert not extractor.extract(0.0, np.full(shape, 90, np.uint8)).valid[0]


def test_a_frame_that_is_no_picture_is_refused(extractor: FaceMeshExtractor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        extractor.extract(0.0, np.zeros((8, 8), np.uint8))


def test_a_frozen_camera_counts_as_lost_after_a_second(portrait: Path) -> None:
    picture = read_photo(portrait)
    extractor = FaceMeshExtractor(frozen_after_s=1.0)
    valid = [extractor.extract(i / 10, picture).valid[0] for i in range(15)]
    extractor.close()
    assert all(valid[:10])
    assert not any(valid[10:])


def test_a_recording_may_stand_still(extractor: FaceMeshExtractor, portrait: Path) -> None:
    picture = read_photo(portrait)
    assert all(extractor.extract(i / 10, picture).valid[0] for i in range(15))


def test_a_living_camera_before_a_still_person_does_not_count_as_lost(portrait: Path) -> None:
    picture = read_photo(portrait)
    extractor = FaceMeshExtractor(frozen_after_s=1.0)
    assert all(extractor.extract(i / 10, noisy(picture, i)).valid[0] for i in range(15))
    extractor.close()


def test_the_size_of_the_picture_may_change_between_frames(
    extractor: FaceMeshExtractor, portrait: Path
) -> None:
    picture = read_photo(portrait)
    before = extractor.extract(0.0, picture)
    after = extractor.extract(0.1, picture[::2, ::2])
    assert after.valid[0]
    np.testing.assert_allclose(after.rotation, before.rotation, atol=0.06)


def test_calibration_takes_the_first_valid_second(face: Motion) -> None:
    relative = RelativeMotion()
    relative.push(Motion.missing(0.0))
    assert relative.calibration == 0
    relative.push(at(face, 5.0))
    relative.push(at(face, 5.5))
    assert relative.calibration == pytest.approx(0.5, abs=0.01)
    relative.push(at(face, 6.0))
    assert relative.calibration == 1


def test_the_neutral_face_does_not_deviate(face: Motion) -> None:
    relative, time_s = calibrated(face)
    still = relative.push(at(face, time_s))
    assert np.abs(still.rotation).max() < 1e-3
    assert np.abs(still.gaze).max() < 1e-3
    assert still.is_relative


def test_a_driver_who_comes_nearer_looks_larger_and_does_not_wander(face: Motion) -> None:
    relative = RelativeMotion(Neutral.of(face))
    nearer = measure(
        1.0,
        ((face.landmarks[0] - (0.5, 0.5, 0)) * 1.1 + (0.5, 0.5, 0)).astype(np.float32),
        aspect=float(face.aspect[0]),
    )
    moved = relative.push(nearer)
    assert moved.translation[0, 2] == pytest.approx(np.log(1.1), abs=1e-3)
    # Away from the middle of the frame it is seen further out, as far as it is.
    out = face.translation[0, :2] * 0.1
    assert moved.translation[0, :2] == pytest.approx(out, abs=1e-3)


def test_the_lips_are_shut_in_the_neutral_even_when_the_driver_spoke(face: Motion) -> None:
    relative = RelativeMotion()
    for index in range(FPS + 1):
        relative.push(at(face, index / FPS, jawOpen=0.5))
    spoken = [relative.push(at(face, 1.1 + i / FPS, jawOpen=0.5)) for i in range(5)][-1]
    assert mouth(spoken) > 0.1
    silent = [relative.push(at(face, 1.3 + i / FPS)) for i in range(15)][-1]
    assert mouth(silent) < 0.04


def test_a_blink_passes_the_filter(face: Motion) -> None:
    relative, time_s = calibrated(face)

    def opening(shape: Floats) -> float:
        return float(np.mean([gap(shape, eye) for eye in EYES]))

    shown = []
    for index, weight in enumerate([0, 0, 0.5, 1, 1, 0.5, 0, 0]):
        seen = relative.push(at(face, time_s + index / FPS, eyeBlink_L=weight, eyeBlink_R=weight))
        shown.append(opening(canonical_face().vertices + seen.expression[0].reshape(-1, 3)))
    shapes = canonical_face().expressions
    shut = opening(canonical_face().vertices + shapes["eyeBlink_L"] + shapes["eyeBlink_R"])
    assert min(shown) < shut + 0.15 * (shown[0] - shut)


def test_noise_of_a_resting_value_is_damped() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, 300)
    smooth = OneEuroFilter(min_cutoff=2.0, beta=8.0)
    calm = [smooth(index / FPS, np.array([value]))[0] for index, value in enumerate(noise)]
    assert np.std(calm) < 0.7 * np.std(noise)


def test_a_fast_movement_is_followed_without_lag() -> None:
    smooth = OneEuroFilter(min_cutoff=2.0, beta=8.0)
    turn = np.clip(np.arange(20) / 5 - 1, 0, 1) * 0.6  # rad, within a sixth of a second
    shown = [smooth(index / FPS, np.array([value]))[0] for index, value in enumerate(turn)]
    assert shown[9] > 0.8 * turn[9]


def test_a_head_that_nods_is_shown_as_far_and_a_hundredth_of_a_second_later(face: Motion) -> None:
    relative = RelativeMotion(Neutral.of(face))
    time_s, around = np.arange(90) / FPS, 2 * np.pi * 2.0  # two nods a second
    nods = 0.05 * np.sin(around * time_s)  # rad
    shown = [
        relative.push(
            replace(
                face,
                time_s=np.array([now_s]),
                rotation=face.rotation + np.array([[nod, 0, 0]], np.float32),
            )
        ).rotation[0, 0]
        for now_s, nod in zip(time_s, nods, strict=True)
    ]
    settled = slice(FPS, None)
    waves = np.stack([np.sin(around * time_s), np.cos(around * time_s)], axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(waves[settled], np.array(shown)[settled], rcond=None)
    assert np.hypot(sine, cosine) > 0.97 * 0.05
    assert -np.arctan2(cosine, sine) / around < 0.012


def test_eyes_move_together_as_far_as_the_wider_open_one_is_seen_to(face: Motion) -> None:
    relative, now_s = calibrated(face)

    def looks(time_s: float, **shapes: float) -> Floats:
        seen = at(face, time_s, **shapes)
        aside = np.array([[0.2, 0.0, 0.0, 0.0]], np.float32)  # MediaPipe sees it in one eye alone
        for _ in range(20):  # until the filter has settled
            time_s += 1 / FPS
            moved = replace(seen, time_s=np.array([time_s]), gaze=face.gaze + aside)
            shown = relative.push(moved).gaze[0]
        return shown

    both = looks(now_s)
    assert both[:2] == pytest.approx(both[2:])
    assert 0.06 < both[0] < 0.14
    for shut, says in (("eyeBlink_L", 0.2), ("eyeBlink_R", 0.0)):  # the person's, not the picture's
        now_s += 1
        winking = looks(now_s, **{shut: 1.0})
        assert winking[:2] == pytest.approx(winking[2:])
        assert winking[0] == pytest.approx(says, abs=0.03), "a shut eye says little"


def test_a_lost_face_is_held_then_eases_to_idle_within_a_second(face: Motion) -> None:
    relative, time_s = calibrated(face)
    for index in range(10):
        turned = relative.push(at(face, time_s + index / FPS, yaw=0.3))
    lost_s = time_s + 10 / FPS
    yaws = [
        float(relative.push(Motion.missing(lost_s + i / FPS)).rotation[0, 1]) for i in range(FPS)
    ]
    assert yaws[3] == pytest.approx(turned.rotation[0, 1])
    assert yaws[-1] == 0
    assert np.abs(np.diff(yaws)).max() < 0.3 / 8


def test_a_returning_face_comes_back_without_a_jump(face: Motion) -> None:
    relative, time_s = calibrated(face)
    for index in range(FPS * 2):
        relative.push(Motion.missing(time_s + index / FPS))
    back_s = time_s + 2
    yaws = [
        float(relative.push(at(face, back_s + i / FPS, yaw=0.4)).rotation[0, 1]) for i in range(20)
    ]
    assert np.abs(np.diff([0.0, *yaws])).max() < 0.4 / 5
    assert yaws[-1] == pytest.approx(0.4, abs=0.01)


def test_recalibration_takes_a_new_neutral_without_a_jump(face: Motion) -> None:
    relative, time_s = calibrated(face)
    for index in range(10):
        relative.push(at(face, time_s + index / FPS, yaw=0.4))
    relative.recalibrate()
    assert relative.calibration == 0
    yaws = [
        float(relative.push(at(face, time_s + (10 + i) / FPS, yaw=0.4)).rotation[0, 1])
        for i in range(FPS + 5)
    ]
    assert np.abs(np.diff([0.4, *yaws])).max() < 0.4 / 5
    assert yaws[-1] == pytest.approx(0, abs=0.01)
    assert relative.calibration == 1


def test_after_a_long_loss_the_neutral_is_taken_anew(face: Motion) -> None:
    relative, time_s = calibrated(face)
    relative.push(Motion.missing(time_s))
    relative.push(at(face, time_s + 10, yaw=0.4))
    assert relative.calibration < 1


def test_after_a_short_loss_the_neutral_stays(face: Motion) -> None:
    relative, time_s = calibrated(face)
    relative.push(Motion.missing(time_s))
    relative.push(at(face, time_s + 2, yaw=0.4))
    assert relative.calibration == 1


def test_a_recording_is_driven_from_a_neutral_known_ahead(face: Motion) -> None:
    frames = [(at(face, i / FPS, yaw=0.3 if i < 5 else 0.0), i) for i in range(60)]
    driven = list(relative_ahead(iter(frames)))
    assert [payload for _, payload in driven] == list(range(60))
    assert driven[0][0].rotation[0, 1] > 0.2
    assert RelativeMotion().push(frames[0][0]).rotation[0, 1] == 0


def test_a_recording_of_less_than_a_second_has_one_neutral_as_well(face: Motion) -> None:
    frames = [(at(face, i / FPS, yaw=0.3 * (i < 10)), i) for i in range(20)]
    driven = [motion for motion, _ in relative_ahead(iter(frames))]
    yaw = np.array([motion.rotation[0, 1] for motion in driven])
    assert np.ptp(yaw[:5]) < 0.01, "it does not drift while the neutral is looked for"
    assert yaw[0] - yaw[-1] == pytest.approx(0.3, abs=0.02)
    assert yaw[0] == pytest.approx(0.15, abs=0.02), "the mean of all there is"


def test_motion_survives_a_file(face: Motion, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    Motion.concatenate([face, at(face, 1.0, yaw=0.2)]).save(path)
    loaded = Motion.load(path)
    assert len(loaded) == 2
    np.testing.assert_array_equal(loaded.expression[0], face.expression[0])
    assert not loaded.is_relative


def array() -> bytes:
    """What np.save writes."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def test_a_motion_file_with_a_damaged_byte_is_named(face: Motion, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    face.save(path)
    content = bytearray(path.read_bytes())
    for place in range(200, len(content), len(content) // 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(UnreadableMediaError):  # or it was a byte of no consequence
            Motion.load(path)


def test_times_of_recorded_motion_increase(face: Motion, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    Motion.concatenate([at(face, 1.0), at(face, 0.5)]).save(path)
    with pytest.raises(UnreadableMediaError, match="its times do not increase"):
        Motion.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", array()])
def test_a_file_that_holds_no_motion_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    path.write_bytes(content)
    with pytest.raises(UnreadableMediaError, match=r"motion\.npz"):
        Motion.load(path)


def test_motion_with_values_that_are_no_numbers_is_refused(face: Motion, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    replace(face, gaze=np.full((1, 4), np.nan, np.float32)).save(path)
    with pytest.raises(UnreadableMediaError, match="no numbers"):
        Motion.load(path)


def test_motion_of_wrong_shape_is_refused(face: Motion) -> None:
    with pytest.raises(ValueError, match="gaze"):
        replace(face, gaze=np.zeros((1, 3), np.float32))
