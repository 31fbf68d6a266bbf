"""The bench of the streaming core runs and says what it measured."""

import json
from pathlib import Path

import pytest

from streaming import bench


def test_the_last_line_is_json_with_the_figures_of_every_run(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "trace.json"
    command = ["--steps", "0", "--seconds", "6", "--hog", "1", "--sessions", "1", "2"]
    bench.main([*command, "--source", str(portrait), "--profile", str(profile)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("recovered after" in line for line in lines) == 2
    figures = json.loads(lines[-1])
    assert (figures["model"], figures["size_px"], figures["steps"]) == ("tiny", 256, 0)
    assert [run["sessions"] for run in figures["runs"]] == [1, 2]
    for run in figures["runs"]:
        for name in ("fps", "server_ms", "longest_gap_ms", "dropped"):
            assert len(run[name]) == run["sessions"], "one for each session"
        assert min(run["fps"]) > 0
        for stage in (*run["server_ms"], run["motion_ms"], run["render_ms"]):
            assert 0 < stage["p50"] <= stage["p95"]
        assert 0 < run["busy"] <= 1
        assert run["capacity"] >= 1
        for phase in ("before", "during", "after"):
            assert run["hog"][phase]["longest_gap_ms"] > 0

    events = json.loads(profile.read_text())["traceEvents"]
    threads = {each["args"]["name"] for each in events if each["ph"] == "M"}
    assert {"device-0", "motion-0", "motion-1"} <= threads
    names = {each["name"] for each in events}
    assert {"motion", "backend wait", "animate", "playout"} <= names


def test_too_short_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--seconds", "9", "--hog", "5"])
    assert "--seconds must be at least 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["--sessions 0", "--hog -1", "--steps 0 --lowest-steps 1", "--model huge"]
)
def test_arguments_that_make_no_sense_are_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        bench.main(arguments.split())
