"""The real server over HTTP and WebRTC."""

import asyncio
import io
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from mimaface.model import load
from mimaface.types import Pixels
from mimaface.video import VideoReader
from server.config import ServerConfig
from server.services import offered_steps
from tests.page import Page, call
from tests.serving import serving

MAX_SESSIONS = 2
HUGE = b'{"source": "ada", "ttl_s": 1' + 400 * b"0" + b"}"  # more than a float holds


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # However slow the machine is, the tests get their sessions.
    with serving(
        ServerConfig(
            max_sessions=MAX_SESSIONS,
            size_px=256,
            steps=0,
            admission_fps=0,
            requests_per_min=10_000,
        )
    ) as url:
        yield url


@pytest.fixture
def session(client: httpx.Client, portrait: Path) -> Iterator[str]:
    """The URL of a session that is deleted afterwards."""
    created = client.post("/v1/sessions", json={"source": portrait.stem})
    assert created.status_code == 201
    yield created.json()["url"]
    client.delete(created.json()["url"])


@pytest.fixture(scope="module")
def driver(driving_clip: Path) -> list[Pixels]:
    with VideoReader(driving_clip) as video:
        return [rgb for _, rgb in video]


def error(response: httpx.Response) -> str:
    assert response.headers["Content-Type"] == "application/json"
    return str(response.json()["error"])


# The page


def test_the_page_and_its_parts_are_served_for_this_origin_alone(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:src|href)="(/client/[^"]+)"', page.text)
    assert parts
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for part in parts:
        served = client.get(part)
        assert served.status_code == 200
        assert served.headers["Content-Type"].startswith(kinds[Path(part).suffix])
        assert served.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/client/nothing.js",
        "/client/../pyproject.toml",
        "/client/%2e%2e/pyproject.toml",
        "/client//etc/passwd",
        "/v1/portraits/..%2f..%2ferrors.jpg",
        "/v1/portraits/nobody.jpg",
        "/v1/sources/nobody.jpg",
        "/v1/nothing",
    ],
)
def test_nothing_else_is_served(url: str, path: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as plain:  # a client would tidy the path
        plain.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_the_server_says_what_it_runs_and_that_it_does(client: httpx.Client) -> None:
    assert client.get("/v1/config").json() == {
        "model": "tiny",
        "size_px": 256,
        "fps": 30,
        "max_upload_bytes": 8 * 1024 * 1024,
        "is_recorded": False,
        "is_sent_on": False,
    }
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_the_figures_of_the_whole_server_are_there_for_prometheus(
    client: httpx.Client, session: str
) -> None:
    def read() -> dict[str, float]:
        told = client.get("/metrics")
        assert told.headers["Content-Type"].startswith("text/plain")
        assert session.rsplit("/", 1)[1] not in told.text
        lines = [line for line in told.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = read()
    assert before['avatar_sessions{state="waiting"}'] == 1
    assert before['avatar_quality_rung{fps="30",side="full",steps="0"}'] == 1
    assert before['avatar_model_info{name="tiny",precision="",size_px="256"}'] == 1
    ended = 'avatar_sessions_total{result="ended"}'
    client.delete(session)
    after = read()
    assert 'avatar_sessions{state="waiting"}' not in after
    assert after[ended] == before.get(ended, 0) + 1


def test_the_portraits_are_listed_with_their_pictures(
    client: httpx.Client, portraits: list[Path]
) -> None:
    listed = client.get("/v1/portraits").json()["portraits"]
    assert [each["id"] for each in listed] == [path.stem for path in portraits]
    assert [each["name"] for each in listed] == [path.stem.title() for path in portraits]
    for each, path in zip(listed, portraits, strict=True):
        picture = client.get(each["url"])
        assert picture.headers["Content-Type"] == "image/jpeg"
        assert picture.content == path.read_bytes()


def test_a_session_may_come_to_fewer_steps_but_not_to_more_than_were_set() -> None:
    model = load("tiny", size_px=256, weights="random")
    assert offered_steps(model, ServerConfig(steps=2)) == [2, 1, 0]
    assert offered_steps(load("tiny", weights="none"), ServerConfig(steps=0)) == [0]


# Uploads


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def upload(
    client: httpx.Client, photo: bytes, *, kind: str = "image/png", consent: str = "yes"
) -> httpx.Response:
    headers = {"Content-Type": kind, "X-Consent": consent}
    return client.post("/v1/sources", content=photo, headers=headers)


def test_an_uploaded_photo_can_be_driven_and_loses_its_metadata(
    client: httpx.Client, portrait: Path
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    photo = encoded(Image.open(portrait), "JPEG", exif=exif)
    assert b"where I live" in photo
    accepted = upload(client, photo, kind="image/jpeg")
    assert accepted.status_code == 201
    source = accepted.json()
    preview = client.get(source["url"])
    assert b"where I live" not in preview.content
    with Image.open(io.BytesIO(preview.content)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (source["width"], source["height"]) == (256, 256)
        assert not picture.getexif()
    created = client.post("/v1/sessions", json={"source": source["id"]})
    assert created.status_code == 201
    assert client.delete(created.json()["url"]).status_code == 204


def two_faces(portrait: Path) -> bytes:
    with Image.open(portrait) as face:
        pair = Image.new("RGB", (2 * face.width, face.height))
        pair.paste(face, (0, 0))
        pair.paste(face, (face.width, 0))
    return encoded(pair, "JPEG")


def small_face(portrait: Path) -> bytes:
    with Image.open(portrait) as face:
        wide = Image.new("RGB", (640, 480), (120, 120, 120))
        wide.paste(face.resize((180, 180 * face.height // face.width)), (230, 120))
    return encoded(wide, "JPEG")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: b"hello, this is text", "cannot be read"),
        (lambda _: b"", "cannot be read"),
        (lambda path: path.read_bytes()[: path.stat().st_size // 2], "cannot be read"),
        (lambda _: encoded(Image.new("RGB", (1, 1))), "no face"),
        (lambda _: encoded(Image.new("RGB", (400, 300), (90, 120, 90))), "no face"),
        (lambda _: encoded(Image.new("L", (4000, 2500))), "10.0 megapixels, at most 8"),
        (two_faces, "2 faces"),
        (small_face, "pixels high, at least 96"),
    ],
    ids=["text", "empty", "truncated", "1x1", "no face", "10 MP", "two faces", "small face"],
)
def test_a_photo_that_cannot_be_a_portrait_is_refused_with_a_reason(
    client: httpx.Client, portrait: Path, make: Callable[[Path], bytes], reason: str
) -> None:
    refused = upload(client, make(portrait))
    assert refused.status_code == 422
    assert reason in error(refused)


def test_a_photo_without_consent_is_refused(client: httpx.Client, portrait: Path) -> None:
    refused = upload(client, portrait.read_bytes(), consent="no")
    assert refused.status_code == 403
    assert "Confirm" in error(refused)


def test_another_type_of_file_is_refused(client: httpx.Client) -> None:
    refused = upload(client, b"GIF89a", kind="image/gif")
    assert refused.status_code == 415
    assert "JPEG, PNG or WebP" in error(refused)


def test_a_file_that_is_too_large_is_refused(client: httpx.Client) -> None:
    refused = upload(client, bytes(8 * 1024 * 1024 + 1))
    assert refused.status_code == 413
    assert "8,388,608 bytes" in error(refused)


# Sessions


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'"ada"', b'{"source": ["ada"]}', b"\xff", HUGE]
)
def test_a_session_needs_a_portrait(client: httpx.Client, body: bytes) -> None:
    refused = client.post("/v1/sessions", content=body)
    assert refused.status_code == 422
    assert "source" in error(refused)


def test_a_session_with_an_unknown_portrait_is_refused(client: httpx.Client) -> None:
    refused = client.post("/v1/sessions", json={"source": "nobody"})
    assert refused.status_code == 404
    assert "no such portrait" in error(refused)


def test_a_machine_that_is_too_slow_for_another_session_says_so(portrait: Path) -> None:
    config = ServerConfig(size_px=256, steps=0, admission_fps=1000)
    with serving(config) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/readyz").status_code == 200, "one session takes nothing from anybody"
        message = {"source": portrait.stem}
        first = client.post("/v1/sessions", json=message)
        assert first.status_code == 201
        refused = client.post("/v1/sessions", json=message)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "This machine holds 1 at a time" in error(refused)
        assert 'avatar_admission_rejected_total{reason="slow"}' in client.get("/metrics").text
        assert client.get("/readyz").status_code == 503
        client.delete(first.json()["url"])
        assert client.post("/v1/sessions", json=message).status_code == 201


def test_a_full_server_says_when_to_come_back(client: httpx.Client, portrait: Path) -> None:
    created = [
        client.post("/v1/sessions", json={"source": portrait.stem}) for _ in range(MAX_SESSIONS)
    ]
    refused = client.post("/v1/sessions", json={"source": portrait.stem})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "places are taken" in error(refused)
    assert 'avatar_admission_rejected_total{reason="full"}' in client.get("/metrics").text
    assert client.get("/readyz").status_code == 503
    for each in created:
        assert client.delete(each.json()["url"]).status_code == 204
    again = client.post("/v1/sessions", json={"source": portrait.stem})
    assert again.status_code == 201
    client.delete(again.json()["url"])


def test_a_deleted_session_is_gone_with_its_thread(client: httpx.Client, session: str) -> None:
    name = f"motion-{session.rsplit('/', 1)[1][:6]}"
    assert name in {thread.name for thread in threading.enumerate()}
    assert client.delete(session).status_code == 204
    assert name not in {thread.name for thread in threading.enumerate()}
    assert client.delete(session).status_code == 404
    assert client.get(f"{session}/stats").status_code == 404
    assert post_offer(client, session, "v=0").status_code == 404


def test_another_sites_page_may_change_nothing(
    client: httpx.Client, url: str, portrait: Path
) -> None:
    body = {"source": portrait.stem}
    for origin in ("https://elsewhere.example", "null", f"{url}0"):
        refused = client.post("/v1/sessions", json=body, headers={"Origin": origin})
        assert refused.status_code == 403
        assert "Another site" in error(refused)
    taken = client.post("/v1/sessions", json=body, headers={"Origin": url})
    assert taken.status_code == 201
    client.delete(taken.json()["url"], headers={"Origin": url})


def post_offer(
    client: httpx.Client, session: str, offer: str, kind: str = "application/sdp"
) -> httpx.Response:
    return client.post(f"{session}/rtc", content=offer, headers={"Content-Type": kind})


def test_an_unusable_offer_is_refused_and_the_session_stays(
    client: httpx.Client, session: str
) -> None:
    assert post_offer(client, session, "v=0", kind="text/plain").status_code == 415
    assert post_offer(client, session, "v=0" + "x" * 65536).status_code == 413
    refused = post_offer(client, session, "hello")
    assert refused.status_code == 422
    assert "not a session description" in error(refused)
    assert client.get(f"{session}/stats").json()["state"] == "waiting"


# Calls


def test_a_webcam_drives_a_portrait(url: str, session: str, driver: list[Pixels]) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        page = Page(driver)
        await page.call(client, session)
        still = await page.frame()
        assert still.shape == (256, 256, 3)
        await page.message(type="state", state="calibrating")
        await page.message(type="state", state="live")
        farthest = 0.0
        while farthest < 2.0:  # grey levels on average: the avatar moves
            farthest = max(farthest, np.abs((await page.frame()).astype(int) - still).mean())
        told = await page.message(type="stats")
        asked = (await client.get(f"{session}/stats")).json()
        assert told.keys() - {"type"} == asked.keys()
        assert (told["rung"], told["steps"], told["most_fps"]) == (0, 0, 30)
        assert told["fps"] > 0
        assert told["server_ms"]["p50"] > 0
        for stage in ("motion", "render"):
            assert 0 < told[f"{stage}_ms"]["p50"] <= told[f"{stage}_ms"]["p95"]
        assert "avatar_glass_seconds_count" in (await client.get("/metrics")).text
        await page.connection.close()

    call(url, script)


def test_a_second_offer_replaces_the_connection_and_keeps_the_session(
    url: str, session: str, driver: list[Pixels]
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        first, second = Page(driver), Page(driver)
        await first.call(client, session)
        await first.message(type="state", state="live")
        await second.call(client, session)
        await second.frame()
        await first.is_closed.wait()
        state = await second.message(type="state")  # the neutral is still known
        assert (state["state"] in ("live", "lost"), state["calibration"]) == (True, 1.0)
        await second.connection.close()
        await first.connection.close()

    call(url, script)


def test_of_two_offers_at_once_one_connection_stays(
    url: str, session: str, driver: list[Pixels]
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        pages = [Page(driver), Page(driver)]
        await asyncio.gather(*(page.call(client, session) for page in pages))
        live = [asyncio.create_task(page.message(type="state", state="live")) for page in pages]
        done, other = await asyncio.wait(live, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(other)) == (1, 1)
        replaced = pages[live.index(other.pop())]
        assert replaced.messages.empty()
        for page in pages:
            await page.connection.close()
        for task in live:
            task.cancel()

    call(url, script)


def test_deleting_a_session_hangs_up(url: str, session: str, driver: list[Pixels]) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        page = Page(driver)
        await page.call(client, session)
        await page.frame()
        assert (await client.delete(session)).status_code == 204
        await page.is_closed.wait()
        await page.connection.close()

    call(url, script)


# The command


def run_command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_command("--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1 port {port}: Address already in use. Choose another" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_cannot_do_the_steps_is_named() -> None:
    done = run_command("--model", "sd15", "--steps", "1", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model sd15 does 0 denoising steps, not 1: ")
    assert done.stderr.count("\n") == 1


def test_a_wrong_setting_is_named() -> None:
    done = run_command(MIMAFACE_FPS="500")
    assert done.returncode == 2
    assert "error: fps must be 1 to 60, found 500" in done.stderr
