"""A real Chromium shows a page of another site, which publishes by WHIP and watches by WHEP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Error, Page

from tests.browser_setup import find_chromium, run_server

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

SCRIPT = """
window.exchange = async (peer, url, token) => {
  await peer.setLocalDescription();
  while (peer.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      peer.addEventListener("icegatheringstatechange", resolve, { once: true });
    });
  }
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(url, {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/sdp" },
    body: peer.localDescription.sdp,
  });
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  const leg = new URL(answer.headers.get("Location"), url);
  return async () => (await fetch(leg, { method: "DELETE", headers })).status;
};
window.publish = async (url, token) => {
  const peer = new RTCPeerConnection();
  const camera = await navigator.mediaDevices.getUserMedia({ video: true });
  peer.addTransceiver(camera.getTracks()[0], { direction: "sendonly" });
  window.stopPublishing = await exchange(peer, url, token);
};
window.watch = async (url, token) => {
  const peer = new RTCPeerConnection();
  const { receiver } = peer.addTransceiver("video", { direction: "recvonly" });
  window.stopWatching = await exchange(peer, url, token);
  const video = Object.assign(document.createElement("video"), { muted: true });
  video.srcObject = new MediaStream([receiver.track]);
  await video.play();
  await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
  return video.videoWidth;
};
"""


@contextmanager
def serve_site(folder: Path) -> Iterator[str]:
    """Serve a folder under an origin of its own."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_port}"
        finally:
            site.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>Another site</title>")
    return folder


@pytest.fixture(scope="module")
def friend(folder: Path) -> Iterator[str]:
    with serve_site(folder) as origin:
        yield origin


@pytest.fixture(scope="module")
def url(friend: str) -> Iterator[str]:
    with run_server("--size-px", "256", "--steps", "0", MIMAFACE_CORS_ORIGINS=friend) as server:
        yield server.url


@pytest.fixture
def session(url: str, portrait: Path) -> Iterator[dict[str, Any]]:
    created = httpx.post(f"{url}/v1/sessions", json={"source": portrait.stem}).json()
    yield created
    httpx.delete(url + created["url"])


def open_site(browser: Browser, origin: str) -> Page:
    page = browser.new_context(permissions=["camera"]).new_page()
    page.add_init_script(SCRIPT)
    page.goto(origin)
    return page


def test_a_listed_sites_page_publishes_watches_and_ends_both(
    browser: Browser, friend: str, url: str, session: dict[str, Any]
) -> None:
    page, tokens = open_site(browser, friend), session["tokens"]
    page.evaluate("(to) => publish(...to)", [url + session["whip_url"], tokens["publish"]])
    width = page.evaluate("(to) => watch(...to)", [url + session["whep_url"], tokens["watch"]])
    assert width == 256
    assert page.evaluate("stopWatching()") == 200
    assert page.evaluate("stopPublishing()") == 200
    page.context.close()


def test_a_page_of_a_site_that_is_not_listed_gets_no_answer(
    browser: Browser, folder: Path, url: str, session: dict[str, Any]
) -> None:
    with serve_site(folder) as stranger:
        page = open_site(browser, stranger)
        to = [url + session["whip_url"], session["tokens"]["publish"]]
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate("(to) => publish(...to)", to)
        page.context.close()
