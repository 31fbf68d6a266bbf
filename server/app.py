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
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from mimaface.errors import MimafaceError
from mimaface.model import Model
from server import health, whip
from server.config import ServerConfig
from server.control import describe
from server.drain import Drain
from server.guard import GuardMiddleware
from server.http import (
    GENERATED,
    RESTARTING,
    answer_error,
    busy,
    media_type,
    read_body,
    read_text,
)
from server.limits import address_of, limit_rate, limit_sessions
from server.outputs import run_outputs
from server.rate import RateLimit
from server.registry import Call, Calls
from server.services import Services, now_s, unix_s
from server.signaling import MAX_OFFER_BYTES, OfferError
from server.socket import GONE
from server.startup import run_services

_CLIENT: Final = Path(__file__).parents[1] / "client"
_PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
_MAX_JSON_BYTES: Final = 4096
_MAX_UPLOADS_AT_ONCE: Final = 4
_UPLOAD_S: Final = 30.0  # 8 MiB then need 2.2 Mbit/s
_MAX_TTL_S: Final = 3600.0  # that a session may wait for its driver


def create_app(config: ServerConfig, model: Model, drain: Drain | None = None) -> Starlette:
    """Return the server as an ASGI application; portraits are encoded when it starts.

    Once `drain` has begun it takes no more sessions.
    """
    return Starlette(
        routes=[
            Route("/", index),
            Route("/overlay", overlay),
            Mount("/client", StaticFiles(directory=_CLIENT)),
            Route("/v1/config", get_config),
            Route("/v1/portraits", list_portraits),
            Route("/v1/portraits/{id}.jpg", get_picture),
            Route("/v1/sources", create_source, methods=["POST"]),
            Route("/v1/sources/{id}.jpg", get_picture),
            Route("/v1/sessions", create_session, methods=["POST"]),
            Route("/v1/sessions/{id}", delete_session, methods=["DELETE"]),
            Route("/v1/sessions/{id}/ice", get_ice_servers),
            Route("/v1/sessions/{id}/rtc", connect_session, methods=["POST"]),
            WebSocketRoute("/v1/sessions/{id}/socket", carry_session),
            Route("/v1/sessions/{id}/stats", get_stats),
            *whip.routes(),
            *health.routes(),
        ],
        middleware=[
            Middleware(
                GuardMiddleware,
                origins=_listed(config.cors_origins),
                hosts=None if config.tls_cert else _listed(config.allowed_hosts.lower()),
            )
        ],
        exception_handlers={HTTPException: answer_error},
        lifespan=partial(_lifespan, config=config, model=model, drain=drain or Drain()),
    )


@contextlib.asynccontextmanager
async def _lifespan(
    _app: Starlette, *, config: ServerConfig, model: Model, drain: Drain
) -> AsyncIterator[dict[str, Any]]:
    async with run_services(config, model, drain) as services, run_outputs(services):
        yield {
            "services": services,
            "uploads": asyncio.Semaphore(_MAX_UPLOADS_AT_ONCE),
            "rate": RateLimit(config.requests_per_min),
        }


def _listed(setting: str) -> frozenset[str]:
    return frozenset(part.strip() for part in setting.split(",")) - {""}


async def index(_request: Request) -> Response:
    """Serve the page."""
    return FileResponse(_CLIENT / "index.html")


async def overlay(_request: Request) -> Response:
    """Serve the avatar alone, for OBS."""
    return FileResponse(_CLIENT / "overlay.html")


async def get_config(request: Request) -> Response:
    """Tell the page what it deals with."""
    services: Services = request.state.services
    return JSONResponse(
        {
            "model": services.model.config.name,
            "size_px": services.model.config.size_px,
            "fps": services.config.fps,
            "max_upload_bytes": services.config.max_upload_bytes,
            "is_recorded": bool(services.config.record),
            "is_sent_on": bool(services.config.push),
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
    limit_rate(request)
    services: Services = request.state.services
    if request.headers.get("X-Consent") != "yes":
        raise HTTPException(403, "Confirm that you may animate this person's picture.")
    if media_type(request) not in _PHOTO_TYPES:
        raise HTTPException(415, "A portrait is a JPEG, PNG or WebP photo.")
    uploads: asyncio.Semaphore = request.state.uploads
    if uploads.locked():
        raise busy("Many photos are being uploaded. Try again in a moment.")
    async with uploads:
        photo = await read_body(request, services.config.max_upload_bytes, within_s=_UPLOAD_S)
        try:
            source = await services.add_upload(photo)
        except MimafaceError as error:
            raise HTTPException(422, str(error)) from error
    height, width = source.appearance.source.shape[:2]
    return JSONResponse({"id": source.id, "url": source.url, "width": width, "height": height}, 201)


async def create_session(request: Request) -> Response:
    """Start a call with a portrait; its motion extractor is built meanwhile.

    With the control token of an earlier session as `continues` it keeps that one's public id, and
    so the addresses that viewers have, unless somebody drives it.

    The answer holds its URLs: `url` for the page's call, a capability; `whip_url`, `whep_url` and
    `control_url` for who has the token of that scope.
    """
    limit_rate(request)
    services: Services = request.state.services
    try:
        message = json.loads(await read_body(request, _MAX_JSON_BYTES))
        source = services.sources.get(message["source"])
        ttl_s = float(message.get("ttl_s", services.config.session_ttl_s))
        continued = message.get("continues", "")
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise HTTPException(422, 'Send {"source": "<id of a portrait>"}.') from error
    if not isinstance(continued, str):
        raise HTTPException(422, "continues must be the control token of an earlier session.")
    if not 0 < ttl_s <= _MAX_TTL_S:
        raise HTTPException(422, f"ttl_s must be above 0 and at most {_MAX_TTL_S:g} seconds.")
    if source is None:
        raise HTTPException(404, "There is no such portrait any more. Choose another one.")
    if services.drain.is_on:
        services.metrics.reject("restart")
        raise busy(RESTARTING)
    public_id = await services.inherit(continued) if continued else ""
    if services.calls.is_full:
        services.metrics.reject("full")
        raise busy("All places are taken. Try again in a moment.")
    if not services.admission.has_room(len(services.calls)):
        services.metrics.reject("slow")
        raise busy(
            f"This machine holds {services.admission.capacity} at a time without losing quality. "
            "Try again when somebody has left."
        )
    limit_sessions(request)
    call = services.start_call(
        source, ttl_s=ttl_s, address=address_of(request), public_id=public_id
    )
    url = f"/v1/sessions/{call.id}"
    expires_s = unix_s() + services.config.token_ttl_s
    created = {
        "id": call.id,
        "url": url,
        "ice_servers": services.ice_servers(call),
        "public_id": call.public_id,
        "whip_url": f"/v1/whip/{call.public_id}",
        "whep_url": f"/v1/whep/{call.public_id}",
        "control_url": f"/v1/sessions/{call.public_id}",
        "tokens": services.tokens(call, expires_s=expires_s),
        "expires_s": round(expires_s),
    }
    return JSONResponse(created, 201, {"Location": url})


async def get_ice_servers(request: Request) -> Response:
    """Tell a call's STUN and TURN servers again: their credentials last shorter than a call may."""
    services: Services = request.state.services
    return JSONResponse({"ice_servers": services.ice_servers(_find_call(request))})


async def connect_session(request: Request) -> Response:
    """Answer a call's offer; an earlier connection of the same call ends."""
    limit_rate(request)
    services: Services = request.state.services
    call = _find_call(request)
    if media_type(request) != "application/sdp":
        raise HTTPException(415, "An offer is sent as application/sdp.")
    offer = await read_text(request, MAX_OFFER_BYTES)
    try:
        answer = await services.connect_call(call, offer)
    except OfferError as error:
        raise HTTPException(422, str(error)) from error
    return Response(answer, 201, GENERATED, media_type="application/sdp")


async def carry_session(socket: WebSocket) -> None:
    """Carry a call over a WebSocket; an earlier connection of the same call ends."""
    services: Services = socket.state.services
    await socket.accept(headers=Headers(GENERATED).raw)
    call = services.calls.get(socket.path_params["id"])
    if call is None or not await services.carry_call(call, socket):
        await socket.close(GONE, "This session has ended. Start a new one.")


async def delete_session(request: Request) -> Response:
    """End a call."""
    limit_rate(request)
    services: Services = request.state.services
    await services.close_call(_find_call(request))
    return Response(status_code=204)


async def get_stats(request: Request) -> Response:
    """Return the figures of a call."""
    return JSONResponse(await describe(_find_call(request), now_s()))


def _find_call(request: Request) -> Call:
    # By its capability, or by its public id and a token.
    calls: Calls = request.state.services.calls
    name = request.path_params["id"]
    call = calls.get(name)
    if call is None:
        call = calls.named(name)
        if call is None:
            raise HTTPException(404, "This session has ended. Start a new one.")
        whip.authorize(request, call.public_id, "control")
    return call
