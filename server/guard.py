"""Protects the page: under which name, who may ask for changes, and what it may load.

WHIP and WHEP are for other sites too, if they are listed; CORS tells browsers so.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http import is_media_path, refusal

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


_HSTS: Final = f"max-age={365 * 24 * 3600}"
_UNKNOWN: Final = "This server does not go by that name. MIMAFACE_ALLOWED_HOSTS gives it one."
_FOREIGN: Final = "Another site's page may not do this."
_FAULT: Final = "The server failed. Its log says more."
_EXPOSED: Final = "Location, ETag, Link, Accept-Patch, Retry-After"
_METHODS: Final = ("OPTIONS", "GET", "HEAD", "POST", "PATCH", "DELETE")


class GuardMiddleware:
    """Refuses changes asked for by another origin's page and sets the security headers.

    A page of another site that gives its own name this server's address is of the same origin: so
    requests under a name that is not the server's are refused.
    """

    def __init__(
        self, app: ASGIApp, *, origins: frozenset[str], hosts: frozenset[str] | None
    ) -> None:
        """Let the pages of `origins` publish and watch.

        The server's names are `hosts`, localhost and its addresses; None leaves that to TLS, as a
        certificate is for names of its own.
        """
        self._app = app
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if not self._is_own_name(Headers(scope=scope)):
            await refusal(scope["path"], 421, _UNKNOWN)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            is_foreign = not _is_same_origin(Headers(scope=scope))
            handler = refusal(scope["path"], 403, _FOREIGN) if is_foreign else self._app
            await handler(scope, receive, send)
            return
        path, method, origin = scope["path"], scope["method"], Headers(scope=scope).get("Origin")
        is_media = is_media_path(path)
        is_welcome = _is_same_origin(Headers(scope=scope)) or (is_media and origin in self._origins)
        has_begun = False

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal has_begun
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = _HSTS
                if is_media:
                    headers["Vary"] = "Origin"
                    headers["Access-Control-Expose-Headers"] = _EXPOSED
                    if origin is not None and is_welcome:
                        headers["Access-Control-Allow-Origin"] = origin
                    known = method if method in _METHODS else "other"
                    scope["state"]["services"].metrics.count_whip(known, message["status"])
            await send(message)

        is_harmless = method in ("GET", "HEAD") or (is_media and method == "OPTIONS")
        handler = self._app if is_harmless or is_welcome else refusal(path, 403, _FOREIGN)
        try:
            await handler(scope, receive, send_guarded)
        except Exception:  # for the log, which the HTTP server writes
            if not has_begun:
                await refusal(path, 500, _FAULT)(scope, receive, send_guarded)
            raise

    def _is_own_name(self, headers: Headers) -> bool:
        host = headers.get("Host")
        if self._hosts is None or host is None:  # only browsers are led astray, and they name it
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name in self._hosts or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Headers) -> bool:
    # Only browsers send Origin; other clients carry nobody's rights by accident.
    origin = headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("Host")
    except ValueError:
        return False
