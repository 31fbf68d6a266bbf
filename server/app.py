"""The HTTP routes, and the life of everything behind them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from aiortc import RTCDataChannel
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import mimaface
from mimaface.animate import Model, animate, encode_source, load
from mimaface.errors import MimafaceError
from mimaface.motion import FaceMeshExtractor, MotionExtractor, RelativeMotion
from mimaface.types import ClipRequest
from server.config import ServerConfig
from server.control import Control, describe
from server.guard import GuardMiddleware
from server.latency_marker import LatencyMarker, MarkedExtractor
from server.peer import Peer
from server.registry import Call, Calls, Source, Sources, new_id
from server.signaling import MAX_OFFER_BYTES, OfferError
from server.tracks import AvatarTrack
from streaming.backend import LocalBackend
from streaming.live import LiveSession

logger = logging.getLogger(__name__)
T = TypeVar("T")

_CLIENT: Final = Path(__file__).parents[1] / "client"
_PORTRAITS: Final = Path(mimaface.__file__).parent / "assets" / "portraits"
_PHOTO_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
_MAX_JSON_BYTES: Final = 4096
_MAX_UPLOADS_AT_ONCE: Final = 4
_RETRY_AFTER_S: Final = 5
_SWEEP_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes need while the server runs."""

    config: ServerConfig
    model: Model
    backend: LocalBackend
    workers: ThreadPoolExecutor
    sources: Sources
    calls: Calls
    uploads: asyncio.Semaphore

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work away from the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.workers, partial(function, *arguments))

    async def close_call(self, call: Call) -> None:
        """End a call and wait for its thread."""
        if not self.calls.remove(call):
            return
        async with call.is_changing:
            if call.peer is not None:
                await call.peer.close()
            await self.run(call.live.close)
        logger.info("call %s ended: %s", call.id[:6], call.live.stats(_now_s()))


def create_app(config: ServerConfig) -> Starlette:
    """Return the server as an ASGI application; the model is loaded when it starts."""
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
        ],
        middleware=[Middleware(GuardMiddleware)],
        exception_handlers={HTTPException: answer_error, Exception: answer_fault},
        lifespan=partial(_lifespan, config=config),
    )


@contextlib.asynccontextmanager
async def _lifespan(_app: Starlette, *, config: ServerConfig) -> AsyncIterator[dict[str, Any]]:
    # aiortc encodes on the loop's default executor, which is left to it alone.
    encoders = ThreadPoolExecutor(config.max_sessions, thread_name_prefix="encode")
    asyncio.get_running_loop().set_default_executor(encoders)
    with ThreadPoolExecutor(2, thread_name_prefix="worker") as workers:
        model = load(config.model, size_px=config.size_px or None)
        backend = LocalBackend(partial(animate, model))
        services = Services(
            config=config,
            model=model,
            backend=backend,
            workers=workers,
            sources=Sources(max_uploads=config.max_uploads, upload_ttl_s=config.upload_ttl_s),
            calls=Calls(max_sessions=config.max_sessions),
            uploads=asyncio.Semaphore(_MAX_UPLOADS_AT_ONCE),
        )
        for portrait in await services.run(_encode_portraits, model):
            services.sources.add_portrait(portrait)
        await services.run(_warm_up, backend, services.sources.portraits())
        sweeper = asyncio.create_task(_sweep(services))
        try:
            yield {"services": services}
        finally:
            sweeper.cancel()
            for call in services.calls:
                await services.close_call(call)
            await services.run(backend.close)


def _encode_portraits(model: Model) -> list[Source]:
    return [
        Source(
            id=path.stem,
            name=path.stem.title(),
            jpeg=path.read_bytes(),
            appearance=encode_source(model, path),
            is_private=False,
        )
        for path in sorted(_PORTRAITS.glob("*.jpg"))
    ]


def _warm_up(backend: LocalBackend, portraits: Sequence[Source]) -> None:
    # What is slow the first time (imports, compiled code) must not be so for the first caller.
    extractor = FaceMeshExtractor()
    relative = RelativeMotion()
    for number, portrait in enumerate(portraits):
        motion = relative.push(extractor.extract(number / 30, portrait.appearance.source))
        request = ClipRequest(appearance=portrait.appearance, motion=motion)
        backend.submit(request).result()
    extractor.close()


async def _sweep(services: Services) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        services.sources.sweep(_now_s())
        for call in services.calls.expired(_now_s()):
            try:
                await services.close_call(call)
            except Exception:
                logger.exception("call %s did not end cleanly", call.id[:6])


def _now_s() -> float:
    return asyncio.get_running_loop().time()


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
    photo = await _read_body(request, services.config.max_upload_bytes)
    if services.uploads.locked():
        raise _busy("Many photos are being uploaded. Try again in a moment.")
    try:
        async with services.uploads:
            source = await services.run(_encode_upload, services.model, photo)
    except MimafaceError as error:
        raise HTTPException(422, str(error)) from error
    services.sources.add_upload(source, _now_s())
    height, width = source.appearance.source.shape[:2]
    return JSONResponse({"id": source.id, "url": source.url, "width": width, "height": height}, 201)


def _encode_upload(model: Model, photo: bytes) -> Source:
    appearance = encode_source(model, photo)
    picture = io.BytesIO()
    Image.fromarray(appearance.source).save(picture, "JPEG", quality=90)
    return Source(
        id=new_id(),
        name="Your photo",
        jpeg=picture.getvalue(),
        appearance=appearance,
        is_private=True,
    )


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
        raise _busy("All places are taken. Try again in a moment.")
    call = _start_call(services, source)
    services.calls.add(call)
    logger.info("call %s started with portrait %s", call.id[:6], source.name)
    url = f"/v1/sessions/{call.id}"
    return JSONResponse({"id": call.id, "url": url, "ice_servers": []}, 201, {"Location": url})


def _start_call(services: Services, source: Source) -> Call:
    call_id, config = new_id(), services.config
    marker = LatencyMarker() if config.has_latency_marker else None

    def extractor() -> MotionExtractor:
        extractor = FaceMeshExtractor()
        return extractor if marker is None else MarkedExtractor(extractor, marker)

    live = LiveSession(
        call_id[:6],
        source.appearance,
        extractor=extractor,
        backend=services.backend,
        clock=asyncio.get_running_loop().time,
        new_frames=services.model.config.new_frames,
        fps=config.fps,
        steps=services.model.config.steps[0],
    )
    expires_s = _now_s() + config.session_ttl_s
    return Call(id=call_id, source=source, live=live, marker=marker, expires_s=expires_s)


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
    async with call.is_changing:
        call = _find_call(request)  # it may have ended meanwhile
        if call.peer is not None:
            await call.peer.close()
        peer = call.peer = _make_peer(services, call)
        try:
            answer = await peer.answer(offer)
        except OfferError as error:
            await peer.close()
            raise HTTPException(422, str(error)) from error
    return Response(answer, 201, media_type="application/sdp")


def _make_peer(services: Services, call: Call) -> Peer:
    def forget(peer: Peer) -> None:
        if call.peer is peer:
            call.peer = None
            call.expires_s = _now_s() + services.config.session_ttl_s

    def control(channel: RTCDataChannel) -> Coroutine[Any, Any, None]:
        model = services.model.config
        return Control(channel, call, sources=services.sources, model=model).run()

    avatar = AvatarTrack(
        call.live,
        fps=services.config.fps,
        draw=None if call.marker is None else call.marker.draw,
    )
    return Peer(
        call.live,
        avatar,
        connect_timeout_s=services.config.connect_timeout_s,
        on_channel=control,
        on_close=forget,
    )


async def delete_session(request: Request) -> Response:
    """End a call."""
    services: Services = request.state.services
    await services.close_call(_find_call(request))
    return Response(status_code=204)


async def get_stats(request: Request) -> Response:
    """Return the figures of a call."""
    services: Services = request.state.services
    call = _find_call(request)
    return JSONResponse(await describe(call, services.model.config, _now_s()))


async def livez(_request: Request) -> Response:
    """Answer, which shows that the event loop does."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answer 200 while there is room for another call."""
    services: Services = request.state.services
    if services.calls.is_full:
        raise _busy("All places are taken.")
    return JSONResponse({"status": "ready"})


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
