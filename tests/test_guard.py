"""Under which names the server answers, to whose pages, and with which headers."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.guard import GuardMiddleware

OWN = "avatars.example"


async def page(_request: Request) -> Response:
    return PlainTextResponse("welcome")


async def fail(_request: Request) -> Response:
    raise RuntimeError("a fault")


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


def client(url: str, hosts: frozenset[str] | None = frozenset({OWN})) -> TestClient:
    app = Starlette(
        routes=[
            Route("/", page, methods=["GET", "POST"]),
            Route("/fault", fail),
            WebSocketRoute("/socket", greet),
        ],
        middleware=[Middleware(GuardMiddleware, origins=frozenset(), hosts=hosts)],
    )
    return TestClient(app, base_url=url, raise_server_exceptions=False)


def test_a_fault_is_answered_with_the_headers_of_every_answer() -> None:
    answered = client("http://localhost").get("/fault")
    assert answered.status_code == 500
    assert answered.json() == {"error": "The server failed. Its log says more."}
    assert answered.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.168.1.7",
        OWN,
        OWN.upper(),
    ],
)
def test_the_server_answers_to_its_names_and_addresses(host: str) -> None:
    assert client("http://localhost").get("/", headers={"Host": host}).text == "welcome"


@pytest.mark.parametrize(
    "host", ["evil.example", f"{OWN}.evil.example", "localhost.evil", "", "[x"]
)
def test_a_page_that_gives_its_own_name_the_servers_address_gets_nothing(host: str) -> None:
    own = {"Host": host, "Origin": f"http://{host}"}
    for method in ("GET", "POST"):
        refused = client("http://localhost").request(method, "/", headers=own)
        assert refused.status_code == 421
        assert "MIMAFACE_ALLOWED_HOSTS" in refused.json()["error"]
    with (
        pytest.raises(WebSocketDisconnect),
        client("http://localhost").websocket_connect("/socket", headers=own),
    ):
        pass


def test_with_tls_the_certificate_says_the_names() -> None:
    shown = client("https://any.example", hosts=None).get("/")
    assert shown.status_code == 200
    assert shown.headers["Strict-Transport-Security"] == "max-age=31536000"
    plain = client("http://localhost").get("/")
    assert "Strict-Transport-Security" not in plain.headers


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil.example", "http://["]
)
def test_another_sites_page_may_look_but_neither_change_nor_open_a_socket(origin: str) -> None:
    given = {"Origin": origin, "Host": "localhost"}
    assert client("http://localhost").get("/", headers=given).status_code == 200
    assert client("http://localhost").post("/", headers=given).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client("http://localhost").websocket_connect("/socket", headers=given),
    ):
        pass


def test_the_own_page_and_programs_that_are_no_browsers_may_do_both() -> None:
    for given in ({"Host": "localhost", "Origin": "http://localhost"}, {"Host": "localhost"}):
        assert client("http://localhost").post("/", headers=given).status_code == 200
        with client("http://localhost").websocket_connect("/socket", headers=given):
            pass
