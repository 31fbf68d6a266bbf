"""Protects the page: who may ask for changes, and what it may load.

WHIP and WHEP are for other sites too, if they are listed; CORS tells browsers so.
"""

from __future__ import annotations

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


_EXPOSED: Final = "Location, ETag, Link, Accept-Patch, Retry-After"
_METHODS: Final = ("OPTIONS", "GET", "HEAD", "POST", "PATCH", "DELETE")


class GuardMiddleware:
    """Refuses changes asked for by another origin's page and sets the security headers."""

    def __init__(self, app: ASGIApp, *, origins: frozenset[str]) -> None:
        """Let the pages of `origins` publish and watch."""
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method, origin = scope["path"], scope["method"], Headers(scope=scope).get("Origin")
        is_media = is_media_path(path)
        is_welcome = _is_same_origin(Headers(scope=scope)) or (is_media and origin in self._origins)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if is_media:
                    headers["Vary"] = "Origin"
                    headers["Access-Control-Expose-Headers"] = _EXPOSED
                    if origin is not None and is_welcome:
                        headers["Access-Control-Allow-Origin"] = origin
                    known = method if method in _METHODS else "other"
                    scope["state"]["services"].metrics.count_whip(known, message["status"])
            await send(message)

        is_harmless = method in ("GET", "HEAD") or (is_media and method == "OPTIONS")
        if is_harmless or is_welcome:
            await self._app(scope, receive, send_guarded)
        else:
            refused = refusal(path, 403, "Another site's page may not do this.")
            await refused(scope, receive, send_guarded)


def _is_same_origin(headers: Headers) -> bool:
    # Only browsers send Origin; other clients carry nobody's rights by accident.
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == headers.get("Host")
