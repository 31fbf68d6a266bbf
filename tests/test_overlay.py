"""A real Chromium shows the overlay of a real server, as OBS does: what is seen, and what not."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from mimaface.animate import animate, encode_source
from mimaface.model import load
from mimaface.types import ClipRequest, Motion, Pixels, Reals
from server.alpha import Form, shape
from streaming.types import AvatarFrame
from tests.browser_setup import find_chromium, run_browser, run_server

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

SIZE_PX = 512
MOST_ERROR = 4.0  # levels of 255, mean along the edge
SDP = "application/sdp"

FRAMES = """(frames) => new Promise((resolve) => {
  const count = () => (frames-- > 0 ? requestAnimationFrame(count) : resolve());
  count();
})"""


@dataclass(frozen=True)
class Truth:
    """What the server sends of an avatar at rest, before a codec touches it."""

    person: Reals  # [S, S, 3], premultiplied, 0 to 255
    matte: Pixels  # [S, S]

    @property
    def edge(self) -> Pixels:
        """Where the matte is neither nothing nor full, and two pixels around."""
        partly = ((self.matte > 0) & (self.matte < 255)).astype(np.uint8)
        return cv2.dilate(partly, np.ones((5, 5))) > 0

    def over(self, *colour: int) -> Reals:
        return self.person + (1 - self.matte[..., None] / 255) * np.array(colour)


@pytest.fixture(scope="module")
def truth(portrait: Path) -> Truth:
    model = load("tiny", size_px=SIZE_PX, weights="none")
    source = encode_source(model, portrait)
    rest = replace(Motion.missing(0.0), is_relative=True)
    [clip] = animate(model, [ClipRequest(appearance=source, motion=rest)])
    assert source.cutout is not None
    assert clip.matte is not None
    cutout = replace(source.cutout, matte=clip.matte[0])
    frame = AvatarFrame(time_s=0.0, pixels=clip.pixels[0], cutout=cutout)
    person = shape(frame, Form(alpha="sbs"))[:, :SIZE_PX]
    return Truth(person=person.astype(float), matte=clip.matte[0])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_server("--size-px", str(SIZE_PX), "--steps", "0") as server:
        yield server.url


@pytest.fixture(scope="module")
def browser(webcam: Path) -> Iterator[Browser]:
    # Without a GPU, Chromium has WebGL only if it is told to compute it.
    with run_browser(webcam, "--enable-unsafe-swiftshader") as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser source as large as the avatar."""
    context = browser.new_context(viewport={"width": SIZE_PX, "height": SIZE_PX})
    yield context.new_page()
    context.close()


@pytest.fixture
def session(url: str, portrait: Path) -> Iterator[dict[str, Any]]:
    """A call whose driver shows no face, so that the avatar rests."""
    created = httpx.post(f"{url}/v1/sessions", json={"source": portrait.stem}).json()
    with faceless_driver(url, created):
        yield created
    httpx.delete(url + created["url"])


@contextmanager
def faceless_driver(url: str, session: dict[str, Any]) -> Iterator[None]:
    """Publish a picture without a face over WHIP, from a thread of its own."""
    loop = asyncio.new_event_loop()
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    is_connected = threading.Event()

    @connection.on("connectionstatechange")
    def follow() -> None:
        if connection.connectionState == "connected":
            is_connected.set()

    async def publish() -> None:
        connection.addTransceiver(VideoStreamTrack(), direction="sendonly")
        await connection.setLocalDescription(await connection.createOffer())
        token = session["tokens"]["publish"]
        async with httpx.AsyncClient(base_url=url) as client:
            answered = await client.post(
                session["whip_url"],
                content=connection.localDescription.sdp,
                headers={"Authorization": f"Bearer {token}", "Content-Type": SDP},
            )
        assert answered.status_code == 201, answered.text
        await connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(publish(), loop).result(20)
        assert is_connected.wait(20)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(connection.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def show(page: Page, url: str, session: dict[str, Any], query: str = "") -> None:
    """Open the overlay, and return when the avatar is there."""
    page.goto(f"{url}/overlay?session={session['public_id']}{query}#t={session['tokens']['watch']}")
    expect(page.locator("#avatar")).to_be_visible()


def shot(page: Page, *, is_transparent: bool = False) -> Reals:
    png = page.screenshot(omit_background=is_transparent)
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGBA" if is_transparent else "RGB")).astype(float)


def settled(page: Page, expected: Reals, where: Pixels, *, channels: slice) -> float:
    """Return the mean error there, once the codec has had the time to sharpen what rests."""
    errors = []
    for _ in range(20):
        page.evaluate(FRAMES, 30)
        found = shot(page, is_transparent=channels == ALPHA)[..., channels]
        errors.append(float(np.abs(found - expected)[where].mean()))
        if errors[-1] <= MOST_ERROR:
            return errors[-1]
    raise AssertionError(f"the error along the edge was {errors}")


RGB, ALPHA = slice(0, 3), slice(3, 4)


@pytest.mark.parametrize("colour", [(255, 0, 255), (255, 255, 255), (0, 0, 0)])
def test_the_avatar_over_a_coloured_page_is_the_person_over_that_colour(
    page: Page, url: str, session: dict[str, Any], truth: Truth, colour: tuple[int, int, int]
) -> None:
    show(page, url, session, f"&bg=rgb{colour}".replace(" ", ""))
    settled(page, truth.over(*colour), truth.edge, channels=RGB)
    found = shot(page)
    assert (found[truth.matte == 0] == colour).mean() > 0.99
    for corner in (found[0, 0], found[0, -1]):
        assert tuple(corner) == colour


def test_obs_gets_the_servers_matte_as_transparency(
    page: Page, url: str, session: dict[str, Any], truth: Truth
) -> None:
    show(page, url, session)
    settled(page, truth.matte[..., None], truth.edge, channels=ALPHA)
    alpha = shot(page, is_transparent=True)[..., 3]
    assert alpha[truth.matte == 0].mean() < 0.5
    assert alpha[(truth.matte == 255) & ~truth.edge].mean() > 254


def test_it_comes_back_after_the_graphics_context_was_lost(
    page: Page, url: str, session: dict[str, Any], truth: Truth
) -> None:
    show(page, url, session)
    page.evaluate(
        """() => {
          const gl = document.getElementById("avatar").getContext("webgl2");
          window.lost = gl.getExtension("WEBGL_lose_context");
          lost.loseContext();
        }"""
    )
    page.evaluate(FRAMES, 5)
    page.evaluate("lost.restoreContext()")
    settled(page, truth.matte[..., None], truth.edge, channels=ALPHA)


def test_a_key_fills_the_background_with_one_colour(
    page: Page, url: str, session: dict[str, Any], truth: Truth
) -> None:
    show(page, url, session, "&alpha=key&chroma=0000ff")
    page.evaluate(FRAMES, 30)
    found = shot(page)
    np.testing.assert_allclose(found[:40, :40], np.broadcast_to((0, 0, 255), (40, 40, 3)), atol=16)
    inner = (truth.matte == 255) & ~truth.edge
    assert np.abs(found - truth.person)[inner].mean() < 12


def test_without_alpha_the_avatar_keeps_its_background(
    page: Page, url: str, session: dict[str, Any], portrait: Path
) -> None:
    show(page, url, session, "&alpha=none&bg=magenta")
    page.evaluate(FRAMES, 30)
    found = shot(page)
    with Image.open(portrait) as picture:
        wall = np.asarray(picture.convert("RGB"))[:20, :20].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(found[:20, :20].reshape(-1, 3).mean(axis=0), wall, atol=12)


def test_a_mirrored_avatar_in_a_wide_source_is_in_the_middle(
    page: Page, url: str, session: dict[str, Any], truth: Truth
) -> None:
    page.set_viewport_size({"width": 2 * SIZE_PX, "height": SIZE_PX})
    show(page, url, session, "&mirror=1")
    page.evaluate(FRAMES, 30)
    alpha = shot(page, is_transparent=True)[..., 3]
    assert alpha[:, : SIZE_PX // 2].max() == 0
    assert alpha[:, 3 * SIZE_PX // 2 :].max() == 0
    middle = alpha[:, SIZE_PX // 2 : 3 * SIZE_PX // 2]
    plain, mirrored = (np.abs(middle - m).mean() for m in (truth.matte, truth.matte[:, ::-1]))
    assert mirrored < plain / 2


def test_it_hides_when_the_avatar_has_gone_and_says_nothing(
    page: Page, url: str, session: dict[str, Any]
) -> None:
    show(page, url, session)
    httpx.delete(url + session["url"]).raise_for_status()
    expect(page.locator("#avatar")).to_be_hidden()
    assert not shot(page, is_transparent=True).any()
    assert page.inner_text("body").strip() == ""


def test_it_keeps_the_last_frame_where_that_was_asked_for(
    page: Page, url: str, session: dict[str, Any], truth: Truth
) -> None:
    show(page, url, session, "&fallback=freeze")
    settled(page, truth.matte[..., None], truth.edge, channels=ALPHA)
    with page.expect_response(lambda answer: answer.status == 404):
        httpx.delete(url + session["url"]).raise_for_status()
    settled(page, truth.matte[..., None], truth.edge, channels=ALPHA)


def test_it_shows_a_picture_while_there_is_no_avatar(page: Page, url: str, portrait: Path) -> None:
    session = httpx.post(f"{url}/v1/sessions", json={"source": portrait.stem}).json()
    picture = f"/v1/portraits/{portrait.stem}.jpg"
    query = f"?session={session['public_id']}&fallback=image&image={picture}"
    page.goto(f"{url}/overlay{query}#t={session['tokens']['watch']}")
    expect(page.locator("#image")).to_be_visible()
    with faceless_driver(url, session):  # Whoever waits need not be told.
        expect(page.locator("#avatar")).to_be_visible()
        expect(page.locator("#image")).to_be_hidden()
    httpx.delete(url + session["url"])


def test_a_viewer_that_leaves_frees_its_place(
    page: Page, url: str, session: dict[str, Any]
) -> None:
    with page.expect_response(lambda answer: answer.request.method == "POST") as created:
        show(page, url, session)
    leg = created.value.headers["location"]
    assert "?" not in leg
    page.goto("about:blank")
    token = session["tokens"]["watch"]
    gone = httpx.get(url + leg, headers={"Authorization": f"Bearer {token}"})
    assert gone.status_code == 404


def test_a_model_without_a_matte_is_shown_with_its_background(
    page: Page, url: str, session: dict[str, Any]
) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    problem = {"status": 422, "detail": "There is only alpha=none."}

    def refuse(route: Route) -> None:
        kind = "application/problem+json"
        if route.request.method == "POST":
            route.fulfill(status=422, content_type=kind, json=problem)
        else:
            route.continue_()

    page.route("**/v1/whep/*?alpha=sbs*", refuse)
    show(page, url, session)
    assert "alpha=none" in page.url
    assert f"{problem['detail']} The avatar is shown with its background." in said


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("", "session must be the id of a call."),
        ("?session=someone", "token must be a token to watch it, as #t=."),
        ("?session=someone&alpha=left#t=x", "alpha must be sbs or key or none, found “left”."),
        ("?session=someone&bg=reddish#t=x", "bg must be a CSS colour."),
        ("?session=someone&buffer=9999#t=x", "buffer must be 0 to 4000 milliseconds."),
        ("?session=someone&mirorr=1#t=x", "There is no parameter mirorr."),
        ("?session=someone#t=x", "This token was not issued here."),
    ],
)
def test_a_mistake_in_the_address_is_one_line_and_nothing_else(
    page: Page, url: str, address: str, line: str
) -> None:
    page.goto(f"{url}/overlay{address}")
    expect(page.locator("#message")).to_have_text(line)
    assert page.inner_text("body").strip() == line


def test_a_browser_without_webgl_is_told(page: Page, url: str) -> None:
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"{url}/overlay?session=someone#t=x")
    expect(page.locator("#message")).to_contain_text("use alpha=key")


@pytest.mark.parametrize("query", ["?alpha=left", "?alpha=key&chroma=green"])
def test_a_form_that_there_is_not_is_refused(url: str, session: dict[str, Any], query: str) -> None:
    headers = {"Authorization": f"Bearer {session['tokens']['watch']}", "Content-Type": SDP}
    refused = httpx.post(url + session["whep_url"] + query, content="v=0", headers=headers)
    assert refused.status_code == 422
    assert "must be" in refused.json()["detail"]


def test_the_page_gives_the_address_that_shows_its_moving_avatar(
    browser: Browser, page: Page, url: str
) -> None:
    caller = browser.new_context(permissions=["camera"]).new_page()
    caller.goto(url)
    caller.click("#start")
    expect(caller.locator("#status")).to_have_text("Live")
    page.goto(caller.input_value("#overlay-url"))
    expect(page.locator("#avatar")).to_be_visible()
    first, moved = shot(page, is_transparent=True), [0.0]
    while moved[-1] < 1:
        assert len(moved) < 40, f"the avatar moved by {moved}"
        page.evaluate(FRAMES, 15)
        now = shot(page, is_transparent=True)
        assert now[0, 0, 3] == 0
        moved.append(float(np.abs(now - first).mean()))
    caller.click("#stop")
    expect(page.locator("#avatar")).to_be_hidden()
    caller.context.close()
