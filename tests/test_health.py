"""What machines ask of the server."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx

from server.config import ServerConfig
from server.health_check import is_alive
from tests.serving import serving


def test_a_load_balancer_learns_how_much_room_there_is(portrait: Path) -> None:
    config = ServerConfig(size_px=256, steps=0, max_sessions=2, admission_fps=0)
    with serving(config) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert is_alive(url)

        def told() -> tuple[int, dict[str, float], int]:
            answer = client.get("/availability")
            return answer.status_code, answer.json(), client.get("/readyz").status_code

        seen = [told()]
        for _ in range(2):
            assert client.post("/v1/sessions", json={"source": portrait.stem}).status_code == 201
            seen.append(told())
    assert seen == [
        (200, {"sessions": 0, "free": 2, "load": 0.0}, 200),
        (200, {"sessions": 1, "free": 1, "load": 0.5}, 200),
        (503, {"sessions": 2, "free": 0, "load": 1.0}, 503),
    ]


def test_the_health_check_fails_where_no_server_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}"):
            assert not is_alive(url)
    command = [sys.executable, "-m", "server.health_check", f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=False, timeout=60)
    assert done.returncode == 1
