"""What all routes share: bodies with a limit, and how refusals and faults are told."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

_RETRY_AFTER_S: Final = 5
RESTARTING: Final = "The server is about to restart. Try again in a moment."
GENERATED: Final = {"X-AI-Generated": "true"}  # on what brings an avatar
_MEDIA_PATHS: Final = ("/v1/whip/", "/v1/whep/")


def is_media_path(path: str) -> bool:
    """Return whether a path belongs to WHIP or WHEP, which any client from anywhere may speak."""
    return path.startswith(_MEDIA_PATHS)


def media_type(request: Request) -> str:
    """Return the media type of a request's body, without parameters and in lower case."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int, *, within_s: float = 10.0) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: it is longer than `limit` bytes, or does not come in time or at all.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise HTTPException(
                        413, f"This is too large: at most {limit:,} bytes are taken."
                    )
    except ClientDisconnect as error:
        raise HTTPException(400, "The rest of this never came.") from error
    except TimeoutError as error:
        raise HTTPException(408, f"This did not come within {within_s:g} seconds.") from error
    return bytes(body)


async def read_text(request: Request, limit: int) -> str:
    """Return the body of a request as text.

    Raises:
        HTTPException: it is longer than `limit` bytes or not UTF-8.
    """
    try:
        return (await read_body(request, limit)).decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, "This is not a session description.") from error


def busy(message: str, *, status: int = 503, after_s: int = _RETRY_AFTER_S) -> HTTPException:
    """Return the refusal of a request that may be taken later."""
    return HTTPException(status, message, {"Retry-After": str(after_s)})


def refusal(path: str, status: int, message: str) -> Response:
    """Return an error's response: a problem (RFC 9457) to WHIP and WHEP, else our own JSON."""
    if not is_media_path(path):
        return JSONResponse({"error": message}, status)
    problem = {"title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return JSONResponse(problem, status, media_type="application/problem+json")


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer a refused request."""
    assert isinstance(error, HTTPException), "registered for this type"
    response = refusal(request.url.path, error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response
