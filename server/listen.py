"""How connections are taken: with TLS or without, how many, and how long a client may dawdle."""

from __future__ import annotations

import asyncio
import ssl
from typing import ClassVar, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.config import ServerConfig
from server.socket import SOCKET_OPTIONS

_MOST_CONNECTIONS: Final = 512  # the next request is answered 503
_SHUTDOWN_S: Final = 5


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on who does not finish the headers of a request in time.

    uvicorn gives up on an idle connection only after its first answer.
    """

    headers_within_s: ClassVar[float] = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self._start_waiting()

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._start_waiting()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over."""
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _start_waiting(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.headers_within_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """Return what TLS needs, None without a certificate.

    Raises:
        ValueError: the certificate and its key cannot be used.
    """
    if not config.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key or None)
    except OSError as error:  # ssl.SSLError is one
        files = f"{config.tls_cert} and {config.tls_key or 'no key'}"
        raise ValueError(f"there is no certificate with its key in {files}: {error}") from error
    return context


def uvicorn_config(app: ASGIApp, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """Return how uvicorn serves the application; it logs no requests, whose URLs are secrets."""
    return uvicorn.Config(
        app,
        http=PromptProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        **SOCKET_OPTIONS,
    )
