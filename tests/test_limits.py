"""How much one address may ask."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

from server.config import ServerConfig
from server.limits import address_of
from tests.serving import serving


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_one_subscriber_has_one_address(host: str, address: str) -> None:
    assert address_of(Request({"type": "http", "client": (host, 50_000)})) == address
    assert address_of(Request({"type": "http", "client": None})) == ""


def test_one_address_has_so_many_sessions_and_requests(portrait: Path) -> None:
    config = ServerConfig(
        size_px=256, steps=0, admission_fps=0, max_sessions_per_address=1, requests_per_min=4
    )
    with serving(config) as url, httpx.Client(base_url=url, timeout=60) as client:

        def start() -> httpx.Response:
            return client.post("/v1/sessions", json={"source": portrait.stem})

        def refused(send: Callable[[], httpx.Response], reason: str) -> None:
            answer = send()
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) > 0
            assert reason in answer.json()["error"]

        first = start()
        assert first.status_code == 201
        refused(start, "as many calls as one address may have")
        assert client.delete(first.json()["url"]).status_code == 204
        assert start().status_code == 201
        assert start().status_code == 429
        refused(start, "too many requests")
        assert (
            'avatar_admission_rejected_total{reason="address"} 2.0' in client.get("/metrics").text
        )
        for _ in range(4):
            assert client.post("/v1/sources").status_code == 403, "uploads count apart"
        refused(lambda: client.post("/v1/sources"), "too many requests")
        for _ in range(3):
            assert client.delete("/v1/sessions/x").status_code == 404
        refused(lambda: client.delete("/v1/sessions/x"), "too many requests")
