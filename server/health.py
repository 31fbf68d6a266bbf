"""What machines ask of the server: does it live, is there room, and all its figures."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.http import RESTARTING, busy
from server.metrics import CONTENT_TYPE
from server.services import Services


def routes() -> Iterable[Route]:
    """Yield the routes."""
    yield Route("/livez", livez)
    yield Route("/readyz", readyz)
    yield Route("/availability", availability)
    yield Route("/metrics", get_metrics)


async def livez(_request: Request) -> Response:
    """Answer, which shows that the event loop does."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answer 200 while there is room for another call."""
    services: Services = request.state.services
    if services.drain.is_on:
        raise busy(RESTARTING)
    if not _free(services):
        raise busy("All places are taken.")
    return JSONResponse({"status": "ready"})


async def availability(request: Request) -> Response:
    """Tell a load balancer how many calls there are and may be, 503 if there is no room."""
    services: Services = request.state.services
    free, sessions = _free(services), len(services.calls)
    return JSONResponse(
        {
            "sessions": sessions,
            "free": free,
            "load": round(sessions / (sessions + free), 3) if sessions else 0.0,
        },
        200 if free else 503,
    )


async def get_metrics(request: Request) -> Response:
    """Return the server's figures in Prometheus' text format."""
    services: Services = request.state.services
    return Response(services.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _free(services: Services) -> int:
    if services.drain.is_on:
        return 0
    # A machine that has not made a clip yet knows of one place.
    sessions, capacity = len(services.calls), services.admission.capacity or 1
    return max(min(services.config.max_sessions, capacity) - sessions, 0)
