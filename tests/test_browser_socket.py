"""A real Chromium whose network lets no UDP through reaches the real server by WebSocket."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser_setup import RunningServer, find_chromium, run_server
from tests.test_browser import MOVING, PAGE_HELPERS

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

NO_UDP = "--webrtc-ip-handling-policy=disable_non_proxied_udp"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--size-px", "256", "--steps", "0")
    with run_server(*options, MIMAFACE_ADMISSION_FPS="0") as server:  # however slow the machine is
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of somebody who allows the camera."""
    with browser.new_context(permissions=["camera"]) as context:
        page = context.new_page()
        page.add_init_script(PAGE_HELPERS)
        yield page


def go_live(page: Page, url: str) -> None:
    page.goto(url)
    page.click("#start")
    wait_until_live(page)


def wait_until_live(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("Live")
    page.wait_for_selector("#avatar-frame[data-is-moving]")


def wait_for_movement(page: Page) -> None:
    moved = [page.evaluate("movement(20)")]
    while moved[-1] < MOVING:
        assert len(moved) < 10, f"the avatar moved by {moved}"
        moved.append(page.evaluate("movement(20)"))


def says_that_it_goes_over(page: Page, connection: str) -> None:
    page.click("#show-stats")
    expect(page.locator("#figures")).to_contain_text(f"Connection{connection}")


@pytest.mark.parametrize("browser", [[NO_UDP]], indirect=True, ids=["no UDP"])
def test_the_call_goes_over_a_websocket_where_the_browser_may_send_no_udp(
    page: Page, server: RunningServer
) -> None:
    go_live(page, server.url)
    wait_for_movement(page)
    says_that_it_goes_over(page, "WebSocket")
    expect(page.locator("#latency")).to_have_text(re.compile(r"\d+"))
    expect(page.locator("#figures")).to_contain_text(re.compile("Sent640 . 480"))
    page.click("#stop")


def test_the_call_goes_over_a_websocket_where_a_firewall_drops_udp(
    page: Page, server: RunningServer
) -> None:
    def swallow(route: Route) -> None:
        # To an address of TEST-NET-1 (RFC 5737), from where nothing ever answers.
        answer = route.fetch()
        sdp = re.sub(r"(a=candidate:(?:\S+ ){4})\S+", r"\g<1>192.0.2.1", answer.text())
        route.fulfill(status=answer.status, content_type="application/sdp", body=sdp)

    page.route("**/rtc", swallow)
    go_live(page, server.url)
    wait_for_movement(page)
    says_that_it_goes_over(page, "WebSocket")


def test_a_call_by_webrtc_says_so(page: Page, server: RunningServer) -> None:
    go_live(page, server.url)
    says_that_it_goes_over(page, "WebRTC")


def test_a_call_over_a_websocket_pauses_goes_on_and_comes_back(
    page: Page, server: RunningServer
) -> None:
    with page.expect_websocket() as opened:
        go_live(page, f"{server.url}/?transport=socket")
    page.keyboard.press("p")
    expect(page.locator("#status")).to_have_text("Paused")
    page.keyboard.press("p")
    wait_until_live(page)

    session = opened.value.url.replace("ws:", "http:").removesuffix("/socket")
    with page.expect_websocket() as opened:
        page.request.delete(session)
    wait_until_live(page)
    wait_for_movement(page)
    with page.expect_response("**/v1/sessions/*") as ended:
        page.click("#stop")
    assert ended.value.status == 204
    if not opened.value.is_closed():
        opened.value.wait_for_event("close")


def test_a_browser_that_decodes_no_h264_is_told_so(page: Page, server: RunningServer) -> None:
    page.add_init_script("VideoDecoder.isConfigSupported = async () => ({ supported: false })")
    page.goto(f"{server.url}/?transport=socket")
    page.click("#start")
    expect(page.locator("#help")).to_contain_text("H.264")
    expect(page.locator("#start")).to_be_enabled()
