"""The real server in a thread, and what is left of it afterwards."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from server.app import create_app
from server.config import ServerConfig
from server.listen import tls_context, uvicorn_config
from server.startup import load_model


class Server(uvicorn.Server):
    """Runs in a thread of its own."""

    def __init__(self, app: Any, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(uvicorn_config(app, tls))
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@contextmanager
def serving(config: ServerConfig) -> Iterator[str]:
    before = set(threading.enumerate())
    server = Server(create_app(config, load_model(config)), tls_context(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert server.is_up.wait(120)
        scheme = "https" if config.tls_cert else "http"
        try:
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()
    left = {each.name for each in threading.enumerate() if each not in before}
    assert not {name for name in left if name.startswith(("motion", "device", "worker"))}
