"""A real Chromium's microphone: off until it is wanted, then heard by who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_setup import find_chromium, run_server

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

# Energy of two seconds: of the beeps of Chromium's microphone, or of none.
HEARD, SILENT = 1e-3, 1e-4

VIEWER = """
/** Watch this page's call as somebody else would. */
window.watch = async () => {
  const overlay = new URL(document.getElementById("overlay-url").value);
  window.viewer = new RTCPeerConnection();
  for (const kind of ["audio", "video"]) viewer.addTransceiver(kind, { direction: "recvonly" });
  await viewer.setLocalDescription();
  while (viewer.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      viewer.addEventListener("icegatheringstatechange", resolve, { once: true });
    });
  }
  const token = overlay.hash.replace("#t=", "");
  const answer = await fetch(`/v1/whep/${overlay.searchParams.get("session")}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/sdp" },
    body: viewer.localDescription.sdp,
  });
  await viewer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  window.ear = new Audio();
  ear.srcObject = new MediaStream([viewer.getReceivers()[0].track]);
  await ear.play();
};
/** Listen for some packets of 20 ms; the energy they add. */
window.loudness = async (packets) => {
  const read = async () =>
    [...(await viewer.getStats()).values()].find(
      ({ type, kind }) => type === "inbound-rtp" && kind === "audio",
    ) ?? { packetsReceived: 0, totalAudioEnergy: 0 };
  const first = await read();
  let last = first;
  while (last.packetsReceived < first.packetsReceived + packets) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    last = await read();
  }
  return last.totalAudioEnergy - first.totalAudioEnergy;
};
"""


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("recordings")
    options = ("--size-px", "256", "--steps", "0", "--record", str(folder))
    with run_server(*options, MIMAFACE_ADMISSION_FPS="0") as server:  # however slow the machine is
        yield server.url


def go_live(browser: Browser, url: str, *permissions: str) -> Page:
    page = browser.new_context(permissions=permissions).new_page()
    page.add_init_script(VIEWER)
    page.goto(url)
    expect(page.locator("#start")).to_be_enabled()
    page.click("#start")
    expect(page.locator("#status")).to_have_text("Live")
    return page


def wait_for_loudness(page: Page, is_right: Callable[[float], bool]) -> None:
    """Return once two seconds are as loud as they should; some sound may still be on its way."""
    heard = []
    for _ in range(10):
        heard.append(page.evaluate("loudness(100)"))
        if is_right(heard[-1]):
            return
    raise AssertionError(f"the energy of the sound was {heard}")


def test_the_voice_is_heard_while_the_microphone_is_on_and_the_call_not_paused(
    browser: Browser, server_url: str
) -> None:
    page = go_live(browser, server_url, "camera", "microphone")
    microphone = page.get_by_role("button", name="Microphone")
    expect(microphone).to_have_attribute("aria-pressed", "false")
    page.evaluate("watch()")
    assert page.evaluate("loudness(100)") < SILENT
    page.keyboard.press("m")
    expect(microphone).to_have_attribute("aria-pressed", "true")
    wait_for_loudness(page, lambda energy: energy > HEARD)
    page.keyboard.press("p")
    wait_for_loudness(page, lambda energy: energy < SILENT)
    page.keyboard.press("p")
    wait_for_loudness(page, lambda energy: energy > HEARD)
    microphone.click()
    expect(microphone).to_have_attribute("aria-pressed", "false")
    wait_for_loudness(page, lambda energy: energy < SILENT)
    page.context.close()


def test_a_microphone_that_is_not_allowed_stays_off_and_the_call_goes_on(
    browser: Browser, server_url: str
) -> None:
    page = go_live(browser, server_url, "camera")
    microphone = page.get_by_role("button", name="Microphone")
    microphone.click()
    expect(page.get_by_role("alert")).to_contain_text("The microphone is blocked")
    expect(microphone).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#status")).to_have_text("Live")
    page.context.close()


def test_a_person_is_told_that_the_server_records(browser: Browser, server_url: str) -> None:
    page = browser.new_page()
    page.goto(server_url)
    expect(page.locator("#kept")).to_have_text("The avatar and your voice are recorded here.")
    page.close()
