"""The bench of the streaming core runs and says what it measured."""

import json
from pathlib import Path

import pytest

from streaming import bench


def test_the_last_line_is_json_with_the_figures(
    portrait: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(["--source", str(portrait), "--seconds", "4", "--steps", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    figures = json.loads(lines[-1])
    assert (figures["model"], figures["size_px"], figures["steps"]) == ("tiny", 256, 0)
    assert figures["fps"] > 0
    for stage in bench.STAGES:
        assert 0 < figures[stage]["p50"] <= figures[stage]["p95"]


def test_too_short_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--seconds", "3"])
    assert "--seconds must be more than 3" in capsys.readouterr().err
