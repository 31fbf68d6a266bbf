"""The HTTP routes; they know requests and responses, what is behind them is in services.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mimaface.animate import Model
from mimaface.errors import MimafaceError
from server.config import ServerConfig
from server.control import describe
from server.guard import GuardMiddleware
from server.metrics import CONTENT_TYPE
from server.registry import Call
from server.services import Services, now_s, run_services
from server.signaling import MAX_OFFER_BYTES, OfferError

_CLIENT: Final = Path(__file__).parents[1] / "client"
_PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
_MAX_JSON_BYTES: Final = 4096
_MAX_UPLOADS_AT_ONCE: Final = 4
_RETRY_AFTER_S: Final = 5


def create_app(config: ServerConfig, model: Model) -> Starlette:
    """Return the server as an ASGI application; portraits are encoded when it starts."""
    return Starlette(
        routes=[
            Route("/", index),
            Mount("/client", StaticFiles(directory=_CLIENT)),
            Route("/v1/config", get_config),
            Route("/v1/portraits", list_portraits),
            Route("/v1/portraits/{id}.jpg", get_picture),
            Route("/v1/sources", create_source, methods=["POST"]),
            Route("/v1/sources/{id}.jpg", get_picture),
            Route("/v1/sessions", create_session, methods=["POST"]),
            Route("/v1/sessions/{id}", delete_session, methods=["DELETE"]),
            Route("/v1/sessions/{id}/rtc", connect_session, methods=["POST"]),
            Route("/v1/sessions/{id}/stats", get_stats),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", get_metrics),
        ],
        middleware=[Middleware(GuardMiddleware)],
        exception_handlers={HTTPException: answer_error, Exception: answer_fault},
        lifespan=partial(_lifespan, config=config, model=model),
    )


@contextlib.asynccontextmanager
async def _lifespan(
    _app: Starlette, *, config: ServerConfig, model: Model
) -> AsyncIterator[dict[str, Any]]:
    async with run_services(config, model) as services:
        yield {"services": services, "uploads": asyncio.Semaphore(_MAX_UPLOADS_AT_ONCE)}


async def index(_request: Request) -> Response:
    """Serve the page."""
    return FileResponse(_CLIENT / "index.html")


async def get_config(request: Request) -> Response:
    """Tell the page what it deals with."""
    services: Services = request.state.services
    return JSONResponse(
        {
            "model": services.model.config.name,
            "size_px": services.model.config.size_px,
            "fps": services.config.fps,
            "max_upload_bytes": services.config.max_upload_bytes,
        }
    )


async def list_portraits(request: Request) -> Response:
    """List the built-in portraits."""
    services: Services = request.state.services
    portraits = [
        {"id": source.id, "name": source.name, "url": source.url}
        for source in services.sources.portraits()
    ]
    return JSONResponse({"portraits": portraits})


async def get_picture(request: Request) -> Response:
    """Serve the picture of a portrait or of an upload."""
    services: Services = request.state.services
    source = services.sources.get(request.path_params["id"])
    if source is None or source.url != request.url.path:
        raise HTTPException(404, "There is no such picture.")
    return Response(source.jpeg, media_type="image/jpeg")


async def create_source(request: Request) -> Response:
    """Take a photo as a portrait; it is kept in memory only, for a while."""
    services: Services = request.state.services
    if request.headers.get("X-Consent") != "yes":
        raise HTTPException(403, "Confirm that you may animate this person's picture.")
    if _media_type(request) not in _PHOTO_TYPES:
        raise HTTPException(415, "A portrait is a JPEG, PNG or WebP photo.")
    uploads: asyncio.Semaphore = request.state.uploads
    if uploads.locked():
        raise _busy("Many photos are being uploaded. Try again in a moment.")
    async with uploads:
        photo = await _read_body(request, services.config.max_upload_bytes)
        try:
            source = await services.add_upload(photo)
        except MimafaceError as error:
            raise HTTPException(422, str(error)) from error
    height, width = source.appearance.source.shape[:2]
    return JSONResponse({"id": source.id, "url": source.url, "width": width, "height": height}, 201)


async def create_session(request: Request) -> Response:
    """Start a call with a portrait; its motion extractor is built meanwhile."""
    services: Services = request.state.services
    try:
        message = json.loads(await _read_body(request, _MAX_JSON_BYTES))
        source = services.sources.get(message["source"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HTTPException(422, 'Send {"source": "<id of a portrait>"}.') from error
    if source is None:
        raise HTTPException(404, "There is no such portrait any more. Choose another one.")
    if services.calls.is_full:
        services.metrics.reject("full")
        raise _busy("All places are taken. Try again in a moment.")
    if not services.admission.has_room(len(services.calls)):
        services.metrics.reject("slow")
        raise _busy(
            f"This machine holds {services.admission.capacity} at a time without losing quality. "
            "Try again when somebody has left."
        )
    call = services.start_call(source)
    url = f"/v1/sessions/{call.id}"
    return JSONResponse({"id": call.id, "url": url, "ice_servers": []}, 201, {"Location": url})


async def connect_session(request: Request) -> Response:
    """Answer a call's offer; an earlier connection of the same call ends."""
    services: Services = request.state.services
    call = _find_call(request)
    if _media_type(request) != "application/sdp":
        raise HTTPException(415, "An offer is sent as application/sdp.")
    try:
        offer = (await _read_body(request, MAX_OFFER_BYTES)).decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, "This is not a session description.") from error
    try:
        answer = await services.connect_call(call, offer)
    except OfferError as error:
        raise HTTPException(422, str(error)) from error
    return Response(answer, 201, media_type="application/sdp")


async def delete_session(request: Request) -> Response:
    """End a call."""
    services: Services = request.state.services
    await services.close_call(_find_call(request))
    return Response(status_code=204)


async def get_stats(request: Request) -> Response:
    """Return the figures of a call."""
    return JSONResponse(await describe(_find_call(request), now_s()))


async def livez(_request: Request) -> Response:
    """Answer, which shows that the event loop does."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answer 200 while there is room for another call."""
    services: Services = request.state.services
    if services.calls.is_full or not services.admission.has_room(len(services.calls)):
        raise _busy("All places are taken.")
    return JSONResponse({"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """Return the server's figures in Prometheus' text format."""
    services: Services = request.state.services
    return Response(services.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _find_call(request: Request) -> Call:
    call: Call | None = request.state.services.calls.get(request.path_params["id"])
    if call is None:
        raise HTTPException(404, "This session has ended. Start a new one.")
    return call


def _media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"This is too large: at most {limit:,} bytes are taken.")
    return bytes(body)


def _busy(message: str) -> HTTPException:
    return HTTPException(503, message, {"Retry-After": str(_RETRY_AFTER_S)})


async def answer_error(_request: Request, error: Exception) -> Response:
    """Answer a refused request."""
    assert isinstance(error, HTTPException), "registered for this type"
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def answer_fault(_request: Request, _error: Exception) -> Response:
    """Answer a request the server failed on; Starlette logs the traceback."""
    return JSONResponse({"error": "The server failed. Its log says more."}, 500)
