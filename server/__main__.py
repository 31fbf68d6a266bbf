"""Run the server: python -m server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import Final

import uvicorn

from mimaface.errors import MimafaceError
from mimaface.native_logs import hide_native_logs
from server.app import create_app
from server.config import ServerConfig, parse_config
from server.drain import Drain
from server.listen import tls_context, uvicorn_config
from server.memory import share_one_heap
from server.outputs import OutputError, check_outputs
from server.rtc_patches import apply_patches
from server.startup import load_model

_UNREAD_MS: Final = 20_000
# Who lets the interpreter go, as threads do while they compute, may wait so long for it then. With
# a tenth of it they take so many turns that fewer frames are made.
_SWITCH_S: Final = 0.001


class _Server(uvicorn.Server):
    """Says where the page is once it can be opened, and drains when it is to end."""

    def __init__(self, config: uvicorn.Config, drain: Drain, *, announcement: str) -> None:
        super().__init__(config)
        self._drain = drain
        self._announcement = announcement
        self._is_to_drain = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._announcement, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first SIGTERM; end at once at the second, or at an interrupt."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._is_to_drain:
            self.should_exit = True  # uvicorn's own way would end with the signal, not with 0
        else:
            self._is_to_drain = True

    async def on_tick(self, counter: int) -> bool:
        """Look whether to end."""
        if self._is_to_drain:
            self._drain.begin(asyncio.get_running_loop().time())
        return await super().on_tick(counter) or self._drain.is_over


def main() -> int:
    """Serve until interrupted; return the exit status."""
    share_one_heap()
    sys.setswitchinterval(_SWITCH_S)
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
    drain = Drain(config.drain_s)
    try:
        app = create_app(config, load_model(config), drain)
    except MimafaceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    announcement = _announcement(config, listener.getsockname()[1])
    server = _Server(uvicorn_config(app, tls), drain, announcement=announcement)
    try:
        server.run([listener])
    except KeyboardInterrupt:  # uvicorn passes it on once it has ended
        return 130
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
