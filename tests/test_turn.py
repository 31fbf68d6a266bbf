"""A driver who gets through by a real coturn alone, with credentials the server gave out."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamTrack
from playwright.sync_api import expect

from server.config import parse_config
from tests.browser_setup import find_chromium, run_browser
from tests.serving import serving

COTURN = shutil.which("turnserver")
SECRET = "shared by the server and coturn"

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(COTURN is None, reason="no coturn on this machine"),
]


@contextmanager
def relay(folder: Path) -> Iterator[int]:
    """Run coturn on this machine alone and yield its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    assert COTURN is not None
    command = [
        *(COTURN, "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-multicast-peers"),
        *("--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"),
        *("--listening-port", str(port), "--realm", "mimaface.example"),
        *("--use-auth-secret", "--static-auth-secret", SECRET),
        *("--userdb", str(folder / "db"), "--pidfile", str(folder / "pid")),
        *("--log-file", "stdout", "--simple-log", "--verbose"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                if "UDP listener opened on" in line:
                    break
            else:
                raise RuntimeError(f"coturn ended with status {process.wait()}")
            yield port
        finally:
            process.terminate()
            process.communicate()  # a full pipe would keep it from ending


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with relay(tmp_path_factory.mktemp("coturn")) as port:
        yield port


@contextmanager
def serving_with(secret: str, port: int, folder: Path) -> Iterator[str]:
    file = folder / "secret"
    file.write_text(f"{secret}\n")
    environ = {
        "MIMAFACE_ICE_URLS": f"turn:127.0.0.1:{port}?transport=udp",
        "MIMAFACE_TURN_SECRET_FILE": str(file),
        "MIMAFACE_ADMISSION_FPS": "0",
    }
    with serving(parse_config(["--size-px", "256", "--steps", "0"], environ)) as url:
        yield url


@pytest.fixture(scope="module")
def url(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_with(SECRET, port, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def impostor(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that does not know coturn's secret."""
    with serving_with("not what coturn has", port, tmp_path_factory.mktemp("impostor")) as url:
        yield url


class Driver:
    """A browser's side that uses relayed candidates alone."""

    def __init__(self, ice_servers: list[dict[str, Any]]) -> None:
        self.connection = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[RTCIceServer(**server) for server in ice_servers],
                iceTransportPolicy=RTCIceTransportPolicy.RELAY,
            )
        )
        self.avatar: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        self.connection.on("track", self.avatar.set_result)
        self.connection.addTransceiver(VideoStreamTrack(), direction="sendrecv")

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)


async def start(client: httpx.AsyncClient, portrait: Path) -> dict[str, Any]:
    created = await client.post("/v1/sessions", json={"source": portrait.stem})
    session: dict[str, Any] = created.raise_for_status().json()
    return session


def test_the_avatar_comes_through_a_relay(url: str, portrait: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=url, timeout=60) as client:
            session = await start(client, portrait)
            driver = Driver(session["ice_servers"])
            offer = await driver.offer()
            assert set(re.findall(r"a=candidate:.* typ (\S+)", offer)) == {"relay"}
            answer = await client.post(
                f"{session['url']}/rtc", content=offer, headers={"Content-Type": "application/sdp"}
            )
            description = RTCSessionDescription(answer.raise_for_status().text, "answer")
            await driver.connection.setRemoteDescription(description)
            track = await driver.avatar
            for _ in range(5):
                frame = await track.recv()
                assert isinstance(frame, av.VideoFrame)
                assert (frame.width, frame.height) == (256, 256)
            await driver.connection.close()
            await client.delete(session["url"])

    asyncio.run(main())


def test_a_relay_gives_nothing_for_the_credentials_of_another_secret(
    impostor: str, portrait: Path
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=impostor, timeout=60) as client:
            session = await start(client, portrait)
            driver = Driver(session["ice_servers"])
            assert "a=candidate:" not in await driver.offer()
            await driver.connection.close()
            await client.delete(session["url"])

    asyncio.run(main())


# In a browser

RELAY_ALONE = """
const { RTCPeerConnection } = window;
window.RTCPeerConnection = function (configuration) {
  return new RTCPeerConnection({ ...configuration, iceTransportPolicy: "relay" });
};
"""


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_a_page_goes_by_the_relay_and_by_websocket_when_that_refuses_it(
    url: str, impostor: str, webcam: Path
) -> None:
    with run_browser(webcam) as browser:
        for server, connection in ((url, "WebRTC"), (impostor, "WebSocket")):
            page = browser.new_context(permissions=["camera"]).new_page()
            page.add_init_script(RELAY_ALONE)
            page.goto(server)
            page.click("#start")
            page.wait_for_selector("#avatar-frame[data-is-moving]")
            page.click("#show-stats")
            expect(page.locator("#figures")).to_contain_text(f"Connection{connection}")
            page.click("#stop")
