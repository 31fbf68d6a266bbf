"""Run the server: python -m server."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Final

import uvicorn

from mimaface.errors import MimafaceError
from mimaface.native_logs import hide_native_logs
from server.app import create_app
from server.config import ServerConfig, parse_config
from server.listen import tls_context, uvicorn_config
from server.outputs import OutputError, check_outputs
from server.rtc_patches import apply_patches
from server.services import load_model

_UNREAD_MS: Final = 20_000


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
        tls = tls_context(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        check_outputs(config)
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: connections inherit it
        # Who reads nothing any more would hold a connection, and what is to be sent, for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("aiortc").setLevel(logging.WARNING)
    logging.getLogger("aioice").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # tells whole addresses, secrets and all
    apply_patches()
    print("Loading the model ...", flush=True)
    try:
        app = create_app(config, load_model(config))
    except MimafaceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    server = _Server(uvicorn_config(app, tls))
    server.announcement = _announcement(config, listener.getsockname()[1])
    server.run([listener])
    return 0 if server.started else 1


def _announcement(config: ServerConfig, port: int) -> str:
    local = f"Open {'https' if config.tls_cert else 'http'}://localhost:{port} in a browser."
    if config.is_local or config.tls_cert:
        return local
    return (
        f"{local}\nOther machines can reach this server as well, but a browser gives the camera "
        "to a page from elsewhere only over HTTPS: put a TLS proxy in front."
    )


if __name__ == "__main__":
    hide_native_logs()
    sys.exit(main())
