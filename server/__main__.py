"""Run the server: python -m server."""

from __future__ import annotations

import logging
import os
import socket
import sys

import uvicorn

from mimaface.errors import MimafaceError
from mimaface.native_logs import hide_native_logs
from server.app import create_app
from server.config import parse_config
from server.rtc_patches import apply_patches
from server.services import load_model


class _Server(uvicorn.Server):
    """Says where the page is once it can be opened."""

    announcement = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.announcement, flush=True)


def main() -> int:
    """Serve until interrupted; return the exit status."""
    try:
        config = parse_config(sys.argv[1:], os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # its own text adds the address a second time
        print(
            f"error: cannot listen on {config.host} port {config.port}: {reason}. "
            "Choose another one with --port.",
            file=sys.stderr,
        )
        return 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiortc").setLevel(logging.WARNING)
    logging.getLogger("aioice").setLevel(logging.WARNING)
    apply_patches()
    print("Loading the model ...", flush=True)
    try:
        app = create_app(config, load_model(config))
    except MimafaceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    server = _Server(
        uvicorn.Config(
            app, ws="websockets-sansio", log_level="warning", timeout_graceful_shutdown=5
        )
    )
    server.announcement = _announcement(config.host, listener.getsockname()[1])
    server.run([listener])
    return 0 if server.started else 1


def _announcement(host: str, port: int) -> str:
    local = f"Open http://localhost:{port} in a browser."
    if host in ("127.0.0.1", "::1"):
        return local
    return (
        f"{local}\nOther machines can reach this server as well, but a browser gives the camera "
        "to a page from elsewhere only over HTTPS: put a TLS proxy in front."
    )


if __name__ == "__main__":
    hide_native_logs()
    sys.exit(main())
