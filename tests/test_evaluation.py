"""An avatar made and measured: of the driver's own first frame, and of another photo."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimaface.__main__ import main
from mimaface.animate import animate, encode_source
from mimaface.errors import UnreadableMediaError
from mimaface.evaluation.ablation import without
from mimaface.evaluation.evaluate import Evaluation, evaluate
from mimaface.evaluation.footage import Take, back_and_forth, kept
from mimaface.evaluation.rollout import Frame, open_scene, roll_out
from mimaface.evaluation.scripted import scripted_motion
from mimaface.evaluation.seams import measure_seams
from mimaface.evaluation.sheet import COLUMNS, Sheet, difference
from mimaface.model import Model, load
from mimaface.motion import Neutral, RelativeMotion
from mimaface.photo import read_photo
from mimaface.types import ClipRequest, Motion, Pixels
from mimaface.video import VideoReader, write_video
from tests.clips import record
from tests.conftest import FPS, FRAMES

MEDIA = Path(__file__).parents[2] / "shared" / "media"
SHORT = 10  # frames
BLANK_BEFORE, BLANK_AFTER = 2, 3  # frames of it without a face


@pytest.fixture(scope="module")
def mesh_only() -> Model:
    return load("tiny", weights="none")


@pytest.fixture(scope="module")
def untrained() -> Model:
    return load("tiny", weights="random", size_px=64)


@pytest.fixture(scope="module")
def performed(portraits: list[Path], mesh_only: Model) -> Pixels:
    """Frames of a portrait that moves quickly, uint8 [F, H, W, 3]."""
    appearance = encode_source(mesh_only, portraits[-1])
    motion = scripted_motion(SHORT, fps=5)
    [clip] = animate(mesh_only, [ClipRequest(appearance=appearance, motion=motion)])
    return clip.pixels


@pytest.fixture(scope="module")
def short_clip(performed: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that begins and ends with nobody in the picture."""
    path = tmp_path_factory.mktemp("short") / "driver.mp4"
    blank = np.full_like(performed[0], 90)
    pictures = [*[blank] * BLANK_BEFORE, *performed, *[blank] * BLANK_AFTER]
    with write_video(path, width=256, height=256, fps=FPS) as video:
        for index, rgb in enumerate(pictures):
            video.write(index / FPS, rgb)
    return path


def evaluated(
    model: Model,
    clip: Path,
    photo: Path | None = None,
    *,
    steps: int = 0,
    repeat_to_s: float | None = None,
    is_carried: bool = True,
) -> tuple[Evaluation, list[Frame]]:
    frames: list[Frame] = []
    with VideoReader(clip) as video:
        source = None if photo is None else read_photo(photo)
        scene = open_scene(model, video, source, repeat_to_s=repeat_to_s)
        evaluation = evaluate(model, scene, steps=steps, is_carried=is_carried, watch=frames.append)
    return evaluation, frames


def output_of(model: Model, clip: Path, *, steps: int, is_carried: bool = True) -> Pixels:
    with VideoReader(clip) as video:
        scene = open_scene(model, video, None, repeat_to_s=None)
        frames = roll_out(model, scene, steps=steps, is_carried=is_carried)
        return np.stack([each.output for each in islice(frames, 4)])


@pytest.fixture(scope="module")
def self_driven(mesh_only: Model, driving_clip: Path) -> tuple[Evaluation, list[Frame]]:
    return evaluated(mesh_only, driving_clip)


def test_a_neutral_of_one_frame_is_complete_and_leaves_that_frame_still() -> None:
    script = scripted_motion(20)
    away = script.translation + np.float32([0, 0, 4])
    absolute = replace(script, translation=away, is_relative=False)
    relative = RelativeMotion(Neutral.of(absolute[7:8]))
    assert relative.calibration == 1
    still = relative.push(absolute[7:8])
    assert not still.rotation.any()
    assert not still.gaze.any()
    turned = relative.push(absolute[8:9])
    assert turned.rotation.any()
    for wrong in (script[:1], absolute[:2], Motion.missing(0)):
        with pytest.raises(ValueError, match="one frame of absolute motion"):
            Neutral.of(wrong)


def test_an_avatar_of_the_drivers_first_frame_looks_like_the_driver(
    self_driven: tuple[Evaluation, list[Frame]],
) -> None:
    evaluation, frames = self_driven
    assert (evaluation.frames, evaluation.compared_frames) == (FRAMES, FRAMES)
    assert evaluation.likeness is not None
    assert evaluation.likeness.psnr > 26
    assert evaluation.likeness.psnr_region > 22
    assert evaluation.likeness.ssim > 0.9
    assert 0.4 < evaluation.sharpness < 1.1
    assert evaluation.flicker is not None
    assert 0 < evaluation.flicker.output < 1.15 * evaluation.flicker.driver < 3
    assert all(each.is_reached for each in evaluation.agreements)
    assert evaluation.expression_error < 1
    assert evaluation.seams is None
    assert evaluation.identity_own_encoder is None
    # The source frame itself hardly differs; it is not among the figures.
    apart = np.abs(frames[0].output.astype(int) - frames[0].take.picture).mean()
    assert apart < 3


def test_an_avatar_that_follows_late_is_less_like_the_driver(
    mesh_only: Model, driving_clip: Path, self_driven: tuple[Evaluation, list[Frame]]
) -> None:
    evaluation, frames = self_driven
    late = [(early.motion, now.take) for early, now in zip(frames[:30], frames[6:36], strict=True)]
    with VideoReader(driving_clip) as video:
        scene = open_scene(mesh_only, video, None, repeat_to_s=None)
    delayed = evaluate(mesh_only, replace(scene, frames=iter(late)), steps=0)
    assert delayed.likeness.psnr < evaluation.likeness.psnr - 1


def test_frames_without_a_face_are_left_out_of_the_figures(
    mesh_only: Model, short_clip: Path
) -> None:
    evaluation, frames = evaluated(mesh_only, short_clip)
    assert evaluation.frames == SHORT + BLANK_AFTER
    # MediaPipe may see the face a little longer than it is there.
    assert evaluation.compared_frames <= evaluation.frames - 1
    assert frames[0].take.index == 0
    assert frames[0].take.motion.valid[0]
    assert evaluation.likeness.psnr > 24


def test_another_photo_is_measured_by_what_it_does(
    mesh_only: Model, portrait: Path, driving_clip: Path
) -> None:
    evaluation, frames = evaluated(mesh_only, driving_clip, portrait)
    assert evaluation.likeness is None
    assert all(each.is_reached for each in evaluation.agreements)
    assert evaluation.sharpness > 0
    assert frames[0].take.picture.shape == (256, 256, 3)


def test_a_clip_goes_back_and_forth_without_a_jump() -> None:
    motion = replace(scripted_motion(5, fps=10), is_relative=False)
    picture, places = np.zeros((2, 2, 3), np.uint8), np.zeros((478, 2), np.float32)
    takes = [
        Take(index=row, picture=picture, places=places, motion=motion[row : row + 1])
        for row in range(5)
    ]
    played = list(back_and_forth(takes, 1.25))
    assert [each.index for each in played] == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    times_s = [float(each.motion.time_s[0]) for each in played]
    np.testing.assert_allclose(times_s, np.arange(13) / 10)
    with pytest.raises(UnreadableMediaError, match="more than one frame"):
        kept(iter(takes[:1]))
    late = replace(takes[4], motion=replace(takes[4].motion, time_s=np.array([61.0])))
    with pytest.raises(UnreadableMediaError, match="60 s"):
        kept(iter([*takes, late]))


def test_a_roll_out_of_the_mesh_does_not_drift(mesh_only: Model, short_clip: Path) -> None:
    evaluation, frames = evaluated(mesh_only, short_clip, repeat_to_s=3)
    assert evaluation.duration_s == pytest.approx(3, abs=1.1 / FPS)
    assert all(a.take.index != b.take.index for a, b in pairwise(frames))
    for each in (evaluation.drift.sharpness, *evaluation.drift.colour):
        assert each is not None
        assert abs(each.per_minute) < 3
    assert evaluation.drift.identity is None


def test_without_the_motion_mia_says_the_same_of_every_frame(
    untrained: Model, portrait: Path
) -> None:
    appearance = encode_source(untrained, portrait)
    motion = scripted_motion(12, fps=5)

    def made(model: Model, row: int) -> Pixels:
        # The mesh stands still in both: what differs is what MIA is told.
        [clip] = animate(
            model,
            [ClipRequest(appearance=appearance, motion=motion[row : row + 1], steps=1)],
        )
        return clip.pixels

    blind, nobody = without(untrained, "motion"), without(untrained, "identity")
    before = made(untrained, 9)
    assert np.any(made(blind, 9) != before)
    assert np.any(made(nobody, 9) != before)
    still = replace(
        motion,
        rotation=0 * motion.rotation,
        translation=0 * motion.translation,
        expression=0 * motion.expression,
        gaze=0 * motion.gaze,
    )
    request = ClipRequest(appearance=appearance, motion=still[:1], steps=1)
    [[as_told], [as_blind]] = [
        [animate(model, [request])[0].pixels] for model in (untrained, blind)
    ]
    np.testing.assert_array_equal(as_told, as_blind)
    # The model itself is as it was, and shares its networks.
    np.testing.assert_array_equal(made(untrained, 9), before)
    assert blind.generator.denoiser is untrained.generator.denoiser
    assert blind.generator.mia.mia is untrained.generator.mia


def test_only_a_generator_can_be_ablated(mesh_only: Model) -> None:
    with pytest.raises(ValueError, match="without weights"):
        without(mesh_only, "motion")


def test_without_ica_only_the_first_clip_is_the_same(untrained: Model, short_clip: Path) -> None:
    carried = output_of(untrained, short_clip, steps=1)
    fresh = output_of(untrained, short_clip, steps=1, is_carried=False)
    np.testing.assert_array_equal(carried[0], fresh[0])
    assert np.any(carried[1] != fresh[1])


def test_a_generator_is_measured_for_seams_and_identity(untrained: Model, short_clip: Path) -> None:
    evaluation, _ = evaluated(untrained, short_clip, steps=1)
    assert evaluation.seams is not None
    assert evaluation.seams.clip_frames == 4
    assert evaluation.seams.with_ica > 0
    assert evaluation.seams.without_ica > 0
    assert -1 <= evaluation.identity_own_encoder <= 1
    assert measure_seams(untrained, None, [], steps=0) is None


def test_the_sheet_shows_eight_even_frames_of_any_roll_out() -> None:
    picture, places = np.zeros((64, 64, 3), np.uint8), np.zeros((478, 2), np.float32)
    motion = scripted_motion(100, fps=10)
    sheet = Sheet(has_difference=True)
    for row in range(100):
        take = Take(
            index=row,
            picture=picture,
            places=places,
            motion=replace(motion, is_relative=False)[row : row + 1],
        )
        output = np.full_like(picture, row)
        sheet.add(Frame(take=take, motion=motion[row : row + 1], mesh=picture, output=output))
    drawn = sheet.draw()
    assert drawn.shape == (4 * (64 + 16), COLUMNS * 64, 3)
    levels = drawn[2 * (64 + 16) + 40, 32::64, 0].astype(int)
    assert levels[0] == 0
    assert levels[-1] >= 88
    assert np.ptp(np.diff(levels)) <= 8
    assert difference(picture, picture + np.uint8(9)).max() == 36


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict, str]]:
    """Run `evaluate`, which must succeed; return the JSON of its last line and what it showed."""

    def command(*arguments: object) -> tuple[dict, str]:
        status = main(["evaluate", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        assert status == 0, err
        return json.loads(out.splitlines()[-1]), out

    return command


def test_evaluate_fills_a_folder_and_shows_tables(
    run: Callable[..., tuple[dict, str]], short_clip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "figures"
    options = ("--weights", "random", "--steps", 0, "--driving", short_clip, "--output", folder)
    result, shown = run(*options)
    assert sorted(each.name for each in folder.iterdir()) == [
        "evaluation.json",
        "sheet.png",
        "side_by_side.mp4",
    ]
    assert json.loads((folder / "evaluation.json").read_text()) == result
    assert result["source"] is None
    assert (result["model"], result["steps"], result["ablated"]) == ("tiny", 0, None)
    assert result["likeness"]["psnr"] > 24
    assert 0 < result["identity_own_encoder"] <= 1
    assert set(result["flicker"]) == {"output", "driver", "ratio"}
    assert result["signals"]["mouth_opening"].keys() == {
        "correlation",
        "amplitude",
        "error",
        "reached",
    }
    for word in ("PSNR of eyes and mouth", "mouth opening", ">= 0.9", "flicker"):
        assert word in shown
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size == (8 * 256, 4 * (256 + 16))
    with VideoReader(folder / "side_by_side.mp4") as film:
        pictures = [rgb for _, rgb in film]
    assert len(pictures) == result["frames"]
    assert pictures[0].shape == (256, 3 * 256, 3)


@pytest.mark.parametrize("ablated", ["ica", "mia", "identity"])
def test_evaluate_takes_a_part_away(
    run: Callable[..., tuple[dict, str]], short_clip: Path, tmp_path: Path, ablated: str
) -> None:
    options = ("--weights", "random", "--steps", 1, "--ablate", ablated, "--repeat-to", 0.16)
    result, _ = run(*options, "--driving", short_clip, "--output", tmp_path / "figures")
    assert result["ablated"] == ablated
    assert result["frames"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ablate", "mia", "--steps", "0"], "name --steps too"),
        (["--repeat-to", "0"], "seconds above 0"),
        (["--ablate", "nothing"], "invalid choice"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = ["--driving", str(tmp_path / "d.mp4"), "--output", str(tmp_path / "figures")]
    with pytest.raises(SystemExit):
        main(["evaluate", *driver, *options])
    assert message in capsys.readouterr().err


def test_input_that_cannot_be_evaluated_takes_one_line(
    short_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faceless, figures = record(tmp_path / "nobody.mp4"), tmp_path / "figures"
    inside = figures / "side_by_side.mp4"
    figures.mkdir()
    inside.write_bytes(short_clip.read_bytes())
    for driver, output, message in (
        (faceless, figures, "shows no face"),
        (tmp_path / "none.mp4", figures, "there is no file"),
        (short_clip, tmp_path / "no" / "figures", "cannot be written"),
        (short_clip, faceless, "cannot be written"),
        (inside, figures, "would be overwritten"),
    ):
        command = ["evaluate", "--steps", "0", "--driving", driver, "--output", output]
        assert main([str(part) for part in command]) == 1
        err = capsys.readouterr().err.splitlines()
        assert err[-1].startswith("mimaface evaluate: ")
        assert message in err[-1]
    assert inside.read_bytes() == short_clip.read_bytes()


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs the photos and the video beside the checkout")
def test_a_real_first_frame_looks_like_its_video(mesh_only: Model) -> None:
    evaluation, _ = evaluated(mesh_only, MEDIA / "emma.mp4")
    assert evaluation.likeness.psnr > 28
    assert evaluation.likeness.psnr_region > 25.5
    assert evaluation.likeness.ssim > 0.86


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs the photos and the video beside the checkout")
@pytest.mark.parametrize("photo", ["hinton.png", "lecun.jpeg"])
def test_real_photos_do_what_a_real_driver_does(mesh_only: Model, photo: str) -> None:
    evaluation, _ = evaluated(mesh_only, MEDIA / "emma.mp4", MEDIA / photo)
    assert evaluation.face_share >= 0.99
    for each in evaluation.agreements:
        assert each.correlation is not None
        assert each.correlation >= each.target.correlation
