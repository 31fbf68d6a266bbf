"""How the server goes down: a real process, a real signal, a call that is on."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from mimaface.types import Pixels
from mimaface.video import VideoReader
from server.drain import Drain
from tests.browser_setup import RunningServer, find_chromium, launch, run_server
from tests.page import Page, call

REMEMBER_TITLES = """
() => {
  const title = document.getElementById("help-title");
  window.titles = new Set();
  new MutationObserver(() => titles.add(title.textContent)).observe(title, { childList: true });
}
"""
pytestmark = pytest.mark.real_time

LONG_S = "600"  # longer than the test may take: what ends sooner did not wait for it


def start(*, drain_s: str) -> Iterator[RunningServer]:
    with run_server("--size-px", "256", "--steps", "0", MIMAFACE_DRAIN_S=drain_s) as server:
        yield server


@pytest.fixture
def patient() -> Iterator[RunningServer]:
    yield from start(drain_s=LONG_S)


@pytest.fixture
def hurried() -> Iterator[RunningServer]:
    yield from start(drain_s="0.5")


@pytest.fixture(scope="module")
def driver(driving_clip: Path) -> list[Pixels]:
    with VideoReader(driving_clip) as video:
        return [rgb for _, rgb in video]


def test_a_drain_is_over_when_nobody_is_connected_or_the_time_is_up() -> None:
    drain = Drain(10.0)
    drain.look(0.0, calls=0)
    assert not drain.is_on
    assert not drain.is_over, "it has not begun"
    drain.begin(100.0)
    drain.begin(105.0)  # asked for once more
    drain.look(109.0, calls=1)
    assert drain.left_s(109.0) == 1.0
    assert not drain.is_over
    drain.look(109.5, calls=0)
    assert drain.is_over
    drain.look(110.0, calls=1)
    assert drain.is_over


@asynccontextmanager
async def on_call(
    client: httpx.AsyncClient, driver: list[Pixels], portrait: Path
) -> AsyncIterator[Page]:
    created = await client.post("/v1/sessions", json={"source": portrait.stem})
    page = Page(driver)
    try:
        await page.call(client, created.json()["url"])
        await page.message(type="state")
        yield page
    finally:
        await page.connection.close()


def test_at_sigterm_a_call_goes_on_new_ones_are_refused_and_the_server_ends_after_it(
    patient: RunningServer, driver: list[Pixels], portrait: Path
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        async with on_call(client, driver, portrait) as page:
            patient.process.send_signal(signal.SIGTERM)
            told = await page.message(type="restarting")
            assert 0 < told["within_s"] <= float(LONG_S)
            for path in ("/readyz", "/availability"):
                assert (await client.get(path)).status_code == 503
            assert (await client.get("/livez")).status_code == 200
            refused = await client.post("/v1/sessions", json={"source": portrait.stem})
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert "about to restart" in refused.json()["error"]
            await page.message(state="live")  # it was calibrating, and goes on
            seen = {(await page.frame()).tobytes() for _ in range(20)}
            assert len(seen) > 5, "the avatar must still move"
            assert patient.process.poll() is None

    call(patient.url, script)
    assert patient.process.wait(30) == 0


def test_a_call_that_does_not_end_is_broken_off_after_the_grace(
    hurried: RunningServer, driver: list[Pixels], portrait: Path
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        async with on_call(client, driver, portrait) as page:
            hurried.process.send_signal(signal.SIGTERM)
            await page.is_closed.wait()

    call(hurried.url, script)
    assert hurried.process.wait(30) == 0


def test_a_second_signal_ends_the_server_at_once(
    patient: RunningServer, driver: list[Pixels], portrait: Path
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        async with on_call(client, driver, portrait) as page:
            patient.process.send_signal(signal.SIGTERM)
            await page.message(type="restarting")
            assert patient.process.poll() is None
            patient.process.send_signal(signal.SIGTERM)
            await page.is_closed.wait()

    call(patient.url, script)
    assert patient.process.wait(30) == 0


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_the_page_says_that_the_server_restarts_and_then_that_it_reconnects(
    hurried: RunningServer,
) -> None:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_context(permissions=["camera"]).new_page()
        page.goto(hurried.url)
        page.click("#start")
        # The fake camera's picture shows no face.
        expect(page.locator("#status")).to_have_text("Face lost")
        page.evaluate(REMEMBER_TITLES)
        hurried.process.send_signal(signal.SIGTERM)
        expect(page.locator("#status")).to_have_text("Reconnecting")
        expect(page.locator("#help")).to_be_hidden()
        assert "The server is about to restart" in page.evaluate("[...titles]")
        browser.close()
