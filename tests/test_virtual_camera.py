"""The avatar as a webcam, with a stand-in for the system's driver."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pyvirtualcam
from pyvirtualcam import camera as backends

from mimaface.types import Pixels
from server.__main__ import main
from server.config import ServerConfig
from server.feed import Feed, OutputState
from server.outputs import OutputError, check_outputs
from server.virtual_camera import open_camera, show
from tests.fakes import Bell
from tests.on_air import PORTRAIT, picture


class Driver:
    """What pyvirtualcam asks of a driver; keeps the frames that a program would see."""

    bell = Bell()
    seen: list[Pixels] = []  # noqa: RUF012 # pyvirtualcam makes the instance
    is_gone = False
    is_closed = False

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: Any) -> None:
        assert (width, height, fps, device) == (1280, 720, 30, None)
        assert fourcc == pyvirtualcam.util.encode_fourcc(pyvirtualcam.PixelFormat.RGB.value)

    def send(self, frame: Pixels) -> None:
        if Driver.is_gone:
            raise RuntimeError("No such device")
        Driver.seen.append(frame.reshape(720, 1280, 3).copy())
        Driver.bell.ring()

    def close(self) -> None:
        Driver.is_closed = True

    def device(self) -> str:
        return "/dev/video9"

    def native_fourcc(self) -> int | None:
        return None


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Driver]]:
    """The only driver of the machine."""
    monkeypatch.setattr(backends, "BACKENDS", {})
    pyvirtualcam.register_backend("stand-in", Driver)
    Driver.seen, Driver.is_gone, Driver.is_closed = [], False, False
    yield Driver
    Driver.seen = []


@pytest.fixture
def feed(driver: type[Driver]) -> Iterator[Feed]:
    """What the camera shows, until the test is over."""
    feed = Feed(OutputState(name="virtual_camera"), most_pictures=1)
    thread = threading.Thread(target=show, args=(feed, open_camera()), daemon=True)
    thread.start()
    yield feed
    feed.close()
    thread.join(10)
    assert not thread.is_alive()
    assert driver.is_closed


def test_the_avatar_stands_whole_before_its_blurred_portrait(
    driver: type[Driver], feed: Feed
) -> None:
    feed.put(picture(0.0, 230))
    driver.bell.wait_for(lambda: bool(driver.seen))
    [frame] = driver.seen[:1]
    left = (1280 - 720) // 2
    assert (frame[:, left : left + 720] == 230).all()
    for side in (frame[:, :left], frame[:, left + 720 :]):
        assert np.abs(side - PORTRAIT[0, 0] * 0.45).max() < 2, "dimmed, in the portrait's colours"


def test_a_still_avatar_is_sent_again_and_again_and_a_new_one_takes_over(
    driver: type[Driver], feed: Feed
) -> None:
    feed.put(picture(0.0, 10))
    driver.bell.wait_for(lambda: len(driver.seen) >= 5)
    feed.put(picture(1.0, 200))
    driver.bell.wait_for(lambda: driver.seen[-1][360, 640, 0] == 200)
    assert feed.state.is_up
    assert {int(frame[360, 640, 0]) for frame in driver.seen} == {10, 200}


def test_only_the_newest_picture_waits_and_the_others_are_counted() -> None:
    feed = Feed(OutputState(name="virtual_camera"), most_pictures=1)
    for step in range(5):
        feed.put(picture(float(step), step))
    [newest] = feed.take()
    assert (newest.time_s, feed.state.dropped) == (4.0, 4)


def test_a_camera_that_goes_away_is_told_of_once(
    driver: type[Driver], feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    driver.is_gone = True
    feed.put(picture(0.0, 10))
    driver.bell.wait_for(lambda: driver.is_closed)
    errors = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert errors == ["the camera /dev/video9 is gone: No such device"]
    assert not feed.state.is_up


def test_without_a_driver_the_server_says_what_to_install_and_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", {})
    monkeypatch.setattr(sys, "argv", ["server", "--virtual-camera", "--port", "0"])
    assert main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is no virtual camera")
    drivers = {"linux": "v4l2loopback", "darwin": "OBS", "win32": "UnityCapture"}
    for platform, words in drivers.items():
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(OutputError, match=words):
            check_outputs(ServerConfig(has_virtual_camera=True))


def test_without_the_package_the_server_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(OutputError, match="pip install pyvirtualcam"):
        check_outputs(ServerConfig(has_virtual_camera=True))
