"""What several test files share: a portrait, and a driver who performs the scripted motion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest
import torch
from aiortc import rtcpeerconnection
from aiortc.rtcicetransport import RTCIceTransport
from playwright.sync_api import Browser

from mimaface.animate import animate, encode_source
from mimaface.evaluation.scripted import scripted_motion
from mimaface.model import load
from mimaface.photo import built_in_portraits
from mimaface.types import ClipRequest
from mimaface.video import write_video
from server.rtc_patches import REPLACEMENTS, apply_patches
from tests.browser_setup import moving_face, run_browser, write_webcam_clip

FPS = 25.0
FRAMES = 75

# The files that take longest. They start first, so that no worker has one left at the end.
LONG = (
    *("test_fuzz.py", "test_distill.py", "test_evaluation.py", "test_main.py", "test_train.py"),
    *("test_int8.py", "test_frame_generator.py", "test_push.py", "test_generator.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; beyond that the order stays."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep torch's and OpenCV's threads from waiting for each other while others run."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def portraits() -> list[Path]:
    """The built-in portraits."""
    return built_in_portraits()


@pytest.fixture(scope="session")
def portrait(portraits: list[Path]) -> Path:
    """One of them."""
    return portraits[0]


@pytest.fixture(scope="session")
def driving_clip(portraits: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds in which another portrait's avatar sways, speaks, blinks and looks around."""
    model = load("tiny", weights="none")
    appearance = encode_source(model, portraits[-1])
    motion = scripted_motion(FRAMES, fps=FPS)
    path = tmp_path_factory.mktemp("driving") / "driver.mp4"
    with write_video(path, width=256, height=256, fps=FPS) as video:
        for index in range(FRAMES):
            request = ClipRequest(appearance=appearance, motion=motion[index : index + 1])
            [clip] = animate(model, [request])
            video.write(index / FPS, clip.pixels[0])
    return path


@pytest.fixture(scope="session")
def webcam(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a moving face, for a browser's camera."""
    path = tmp_path_factory.mktemp("webcam") / "face.mjpeg"
    write_webcam_clip(path, moving_face(portrait, frames=120))
    return path


@pytest.fixture(scope="module")
def browser(webcam: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The system's Chromium, with these arguments if a test gives any; its microphone beeps."""
    with run_browser(webcam, *getattr(request, "param", ())) as browser:
        yield browser


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """Of the server at the `url` that the test file has."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def _repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repair aiortc for this test, but let its peers find each other on this machine."""
    for module, name, _ in REPLACEMENTS:
        monkeypatch.setattr(module, name, getattr(module, name))
    assert apply_patches()
    monkeypatch.setattr(rtcpeerconnection, "RTCIceTransport", RTCIceTransport)
