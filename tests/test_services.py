"""Sessions that go on under the name of an earlier one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mimaface.video import VideoReader
from server.config import ServerConfig
from tests.page import Page, call
from tests.serving import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    config = ServerConfig(size_px=256, steps=0, admission_fps=0, requests_per_min=10_000)
    with serving(config) as url:
        yield url


def start_session(client: httpx.Client, portrait: Path, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/sessions", json={"source": portrait.stem} | more)
    assert answer.status_code == 201, answer.text
    started: dict[str, Any] = answer.json()
    return started


def test_a_session_is_continued_under_its_public_id_by_who_controls_it(
    client: httpx.Client, portrait: Path
) -> None:
    first = start_session(client, portrait)
    tokens = first["tokens"]
    client.delete(first["url"]).raise_for_status()
    watcher = {"Authorization": f"Bearer {tokens['watch']}"}
    assert client.options(first["whep_url"], headers=watcher).status_code == 404

    second = start_session(client, portrait, continues=tokens["control"])
    assert second["public_id"] == first["public_id"]
    assert second["id"] != first["id"], "the capability is a new one"
    assert client.options(first["whep_url"], headers=watcher).status_code == 200

    third = start_session(client, portrait, continues=tokens["control"])
    assert third["public_id"] == first["public_id"]
    assert client.get(f"{second['url']}/stats").status_code == 404, "nobody drove it: it ended"
    client.delete(third["url"]).raise_for_status()


@pytest.mark.parametrize("token", ["watch", "no token", ""])
def test_a_session_is_not_continued_with_anything_but_its_control_token(
    client: httpx.Client, portrait: Path, token: str
) -> None:
    first = start_session(client, portrait)
    second = start_session(client, portrait, continues=first["tokens"].get(token, token))
    assert second["public_id"] != first["public_id"]
    for each in (first, second):
        client.delete(each["url"]).raise_for_status()


def test_a_session_that_is_driven_is_not_taken_over(
    url: str, portrait: Path, driving_clip: Path
) -> None:
    with VideoReader(driving_clip) as video:
        driver = [rgb for _, rgb in video]

    async def script(client: httpx.AsyncClient) -> None:
        wanted = {"source": portrait.stem}
        first = (await client.post("/v1/sessions", json=wanted)).json()
        page = Page(driver)
        await page.call(client, first["url"])
        await page.frame()
        wanted["continues"] = first["tokens"]["control"]
        second = (await client.post("/v1/sessions", json=wanted)).json()
        assert second["public_id"] != first["public_id"]
        await page.frame()
        await page.connection.close()
        for each in (first, second):
            (await client.delete(each["url"])).raise_for_status()

    call(url, script)


def test_the_ice_servers_of_a_session_can_be_asked_for_again(
    client: httpx.Client, portrait: Path
) -> None:
    session = start_session(client, portrait)
    assert client.get(f"{session['url']}/ice").json() == {"ice_servers": session["ice_servers"]}
    client.delete(session["url"]).raise_for_status()
    assert client.get(f"{session['url']}/ice").status_code == 404
