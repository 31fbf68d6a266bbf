"""How good a picture Chromium sends: the whole webcam, at what it can use, from the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from mimaface.types import Pixels
from tests.browser_setup import (
    FPS,
    HEIGHT_PX,
    WIDTH_PX,
    find_chromium,
    moving_face,
    run_browser,
    run_server,
    write_webcam_clip,
)

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

SETTLED_S = 3  # after which the picture must be good
MEASURED_S = 2
GOOD_BPS = 1_500_000

# The page keeps its connection to itself.
KEEP_PEER = """
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...given) {
    super(...given);
    window.peer = this;
  }
};
"""
SENT = """
async () => {
  const reports = [...(await peer.getStats()).values()];
  return reports.find(({ type, kind }) => type === "outbound-rtp" && kind === "video");
}
"""


def grainy(pictures: list[Pixels]) -> Iterator[Pixels]:
    """Add the grain and the busy wall of a real room, which take all bits there are."""
    rng = np.random.default_rng(0)
    wall = rng.normal(0, 14, (HEIGHT_PX, WIDTH_PX, 1))
    for number, picture in enumerate(pictures):
        grain = rng.normal(0, 4, (HEIGHT_PX, WIDTH_PX, 1))
        seen = picture + np.roll(wall, (3 * number, 5 * number), (0, 1)) + grain
        yield seen.clip(0, 255).astype(np.uint8)


@pytest.fixture
def page(portrait: Path, tmp_path: Path) -> Iterator[Page]:
    webcam = tmp_path / "grainy.mjpeg"
    write_webcam_clip(webcam, grainy(moving_face(portrait, frames=60)))
    with run_server("--steps", "0") as server, run_browser(webcam) as browser:
        page = browser.new_context(permissions=["camera"]).new_page()
        page.add_init_script(KEEP_PEER)
        page.goto(server.url)
        yield page


def test_the_webcam_is_sent_whole_and_sharp_within_three_seconds(page: Page) -> None:
    expect(page.locator("#start")).to_be_enabled()
    page.click("#start")
    page.wait_for_function("() => window.peer?.connectionState === 'connected'")
    page.wait_for_timeout(1000 * SETTLED_S)
    first: dict[str, Any] = page.evaluate(SENT)
    page.wait_for_timeout(1000 * MEASURED_S)
    last: dict[str, Any] = page.evaluate(SENT)
    assert last["qualityLimitationReason"] != "bandwidth"
    assert last["targetBitrate"] >= GOOD_BPS
    assert (last["frameWidth"], last["frameHeight"]) == (WIDTH_PX, HEIGHT_PX)
    # Of frames, not of seconds: a machine that does too much else encodes fewer of them.
    frames = last["framesEncoded"] - first["framesEncoded"]
    bits = 8 * (last["bytesSent"] - first["bytesSent"])
    assert bits / frames * FPS >= GOOD_BPS
