"""A real Chromium drives the real server: what the person at the page sees and can do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from mimaface.photo import built_in_portraits
from tests.browser_setup import find_chromium, run_server

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

# Mean difference of grey levels, 0 to 255, between pictures of 64x64. What the video codec makes
# of one and the same frame differs by less than STILL, a turning head by more than MOVING.
STILL = 1.0
MOVING = 3.0

PAGE_HELPERS = """
window.grey = (picture) => {
  const context = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, 64, 64);
  return context.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 === 1);
};
window.difference = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / 4096;
/** How far the avatar gets from where it is, within some presented frames. */
window.movement = (frames) =>
  new Promise((resolve) => {
    const video = document.getElementById("avatar");
    let first, most = 0, left = frames;
    const look = () => {
      const now = grey(video);
      first ??= now;
      most = Math.max(most, difference(first, now));
      if (left-- > 0) video.requestVideoFrameCallback(look);
      else resolve(most);
    };
    video.requestVideoFrameCallback(look);
  });
"""

LAST_IS_SHOWN = """() => {
  const [first, last] = [...document.querySelectorAll("#portraits img")].map(grey);
  const avatar = grey(document.getElementById("avatar"));
  return difference(avatar, last) < difference(avatar, first) / 2;
}"""


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with run_server(MIMAFACE_ADMISSION_FPS="0") as server:  # however slow the machine is
        yield server.url


@pytest.fixture
def page(browser: Browser, server_url: str) -> Iterator[Page]:
    """The page, opened by somebody who allows the camera."""
    context = browser.new_context(permissions=["camera"])
    yield _open(context.new_page(), server_url)
    context.close()


def _open(page: Page, server_url: str) -> Page:
    page.add_init_script(PAGE_HELPERS)
    page.goto(server_url)
    expect(page.locator("#start")).to_be_enabled()
    return page


def _go_live(page: Page) -> None:
    page.click("#start")
    _wait_until_live(page)


def _wait_until_live(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("Live")
    page.wait_for_selector("#avatar-frame[data-is-moving]")


def _wait_for_movement(page: Page, is_right: Callable[[float], bool]) -> None:
    """Return once the avatar's movement within about a second is right."""
    seen = []
    for _ in range(10):
        seen.append(page.evaluate("movement(30)"))
        if is_right(seen[-1]):
            return
    raise AssertionError(f"the avatar moved by {seen}")


def test_a_still_portrait_is_shown_before_the_camera_is_live(page: Page) -> None:
    assert page.evaluate("document.getElementById('still').naturalWidth") > 0
    expect(page.locator("#still")).to_be_visible()
    expect(page.locator("#avatar")).to_have_css("opacity", "0")


def test_the_avatar_moves_when_the_webcam_does(page: Page) -> None:
    page.evaluate("window.still = grey(document.getElementById('still'))")
    _go_live(page)
    assert page.evaluate("movement(60)") > MOVING
    # It is the portrait that moves: far closer to the photo than what the camera sees.
    to_portrait, to_camera = page.evaluate(
        """() => {
          const avatar = grey(document.getElementById("avatar"));
          const camera = grey(document.getElementById("self"));
          return [difference(avatar, still), difference(avatar, camera)];
        }"""
    )
    assert to_portrait < to_camera / 2


def test_pause_stops_the_movement_and_the_camera_until_it_is_lifted(page: Page) -> None:
    _go_live(page)
    page.keyboard.press("p")
    expect(page.locator("#status")).to_have_text("Paused")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    _wait_for_movement(page, lambda by: by < STILL)
    assert not page.evaluate("document.getElementById('self').srcObject.getTracks()[0].enabled")
    page.keyboard.press("p")
    _wait_until_live(page)
    _wait_for_movement(page, lambda by: by > MOVING)


def test_another_portrait_can_be_chosen_while_live(page: Page) -> None:
    _go_live(page)
    page.locator("#portraits input").last.check(force=True)
    page.wait_for_function(LAST_IS_SHOWN)


def test_the_call_comes_back_after_the_server_drops_it(page: Page) -> None:
    with page.expect_request("**/rtc") as offer:
        _go_live(page)
    session_url = offer.value.url.removesuffix("/rtc")
    with page.expect_request("**/rtc") as offer:
        httpx.delete(session_url).raise_for_status()
    expect(page.locator("#status")).to_have_text("Reconnecting")
    _wait_until_live(page)
    assert page.evaluate("movement(60)") > MOVING


# Another connection of the same session, upon which the server ends the one before.
TAKE_OVER = """async (url) => {
  const other = new RTCPeerConnection();
  other.createDataChannel("other");
  await other.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  await fetch(url, { method: "POST", headers, body: other.localDescription.sdp });
}"""


def test_what_is_chosen_while_the_connection_is_down_holds_when_it_is_back(page: Page) -> None:
    with page.expect_request("**/rtc") as offer:
        _go_live(page)
    page.keyboard.press("p")
    expect(page.locator("#status")).to_have_text("Paused")
    held: list[Route] = []
    page.route("**/ice", lambda route: held.append(route))
    page.evaluate(TAKE_OVER, offer.value.url)
    expect(page.locator("#status")).to_have_text("Reconnecting")
    page.keyboard.press("p")
    page.locator("#portraits input").last.check(force=True)
    for route in held:
        route.continue_()
    page.unroute("**/ice")
    _wait_until_live(page)
    _wait_for_movement(page, lambda by: by > MOVING)
    page.wait_for_function(LAST_IS_SHOWN)


def test_a_portrait_that_is_chosen_while_connecting_is_the_one_shown(page: Page) -> None:
    held: list[Route] = []
    page.route("**/rtc", lambda route: held.append(route))
    with page.expect_request("**/rtc"):
        page.click("#start")
    page.locator("#portraits input").last.check(force=True)
    for route in held:
        route.continue_()
    page.unroute("**/rtc")
    _wait_until_live(page)
    page.wait_for_function(LAST_IS_SHOWN)


def test_an_address_that_was_copied_for_obs_shows_the_next_call_as_well(page: Page) -> None:
    _go_live(page)
    page.click("#copy-overlay")
    address = page.input_value("#overlay-url")
    page.click("#stop")
    overlay = page.context.new_page()
    with overlay.expect_response("**/v1/whep/*") as refused:
        overlay.goto(address)
    assert refused.value.status == 404
    page.reload()
    expect(page.locator("#start")).to_be_enabled()
    _go_live(page)
    assert page.input_value("#overlay-url").split("#")[0] == address.split("#")[0]
    expect(overlay.locator("#avatar")).to_be_visible()
    expect(overlay.locator("#message")).to_be_hidden()


def test_an_address_nobody_copied_is_another_one_in_the_next_call(page: Page) -> None:
    _go_live(page)
    address = page.input_value("#overlay-url")
    page.click("#stop")
    _go_live(page)
    assert page.input_value("#overlay-url") != address
    expect(page.locator("#help")).to_be_hidden()


def test_an_address_that_another_page_drives_stays_that_ones(page: Page) -> None:
    _go_live(page)
    page.click("#copy-overlay")
    copied = page.evaluate("localStorage.getItem('mimaface.overlay')")
    other = page.context.new_page()
    _open(other, page.url)
    _go_live(other)
    assert other.input_value("#overlay-url") != page.input_value("#overlay-url")
    expect(other.locator("#help")).to_be_hidden()
    assert page.evaluate("localStorage.getItem('mimaface.overlay')") == copied
    assert page.text_content("#status") == "Live"


def test_who_copied_an_address_is_told_that_it_holds_no_more(page: Page) -> None:
    expired = '{"id": "x", "control": "x", "address": "http://x/overlay?session=x#t=x"}'
    page.evaluate("it => localStorage.setItem('mimaface.overlay', it)", expired)
    _go_live(page)
    expect(page.locator("#help")).to_contain_text("The address for OBS has changed")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


# The system's camera, unplugged and plugged in again.
UNPLUG = """() => {
  window.openAny = navigator.mediaDevices.getUserMedia;
  navigator.mediaDevices.getUserMedia = async () => {
    throw new DOMException("gone", "NotFoundError");
  };
  document.getElementById("self").srcObject.getTracks()[0].dispatchEvent(new Event("ended"));
}"""
PLUG_IN = """() => {
  navigator.mediaDevices.getUserMedia = openAny;
  navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
}"""


def test_a_call_outlives_its_camera_and_takes_the_next_one(page: Page) -> None:
    _go_live(page)
    page.evaluate(UNPLUG)
    expect(page.locator("#help")).to_contain_text("No camera was found")
    expect(page.locator("#hint")).to_have_text("There is no camera")
    page.evaluate(PLUG_IN)
    _wait_until_live(page)
    _wait_for_movement(page, lambda by: by > MOVING)
    expect(page.locator("#help")).to_be_hidden()


def test_a_camera_that_opens_after_stop_is_closed_again(page: Page) -> None:
    _go_live(page)
    page.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          const stopped = new Promise((resolve) => {
            document.getElementById("stop").addEventListener("click", resolve);
          });
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            await stopped;
            const stream = await open(wanted);
            window.late = stream.getTracks()[0];
            return stream;
          };
          const [camera] = document.getElementById("self").srcObject.getTracks();
          camera.dispatchEvent(new Event("ended"));
        }"""
    )
    page.click("#stop")
    page.wait_for_function("() => window.late?.readyState === 'ended'")
    expect(page.locator("#self-frame")).to_be_hidden()


def test_stop_ends_the_camera_and_the_session(page: Page) -> None:
    with page.expect_request("**/rtc") as offer:
        _go_live(page)
    session_url = offer.value.url.removesuffix("/rtc")
    page.evaluate("window.camera = document.getElementById('self').srcObject.getTracks()[0]")
    with page.expect_response(session_url) as ended:
        page.click("#stop")
    assert ended.value.status == 204
    assert page.evaluate("window.camera.readyState") == "ended"
    expect(page.locator("#start")).to_be_focused()
    expect(page.locator("#self-frame")).to_be_hidden()


def test_the_keyboard_reaches_every_action(page: Page) -> None:
    def tab_to(element_id: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == element_id:
                return
        pytest.fail(f"Tab does not reach #{element_id}")

    tab_to("photo")
    tab_to("consent")
    tab_to("start")
    page.keyboard.press("Enter")
    _wait_until_live(page)
    expect(page.locator("#pause")).to_be_focused()
    for element_id in ("recalibrate", "show-self", "show-stats", "fullscreen", "stop"):
        tab_to(element_id)

    page.keyboard.press("h")
    expect(page.locator("#self-frame")).to_be_hidden()
    expect(page.locator("#show-self")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("s")
    expect(page.locator("#stats")).to_be_visible()
    expect(page.locator("#latency")).to_have_text(re.compile(r"\d+"))
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Quality\d steps?, \d+ fps"))
    expect(page.locator("#stages")).to_contain_text(re.compile(r"Motion and mesh\d+"))
    page.keyboard.press("r")
    expect(page.locator("#status")).to_have_text("Calibrating")
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement?.id === 'stage'")


def test_a_photo_is_not_uploaded_without_consent(page: Page) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.set_input_files("#photo", built_in_portraits()[0])
    expect(page.locator("#photo-message")).to_contain_text("tick the box")
    assert not [url for url in requested if url.endswith("/v1/sources")]

    page.check("#consent", force=True)
    expect(page.locator("#photo-message")).to_contain_text("Ready")
    expect(page.locator("#portraits input").last).to_be_checked()
    expect(page.locator("#still")).to_have_attribute("src", re.compile("/v1/sources/"))
    expect(page.locator("#consent")).not_to_be_checked()  # it was for this photo


def test_a_photo_of_a_phone_is_made_smaller_before_it_is_uploaded(
    page: Page, tmp_path: Path
) -> None:
    photo = tmp_path / "phone.jpg"
    with Image.open(built_in_portraits()[0]) as portrait:
        portrait.resize((3500, 3500)).save(photo)  # 12 megapixels, more than the server takes
    page.check("#consent", force=True)
    page.set_input_files("#photo", photo)
    expect(page.locator("#photo-message")).to_contain_text("Ready")


def test_a_text_file_named_png_shows_what_the_server_says(page: Page) -> None:
    said: list[str] = []

    def listen(route: Route) -> None:
        response = route.fetch()
        said.append(response.json()["error"])
        route.fulfill(response=response)

    page.route("**/v1/sources", listen)
    page.check("#consent", force=True)
    text = b"not a picture"
    page.set_input_files("#photo", {"name": "me.png", "mimeType": "image/png", "buffer": text})
    message = page.locator("#photo-message")
    expect(message).to_have_attribute("data-kind", "error")
    expect(message).to_have_text(said[0])


def test_a_refused_camera_is_explained(browser: Browser, server_url: str) -> None:
    context = browser.new_context()  # Without a window nobody can allow the camera.
    page = _open(context.new_page(), server_url)
    page.click("#start")
    expect(page.locator("#help")).to_contain_text("The camera is blocked")
    expect(page.locator("#help")).to_contain_text("allow the camera")
    expect(page.locator("#start")).to_be_enabled()
    context.close()


def test_on_a_machine_that_is_too_slow_the_picture_gets_smaller_and_goes_on(
    browser: Browser,
) -> None:
    budget = ("--latency-budget-s", "0.005")  # less than tracking takes on any machine
    with run_server("--size-px", "512", "--steps", "0", *budget) as server:
        context = browser.new_context(permissions=["camera"])
        page = _open(context.new_page(), server.url)
        _go_live(page)
        width = "document.getElementById('avatar').videoWidth"
        shown = page.locator("#avatar").bounding_box()
        _wait_for_movement(page, lambda _: page.evaluate(width) == 256)
        _wait_for_movement(page, lambda by: by > MOVING)
        assert page.locator("#avatar").bounding_box() == shown, "on the page it is as large"
        context.close()
