"""Videos are written and read back with PyAV; nothing about faces."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from mimaface.errors import UnreadableMediaError, UnwritableMediaError
from mimaface.types import Pixels
from mimaface.video import VideoReader, whole_file, write_video
from tests.clips import picture, record

UNEVEN_S = [0.0, 0.033, 0.1, 0.15, 0.4, 0.433, 0.5]


def write(path: Path, *, frames: int = 50, fps: float = 25.0) -> Path:
    with write_video(path, width=128, height=96, fps=fps) as video:
        for index in range(frames):
            video.write(index / fps, picture(index))
    return path


def copy(source: Path, output: Path, *, frames: int | None = None) -> None:
    """Write the first frames of a video anew, with its sound."""
    with (
        VideoReader(source) as driver,
        write_video(output, width=128, height=96, fps=25, driver=driver) as video,
    ):
        for time_s, rgb in islice(driver, frames):
            video.write(time_s, rgb)


def click_time_s(path: Path) -> float:
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[0]):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.3)
            if len(loud):
                return float(frame.time + loud[0] / frame.sample_rate)
    raise AssertionError("there is no click")


def read(path: Path) -> tuple[list[float], list[Pixels], list[str]]:
    with VideoReader(path) as video:
        times_s, pictures = zip(*video, strict=True)
        return list(times_s), list(pictures), video.notes


def test_pictures_come_back_in_their_colours_and_times(tmp_path: Path) -> None:
    times_s, pictures, notes = read(write(tmp_path / "a.mp4"))
    assert times_s == pytest.approx([index / 25 for index in range(50)])
    assert notes == []
    for index, rgb in enumerate(pictures):
        assert rgb.dtype == np.uint8
        np.testing.assert_allclose(rgb[60, 90], picture(index)[60, 90], atol=4)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30), Fraction(60000, 1001)])
def test_the_frame_rate_is_kept_exactly(tmp_path: Path, rate: Fraction) -> None:
    with av.open(str(write(tmp_path / "a.mp4", fps=float(rate)))) as container:
        assert container.streams.video[0].average_rate == rate


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mp4"
    with write_video(path, width=128, height=96, fps=30) as video:
        for index, time_s in enumerate(UNEVEN_S):
            video.write(time_s, picture(index))
    assert read(path)[0] == pytest.approx(UNEVEN_S, abs=1e-5)


def test_the_output_is_what_browsers_play(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    stored = path.read_bytes()
    assert stored.index(b"moov") < stored.index(b"mdat")


@pytest.mark.parametrize(
    ("turned", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
)
def test_a_turned_video_is_read_upright(
    tmp_path: Path, turned: int, corner: tuple[int, int]
) -> None:
    rgb = read(record(tmp_path / "turned.mp4", turned=turned))[1][0]
    assert rgb.shape == ((96, 128, 3) if turned in (0, 180) else (128, 96, 3))
    assert rgb[corner].min() > 230
    assert (rgb.min(axis=2) > 230).mean() == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "start_s"),
    [("a.mp4", "aac", 0.0), ("a.ts", "aac", 3.0), ("a.mkv", "libopus", 0.0)],
)
def test_the_sound_stays_in_time(tmp_path: Path, name: str, codec: str, start_s: float) -> None:
    source = record(tmp_path / name, codec=codec, start_s=start_s)
    output = tmp_path / "output.mp4"
    copy(source, output)
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert click_time_s(output) == pytest.approx(1.0, abs=0.01)


def test_the_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    output = tmp_path / "short.mp4"
    copy(record(tmp_path / "a.mp4"), output, frames=10)
    with av.open(str(output)) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(0.4, abs=0.03)


def test_a_video_without_sound_gives_one_without_sound(tmp_path: Path) -> None:
    output = tmp_path / "silent.mp4"
    copy(write(tmp_path / "a.mp4"), output)
    with av.open(str(output)) as container:
        assert not container.streams.audio


def test_a_cut_off_tail_yields_the_frames_before_it_and_a_note(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    times_s, _, notes = read(path)
    assert 10 < len(times_s) < 50
    assert "of the 2.0 s announced" in notes[-1]


def test_damage_in_the_middle_is_skipped_with_a_note(tmp_path: Path) -> None:
    with av.open(str(write(tmp_path / "a.mp4"))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        spans = [(packet.pos, packet.size) for packet in packets[20:24] if packet.pos is not None]
    stored = bytearray((tmp_path / "a.mp4").read_bytes())
    for start, size in spans:
        stored[start : start + size] = b"\xff" * size
    (tmp_path / "a.mp4").write_bytes(stored)
    times_s, _, notes = read(tmp_path / "a.mp4")
    assert 40 <= len(times_s) < 50
    assert times_s[-1] > 1.8
    assert "damaged" in notes[0]


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without_index(path: Path) -> None:
    stored = write(path).read_bytes()
    path.write_bytes(stored[: stored.index(b"moov")])


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        part.sample_rate = 48_000
        container.mux([*audio.encode(part), *audio.encode(None)])


def _without_pictures(path: Path) -> None:
    stored = bytearray(write(path).read_bytes())
    start = stored.index(b"mdat") + 4
    stored[start:] = bytes(len(stored) - start)
    path.write_bytes(stored)


def _missing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    "damage",
    [_text, _empty, _without_index, _sound_only, _without_pictures, Path.mkdir, _missing],
    ids=["text", "empty", "no index", "sound only", "no pictures", "a folder", "missing"],
)
def test_what_is_no_video_is_one_clear_error(tmp_path: Path, damage) -> None:
    damage(tmp_path / "driver.mp4")
    with pytest.raises(UnreadableMediaError, match=r"driver\.mp4"):
        VideoReader(tmp_path / "driver.mp4")


def test_a_playlist_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "driver.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
        with pytest.raises(UnreadableMediaError):
            VideoReader(path)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the old one")
    with (
        pytest.raises(ValueError, match="ndim"),
        write_video(path, width=64, height=64, fps=25) as video,
    ):
        video.write(0.0, np.zeros((64, 64), np.uint8))
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_missing_folder_is_an_error_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(UnwritableMediaError, match="create it first"),
        whole_file(tmp_path / "nowhere" / "a.mp4"),
    ):
        pytest.fail("the block ran")


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from mimaface.errors import UnwritableMediaError
from mimaface.video import write_video
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
noise = np.random.default_rng(0)
try:
    with write_video(Path(sys.argv[1]), width=256, height=256, fps=25) as video:
        for index in range(100):
            video.write(index / 25, noise.integers(0, 256, (256, 256, 3), np.uint8))
except UnwritableMediaError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.mp4"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert "a.mp4 cannot be written: " in done.stdout
    assert os.listdir(tmp_path) == []


def test_an_odd_size_is_the_callers_mistake(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="even"),
        write_video(tmp_path / "a.mp4", width=127, height=96, fps=25),
    ):
        pytest.fail("the block ran")
