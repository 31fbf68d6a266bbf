"""A real Firefox, which has no H.264 for calls unless it downloads it, and the real server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimaface.types import Pixels
from tests.browser_setup import run_server
from tests.firefox import Firefox, Tab, find_firefox, has_display, run_firefox
from tests.test_browser import MOVING, PAGE_HELPERS
from tests.test_browser_microphone import VIEWER

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_firefox() is None, reason="no Firefox on this machine"),
]

MAGENTA = (255, 0, 255)
SIZE_PX = 256


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("MIMAFACE_ADMISSION_FPS", "0")  # however slow the machine is
        with run_server("--size-px", str(SIZE_PX), "--steps", "0") as server:
            yield server.url


@pytest.fixture(scope="module")
def firefox(webcam: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with run_firefox(tmp_path_factory.mktemp("firefox"), webcam) as firefox:
        yield firefox


@pytest.fixture(scope="module")
def call(firefox: Firefox, url: str) -> Iterator[Tab]:
    """The page, live."""
    page = firefox.open()
    go_live(page, url)
    yield page
    page.click("#stop")
    page.wait_until(says("Ready"))
    assert not firefox.errors


def go_live(page: Tab, url: str) -> None:
    page.goto(url)
    page.evaluate(f"(() => {{ {PAGE_HELPERS} {VIEWER} }})()")
    page.wait_until("!document.getElementById('start').disabled")
    page.click("#start")
    page.wait_until(says("Live"))
    page.wait_until("document.querySelector('#avatar-frame[data-is-moving]')")


def says(status: str) -> str:
    return f"document.getElementById('status').textContent === '{status}'"


def wait_for_movement(page: Tab) -> None:
    moved = [page.evaluate("movement(20)")]
    while moved[-1] < MOVING:
        assert len(moved) < 10, f"the avatar moved by {moved}"
        moved.append(page.evaluate("movement(20)"))


def wait_for_connection(page: Tab, name: str) -> None:
    page.wait_until(f"document.getElementById('figures').textContent.includes('Connection{name}')")


def overlay(firefox: Firefox, call: Tab, query: str) -> Pixels:
    """Return what the overlay of a call shows."""
    address = call.evaluate("document.getElementById('overlay-url').value")
    page = firefox.open()
    page.goto(address.replace("#", f"&{query}#"))
    page.wait_until("!document.getElementById('avatar').hidden")
    png = page.screenshot(width=SIZE_PX, height=SIZE_PX)
    page.close()
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_call_goes_over_a_websocket_where_webrtc_is_switched_off(
    firefox: Firefox, url: str
) -> None:
    page = firefox.open(before="() => { delete globalThis.RTCPeerConnection; }")
    go_live(page, url)
    wait_for_movement(page)
    wait_for_connection(page, "WebSocket")
    address = page.evaluate("document.getElementById('overlay-url').value")
    page.click("#stop")
    page.wait_until(says("Ready"))
    page.goto(address)
    page.wait_until("document.getElementById('message').textContent.includes('needs WebRTC')")


def test_the_avatar_moves_when_the_webcam_does(call: Tab) -> None:
    wait_for_movement(call)
    wait_for_connection(call, "WebRTC")


def test_the_voice_is_heard_while_the_microphone_is_on(call: Tab) -> None:
    call.evaluate("watch()")
    silence = call.evaluate("loudness(50)")
    call.click("#microphone")
    call.wait_until("document.getElementById('microphone').ariaPressed === 'true'")
    assert call.evaluate("loudness(100)") > max(1e-4, 1000 * silence)
    call.click("#microphone")
    call.evaluate("viewer.close()")


def test_the_overlay_shows_the_avatar_over_a_colour_to_key(firefox: Firefox, call: Tab) -> None:
    shown = overlay(firefox, call, "alpha=key&chroma=ff00ff").astype(int)
    assert np.abs(shown[:8] - MAGENTA).max() < 40  # as far as a codec keeps a colour
    assert np.abs(shown[SIZE_PX // 2, SIZE_PX // 2] - MAGENTA).max() > 100


@pytest.mark.skipif(not has_display(), reason="no Xvfb on this machine, hence no WebGL")
def test_the_overlay_cuts_the_avatar_out(firefox: Firefox, call: Tab) -> None:
    shown = overlay(firefox, call, "bg=rgb(255,0,255)")
    assert (shown[:8] == MAGENTA).all()
    assert np.abs(shown[SIZE_PX // 2, SIZE_PX // 2].astype(int) - MAGENTA).max() > 100
