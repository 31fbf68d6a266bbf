"""What a whole call leaves in the log, and what it does not."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from mimaface.video import VideoReader
from server.config import ServerConfig
from tests.page import Page
from tests.serving import serving
from tests.test_whip import Caller, headers

SECRET = "a secret that the tests know as well"


def test_neither_log_nor_metrics_hold_a_secret_or_an_address(
    portrait: Path, driving_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with VideoReader(driving_clip) as video:
        driver = [rgb for _, rgb in video]
    secrets: set[str] = set()

    async def main(url: str) -> str:
        async with asyncio.timeout(120), httpx.AsyncClient(base_url=url, timeout=60) as client:
            created = await client.post("/v1/sessions", json={"source": portrait.stem})
            session = created.json()
            secrets.update(session["tokens"].values(), (session["id"], session["public_id"]))
            secrets.update(server.get("credential", "") for server in session["ice_servers"])
            page = Page(driver)
            await page.call(client, session["url"])
            await page.message(type="state", state="live")
            viewer = Caller("recvonly", "video")
            watched = await viewer.call(client, session["whep_url"], session["tokens"]["watch"])
            await viewer.is_connected.wait()
            secrets.add(watched.headers["Location"].rsplit("/", 1)[1])
            for description in (
                page.connection.localDescription,
                page.connection.remoteDescription,
                viewer.connection.remoteDescription,
            ):
                for line in description.sdp.splitlines():
                    if line.startswith(("a=ice-pwd:", "a=fingerprint:")):
                        secrets.add(line.partition(":")[2].strip())
                    if line.startswith("a=candidate:"):
                        secrets.add(line.split()[4])
            for token in ("nonsense-token", session["tokens"]["watch"][:-1]):
                secrets.add(token)
                await client.post(session["whip_url"], content=b"", headers=headers(token))
            spoilt = page.connection.remoteDescription.sdp.replace("a=mid:", "a=x:")
            await client.post(
                f"{session['url']}/rtc", content=spoilt, headers={"Content-Type": "application/sdp"}
            )
            told = (await client.get("/metrics")).text
            await client.delete(session["url"])
            await viewer.connection.close()
            await page.connection.close()
            return told

    config = ServerConfig(
        size_px=256,
        steps=0,
        admission_fps=0,
        token_secret=SECRET,
        turn_secret="shared with coturn",
        ice_urls="turn:turn.example:3478",
    )
    own = ("server", "streaming", "mimaface", "uvicorn")
    uvicorn_log = logging.getLogger("uvicorn")  # hands nothing on to the root's
    with caplog.at_level(logging.DEBUG), serving(config) as url:
        uvicorn_log.addHandler(caplog.handler)
        levels = {name: logging.getLogger(name).level for name in (*own, "uvicorn.error")}
        for name in levels:
            logging.getLogger(name).setLevel(logging.DEBUG)
        metrics = asyncio.run(main(url))
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        uvicorn_log.removeHandler(caplog.handler)
    told = [
        record.getMessage() + (record.exc_text or "")
        for record in caplog.records
        if record.name.partition(".")[0] in own
    ]
    assert any("ended" in line for line in told), "the log was looked at"
    secrets |= {SECRET, "shared with coturn"}
    secrets -= {""}
    assert len(secrets) > 12
    for secret in secrets:
        assert not [line for line in told if secret in line], secret
        assert secret not in metrics, secret
