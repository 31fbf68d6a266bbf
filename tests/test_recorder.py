"""Recordings of calls: whole, in time, one a call, and playable after a crash."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from mimaface.video import VideoReader
from server.config import ServerConfig
from server.feed import Feed, OutputState
from server.outputs import OutputError, check_outputs
from server.program import Picture, Piece
from server.recorder import record
from tests.on_air import driven, picture, tone
from tests.serving import serving

START_S = 1000.0


def feed(items: Iterable[Picture | Piece]) -> Feed:
    """Return a closed feed that holds everything."""
    feed = Feed(OutputState(name="record"), most_pictures=1000, most_pieces=1000)
    for item in items:
        feed.put(item)
    feed.close()
    return feed


def shades(path: Path) -> list[tuple[float, int]]:
    with av.open(str(path)) as container:
        return [
            (frame.time, int(frame.to_ndarray(format="rgb24").mean()))
            for frame in container.decode(video=0)
        ]


def loudness(path: Path) -> list[tuple[float, float]]:
    """Return the loudness of each millisecond, 0 to 1, and its time."""
    levels = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for start, part in enumerate(np.split(frame.to_ndarray()[0][:1008], 21)):
                levels.append((frame.time + start / 1000, float(np.abs(part).max())))
    return levels


def test_pictures_keep_their_uneven_times_and_the_sound_is_heard_with_them(
    tmp_path: Path,
) -> None:
    times_s = [0.0, 0.05, 0.08, 0.5, 0.52, 1.0, 1.3, 1.31, 2.0]
    flash_s = 1.0
    items: list[Picture | Piece] = [
        picture(START_S + time_s, 230 if time_s == flash_s else 20) for time_s in times_s
    ]
    items += [tone(START_S + step / 50, 0.5 if step == 50 else 0.0) for step in range(-10, 100)]
    record(feed(items), tmp_path)
    [path] = tmp_path.iterdir()
    shown = shades(path)
    assert [time_s for time_s, _ in shown] == pytest.approx(times_s, abs=0.001)
    [white_s] = [time_s for time_s, shade in shown if shade > 128]
    heard_s = next(time_s for time_s, level in loudness(path) if level > 0.2)
    assert heard_s == pytest.approx(white_s, abs=0.005)


def test_a_gap_in_the_sound_is_silence_of_its_length(tmp_path: Path) -> None:
    items: list[Picture | Piece] = [picture(START_S + step / 10, 90) for step in range(21)]
    items += [tone(START_S + step / 50) for step in range(100) if not 20 <= step < 60]
    record(feed(items), tmp_path)
    [path] = tmp_path.iterdir()
    quiet_s = [time_s for time_s, level in loudness(path) if 0.1 < time_s < 1.9 and level < 0.05]
    assert min(quiet_s) == pytest.approx(0.4, abs=0.03)
    assert max(quiet_s) == pytest.approx(1.2, abs=0.03)


def test_every_call_has_a_file_and_nothing_is_recorded_between_them(tmp_path: Path) -> None:
    shown = [("first0", 40), (None, 99), ("second", 200)]
    items = [
        picture(START_S + index, shade, call)
        for index, (call, shade) in enumerate(
            (call, shade) for call, shade in shown for _ in range(2)
        )
    ]
    record(feed(items), tmp_path)
    found = {path.stem.split("_")[-1]: shades(path) for path in tmp_path.iterdir()}
    assert found.keys() == {"first0", "second"}
    for call, shade in (("first0", 40), ("second", 200)):
        assert [round(time_s, 3) for time_s, _ in found[call]] == [0, 1]
        assert [found_shade for _, found_shade in found[call]] == pytest.approx([shade] * 2, abs=3)


def test_pictures_of_any_size_are_fitted_into_that_of_the_first_portrait(tmp_path: Path) -> None:
    portrait = np.zeros((97, 97, 3), np.uint8)
    pictures = [
        replace(picture(START_S + index, 50, size_px=size_px), portrait=portrait)
        for index, size_px in enumerate((48, 97, 64))
    ]
    record(feed(pictures), tmp_path)
    [path] = tmp_path.iterdir()
    with VideoReader(path) as video:
        assert [rgb.shape for _, rgb in video] == [(98, 98, 3)] * 3


def test_a_recording_plays_after_the_server_was_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from server.feed import Feed, OutputState
from server.recorder import record
from tests.on_air import picture, tone

class Fatal(Feed):
    def take(self, timeout_s=None):
        return super().take(0) or os.kill(os.getpid(), signal.SIGKILL)

feed = Fatal(OutputState(name="record"), most_pictures=1000, most_pieces=1000)
for step in range(5 * 50):
    feed.put(picture({START_S} + step / 50, 120))
    feed.put(tone({START_S} + step / 50))
record(feed, Path({str(tmp_path)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    [path] = tmp_path.iterdir()
    shown, heard = shades(path), loudness(path)
    # Fragments are two seconds: those that were begun at 0 and 2 are whole.
    assert shown[-1][0] == pytest.approx(4, abs=0.05)
    assert {shade for _, shade in shown} <= {119, 120, 121}
    assert heard[-1][0] > 3.8
    assert max(level for time_s, level in heard if time_s > 3.5) == pytest.approx(0.3, abs=0.05)


def test_a_folder_that_is_gone_costs_the_recording_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = feed([picture(START_S + step, 50) for step in range(3)])
    record(state, tmp_path / "gone")
    assert state.state.dropped == 2
    [line] = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert line.endswith("No such file or directory")
    with pytest.raises(OutputError, match="create it first"):
        check_outputs(ServerConfig(record=str(tmp_path / "gone")))


def test_a_served_call_is_recorded_with_its_avatar_and_its_voice(
    portrait: Path, driving_clip: Path, tmp_path: Path
) -> None:
    config = ServerConfig(size_px=256, steps=0, admission_fps=0, record=str(tmp_path))
    with serving(config) as url:

        async def script() -> None:
            async with (
                driven(url, portrait, driving_clip),
                httpx.AsyncClient(base_url=url, timeout=60) as client,
            ):
                shown = 0.0
                while shown < 40:
                    metrics = (await client.get("/metrics")).text
                    shown = _value(metrics, 'avatar_frames_total{outcome="out",stage="playout"}')
                    await asyncio.sleep(0.2)
                assert _value(metrics, 'avatar_output_up{output="record"}') == 1

        asyncio.run(asyncio.wait_for(script(), 90))
    [path] = tmp_path.iterdir()
    with VideoReader(path) as video:
        frames = [(time_s, rgb.astype(int)) for time_s, rgb in video]
    assert len(frames) > 40
    changes = [np.abs(rgb - frames[0][1]).mean() for _, rgb in frames]
    assert max(changes) > 1.5, "the avatar moves"
    assert max(level for _, level in loudness(path)) > 0.2, "the voice is there"


def _value(metrics: str, name: str) -> float:
    return next(
        (float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name)), 0.0
    )
