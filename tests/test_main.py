"""The command line on real videos."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mimaface.__main__ import main
from mimaface.config import CONFIGS, RELEASED_STEPS
from mimaface.evaluation import bench
from mimaface.evaluation.scripted import scripted_motion
from mimaface.hub import FACE_MODEL, OFFICIAL
from mimaface.photo import read_photo
from mimaface.types import Motion, Pixels
from mimaface.video import VideoReader, write_video
from mimaface.weights import randomize, save
from tests.clips import picture, record
from tests.conftest import FPS, FRAMES
from tests.hub_stand_in import stand_in_hub
from tests.narrow import NARROW
from tests.release import write_release

SHORT = 12  # frames
Run = Callable[..., dict]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed; return the JSON of its last line."""

    def command(*arguments: object) -> dict:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        result: dict = json.loads(out.splitlines()[-1])
        return result

    return command


def frames_of(path: Path) -> tuple[list[float], list[Pixels]]:
    with VideoReader(path) as video:
        times_s, pictures = zip(*video, strict=True)
    return list(times_s), list(pictures)


@pytest.fixture(scope="module")
def short_clip(driving_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's first frames."""
    path = tmp_path_factory.mktemp("short") / "driver.mp4"
    with (
        VideoReader(driving_clip) as driver,
        write_video(path, width=256, height=256, fps=FPS) as video,
    ):
        for time_s, rgb in islice(driver, SHORT):
            video.write(time_s, rgb)
    return path


def test_animate_makes_one_frame_of_each_driving_frame(
    run: Run, portrait: Path, short_clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.mp4"
    result = run("animate", "--source", portrait, "--driving", short_clip, "--output", output)
    times_s, pictures = frames_of(output)
    assert times_s == pytest.approx([index / FPS for index in range(SHORT)])
    assert pictures[0].shape == (256, 256, 3)
    assert os.listdir(tmp_path) == ["output.mp4"]
    seconds = result.pop("seconds")
    assert sorted(seconds) == ["animate", "extract", "load", "read", "write"]
    assert result == {
        "steps": 1,
        "frames": SHORT,
        "fps": FPS,
        "frames_without_face": 0,
        "output": str(output),
        "width": 256,
        "height": 256,
        "notes": [],
    }


def test_recorded_motion_drives_to_the_same_pixels_as_the_video(
    run: Run, portrait: Path, short_clip: Path, tmp_path: Path
) -> None:
    motion, by_motion, by_video = (
        tmp_path / name for name in ("motion.npz", "by_motion.mp4", "by_video.mp4")
    )
    tracked = run("track", "--driving", short_clip, "--output", motion)
    assert (tracked["frames"], tracked["frames_without_face"]) == (SHORT, 0)
    for driving, output in ((motion, by_motion), (short_clip, by_video)):
        run("animate", "--source", portrait, "--driving", driving, "--output", output)
    np.testing.assert_array_equal(frames_of(by_motion)[1], frames_of(by_video)[1])


def test_relative_motion_drives_as_it_is(run: Run, portrait: Path, tmp_path: Path) -> None:
    script = scripted_motion(12, fps=20)
    replace(script, time_s=script.time_s + 5).save(tmp_path / "script.npz")
    output = tmp_path / "output.mp4"
    result = run(
        "animate", "--source", portrait, "--driving", tmp_path / "script.npz", "--output", output
    )
    assert result["fps"] == 20
    assert frames_of(output)[0] == pytest.approx([index / 20 for index in range(12)])


def test_a_last_chunk_that_is_not_full_is_cut_to_the_driver(
    run: Run, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_motion(10).save(tmp_path / "script.npz")
    drive = ("animate", "--source", portrait, "--driving", tmp_path / "script.npz", "--output")
    run(*drive, tmp_path / "single.mp4")
    monkeypatch.setitem(CONFIGS, "tiny", replace(CONFIGS["tiny"], new_frames=4))
    assert run(*drive, tmp_path / "chunks.mp4")["frames"] == 10
    single, chunks = frames_of(tmp_path / "single.mp4"), frames_of(tmp_path / "chunks.mp4")
    assert single[0] == chunks[0]
    np.testing.assert_array_equal(single[1], chunks[1])


def test_side_by_side_shows_the_whole_driver_on_the_left(
    run: Run, portrait: Path, short_clip: Path, tmp_path: Path
) -> None:
    wide, both, alone = (tmp_path / name for name in ("wide.mp4", "both.mp4", "alone.mp4"))
    _, drivers = frames_of(short_clip)
    with write_video(wide, width=512, height=256, fps=FPS) as video:
        for index, rgb in enumerate(drivers):
            video.write(index / FPS, np.hstack([rgb, np.full_like(rgb, 200)]))
    drive = ("animate", "--steps", 0, "--source", portrait, "--driving", wide, "--output")
    result = run(*drive, both, "--side-by-side")
    assert (result["width"], result["height"]) == (512, 256)
    run(*drive, alone)
    for rgb, avatar in zip(frames_of(both)[1], frames_of(alone)[1], strict=True):
        np.testing.assert_allclose(rgb[200:, :256], 0, atol=12)  # the bar below the driver
        np.testing.assert_allclose(rgb[100:150, 140:250], 200, atol=12)  # its right half
        assert np.abs(rgb[:, 264:].astype(int) - avatar[:, 8:]).mean() < 4


def test_a_driver_without_a_face_or_a_pause_still_gives_every_frame_and_its_sound(
    run: Run, portrait: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.mp4"
    driver = record(tmp_path / "wall.mp4")
    drive = ("animate", "--steps", 0, "--source", portrait, "--driving", driver)
    result = run(*drive, "--output", output)
    assert (result["frames"], result["frames_without_face"]) == (50, 50)
    assert result["notes"] == ["the driver shows no face: the portrait idles"]
    assert len(frames_of(output)[0]) == 50
    with av.open(str(output)) as container:
        assert container.streams.audio


def test_a_damaged_driver_gives_what_it_holds_and_a_note(
    run: Run, portrait: Path, driving_clip: Path, tmp_path: Path
) -> None:
    stored = driving_clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(stored[: len(stored) // 2])
    output = tmp_path / "output.mp4"
    drive = ("animate", "--steps", 0, "--source", portrait, "--driving", cut)
    result = run(*drive, "--output", output)
    assert 5 < result["frames"] == len(frames_of(output)[0]) < FRAMES
    assert any("announced" in note for note in result["notes"])


def _text(path: Path) -> None:
    path.write_text("no picture, no sound, no motion\n" * 50)


def _empty(path: Path) -> None:
    path.touch()


def _wall(path: Path) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "rgb24"
        frame = av.VideoFrame.from_ndarray(picture(height=480, width=640), "rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])


def _no_frames(path: Path) -> None:
    scripted_motion(0).save(path)


def _missing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("flag", "name", "make"),
    [
        ("--driving", "driver.mp4", _missing),
        ("--driving", "driver.mp4", _text),
        ("--driving", "driver.mp4", _empty),
        ("--driving", "motion.npz", _missing),
        ("--driving", "motion.npz", _text),
        ("--driving", "motion.npz", _empty),
        ("--driving", "motion.npz", _no_frames),
        ("--source", "photo.png", _missing),
        ("--source", "photo.png", _text),
        ("--source", "photo.png", _empty),
        ("--source", "photo.png", _wall),
        ("--output", "nowhere/output.mp4", _missing),
        ("--steps", "3", lambda _path: None),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_output(
    flag: str,
    name: str,
    make: Callable[[Path], None],
    portrait: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted_motion(3).save(tmp_path / "good.npz")
    given = {
        "--source": str(portrait),
        "--driving": str(tmp_path / "good.npz"),
        "--output": str(tmp_path / "output.mp4"),
        "--steps": "0",
    }
    make(tmp_path / name)
    given[flag] = name if flag == "--steps" else str(tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    assert main(["animate", *(part for pair in given.items() for part in pair)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mimaface animate: ")
    assert err.count("\n") == 1
    assert Path(name).name in err or "photo" in err or "folder" in err
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["animate", "--source", "a.png", "--driving", "b.mp4", "--output", "c.webm"],
        ["animate", "--source", "a.png", "--driving", "b.mp4"],
        [
            "animate",
            "--source",
            "a.png",
            "--driving",
            "b.npz",
            "--output",
            "c.mp4",
            "--side-by-side",
        ],
        ["animate", "--source", "a", "--driving", "b", "--output", "c.mp4", "--size", "300"],
        ["track", "--driving", "b.mp4", "--output", "c.json"],
        ["bench", "--frames", "0"],
        [],
    ],
)
def test_a_wrong_command_line_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: mimaface" in capsys.readouterr().err


def test_the_avatar_is_pasted_back_into_its_photo(
    run: Run, portrait: Path, driving_clip: Path, tmp_path: Path
) -> None:
    wall = np.full((501, 903, 3), 90, np.uint8)
    wall[60:460, 300:700] = cv2.resize(read_photo(portrait), (400, 400))
    photo, output = tmp_path / "photo.png", tmp_path / "output.mp4"
    Image.fromarray(wall).save(photo)
    run(
        *("animate", "--source", photo, "--driving", driving_clip, "--output", output),
        *("--steps", 0, "--paste-back"),
    )
    _, pictures = frames_of(output)
    assert pictures[0].shape == (500, 902, 3)
    assert np.abs(pictures[30][:, :200].astype(int) - 90).max() < 8
    moved = np.abs(pictures[10].astype(int) - pictures[40])
    assert moved[100:300, 400:600].mean() > 3


def test_an_input_is_never_overwritten(
    portrait: Path, driving_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = driving_clip.read_bytes()
    command = ["animate", "--source", portrait, "--driving", driving_clip, "--output", driving_clip]
    assert main([str(part) for part in command]) == 1
    assert "overwritten" in capsys.readouterr().err
    assert driving_clip.read_bytes() == before


def test_saved_motion_holds_no_pictures(run: Run, driving_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "motion.npz"
    run("track", "--driving", driving_clip, "--output", path)
    motion = Motion.load(path)
    assert not motion.is_relative
    with np.load(path) as stored:
        assert all(stored[name].dtype != np.uint8 for name in stored.files)


def test_bench_prints_a_table_and_names_the_machine(run: Run, portrait: Path) -> None:
    result = run(
        *("bench", "--repeats", 2, "--frames", "1,3", "--source", portrait, "--weights", "random")
    )
    lengths = [(each["steps"], each["frames"], each["new_frames"]) for each in result["runs"]]
    assert lengths == [(0, 1, 1), (0, 3, 3), (1, 1, 1), (1, 3, 3)]
    assert [each["stage"] for each in result["runs"][0]["stages"]] == [
        "extract",
        "relative",
        "animate",
    ]
    assert "denoise" in [each["stage"] for each in result["runs"][2]["stages"]]
    assert result["machine"].endswith("cores")
    assert (result["size"], result["precision"]) == (256, "float32")


def test_a_bench_can_be_compared_with_the_model_as_it_was_released(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(randomize(replace(NARROW, size_px=64)), tmp_path / "narrow.safetensors")
    options = ("--model", "sd15", "--weights", tmp_path / "narrow.safetensors", "--repeats", 1)
    monkeypatch.setattr(bench, "MOST_WARM_UP", 0)
    result = run("bench", *options, "--steps", 1, "--frames", 4, "--compare", "teacher")
    teacher = result["teacher"]
    assert (teacher["steps"], teacher["frames"], teacher["new_frames"]) == (25, 12, 9)
    [animate] = [each for each in teacher["stages"] if each["stage"] == "animate"]
    assert teacher["fps"] == pytest.approx(1000 * 9 / animate["p50_ms"], abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--compare", "teacher"], "tiny with these weights has no released form"),
        (["bench", "--frames", "17"], "frames must be 1 to 16, found 17"),
        (["bench", "--steps", "1", "--decoder", "kl"], "decoder is for untrained weights"),
        (["bench", "--steps", "1,x"], "x must be a whole number"),
    ],
)
def test_a_bench_of_what_cannot_be_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_official_model_goes_from_the_hub_to_a_video(
    run: Run,
    portrait: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fetch, convert, animate: with a narrow copy of the release, and no network beyond."""
    write_release(tmp_path / "release")
    folder, weights, output = (
        tmp_path / name for name in ("fetched", "sd15.safetensors", "avatar.mp4")
    )
    with stand_in_hub(hub_with(tmp_path / "release")) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "mimaface", "fetch", "--folder", folder],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"},
        )
    assert done.returncode == 0, done.stderr
    assert "no licence stated" in done.stdout
    [note] = json.loads(done.stdout.splitlines()[-1])["notes"]
    assert note in done.stdout
    assert str(folder / FACE_MODEL) in note
    assert main(["convert", "--folder", str(folder), "--output", str(weights)]) == 1
    shutil.copy(tmp_path / "release" / FACE_MODEL, folder / FACE_MODEL)
    converted = run("convert", "--folder", folder, "--output", weights)
    assert (converted["model"], converted["size"]) == ("sd15", NARROW.size_px)
    drive = ("animate", "--model", "sd15", "--weights", weights, "--source", portrait)
    scripted_motion(3, fps=FPS).save(tmp_path / "motion.npz")
    result = run(*drive, "--driving", tmp_path / "motion.npz", "--output", output)
    assert result["steps"] == RELEASED_STEPS, "it has not learnt to do fewer"
    assert main([*map(str, drive), "--driving", "x", "--output", "x.mp4", "--steps", "2"]) == 1
    assert "for others its weights need a LoRA" in capsys.readouterr().err
    assert (result["frames"], result["width"]) == (3, NARROW.size_px)
    times_s, pictures = frames_of(output)
    assert times_s == pytest.approx([index / FPS for index in range(3)])
    assert pictures[0].shape == (NARROW.size_px, NARROW.size_px, 3)


def hub_with(release: Path) -> dict[str, dict[str, bytes]]:
    """Return what the hub's repositories hold of a release."""
    repositories: dict[str, dict[str, bytes]] = {}
    for file in OFFICIAL:
        for path in file.paths:
            if (release / file.local(path)).is_file():
                content = (release / file.local(path)).read_bytes()
                repositories.setdefault(file.repo, {})[path] = content
    return repositories


def test_convert_stores_half_precision_on_request(run: Run, tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    exact, half = tmp_path / "exact.safetensors", tmp_path / "half.safetensors"
    command = ("convert", "--folder", tmp_path / "release", "--output")
    assert run(*command, exact)["precision"] == "float32"
    assert run(*command, half, "--precision", "bfloat16")["precision"] == "bfloat16"
    name = "denoiser.unet.conv_in.weight"
    stored = load_file(exact)[name]
    assert stored.dtype == torch.float32
    assert torch.equal(load_file(half)[name], stored.bfloat16())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora", "gone.safetensors"], "there is no LoRA"),
        (["--lora", "lora.safetensors"], "lora.safetensors would be overwritten"),
        (["--output", "gone/a.safetensors"], "create it first"),
        (["--output", "folder.safetensors"], "is a folder: name a file"),
        (["--output", "long" * 100 + "/a.safetensors"], "File name too long"),
    ],
)
def test_convert_finds_simple_mistakes_before_it_looks_for_checkpoints(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.safetensors").mkdir()
    save_file({"a": torch.zeros(1)}, "lora.safetensors")
    before = sorted(os.listdir(tmp_path))
    command = ["convert", "--folder", "no checkpoints", "--output", "lora.safetensors"]
    assert main([*command, *options]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_tiny_makes_a_video_with_untrained_weights(
    steps: int, run: Run, portrait: Path, tmp_path: Path
) -> None:
    motion, output = tmp_path / "motion.npz", tmp_path / "avatar.mp4"
    scripted_motion(4).save(motion)
    result = run(
        *("animate", "--weights", "random", "--steps", steps, "--source", portrait),
        *("--driving", motion, "--output", output),
    )
    assert (result["frames"], result["width"]) == (4, 256)


def test_steps_without_weights_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["animate", "--weights", "none", "--steps", "2", "--output", str(tmp_path / "a.mp4")]
    assert main([*command, "--source", "gone.jpg", "--driving", "gone.mp4"]) == 1
    assert "without weights" in capsys.readouterr().err


def test_the_package_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mimaface", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    for command in ("animate", "track", "evaluate", "bench", "fetch", "convert"):
        assert command in done.stdout
