"""Protects the page: who may ask for changes, and what it may load."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class GuardMiddleware:
    """Refuses changes asked for by another origin's page and sets the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["method"] in ("GET", "HEAD") or _is_same_origin(Headers(scope=scope)):
            await self._app(scope, receive, send_guarded)
        else:
            refusal = JSONResponse({"error": "Another site's page may not do this."}, 403)
            await refusal(scope, receive, send_guarded)


def _is_same_origin(headers: Headers) -> bool:
    # Only browsers send Origin; other clients carry nobody's rights by accident.
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == headers.get("Host")
