"""The routes of WHIP (RFC 9725, a webcam in) and WHEP (its sibling's draft, the avatar out).

Both speak the same HTTP. An endpoint is named by a session's public id and opened by a token; what
it creates is a WHIP or WHEP session, whose URL is a capability, because some clients send no token
when they end it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.alpha import WHOLE, Form, read_form
from server.auth import Scope, TokenError, verify
from server.http import GENERATED, busy, media_type, read_text
from server.ice import link
from server.legs import Leg, RestartError
from server.limits import limit_rate
from server.registry import Call
from server.services import Services, unix_s
from server.signaling import MAX_OFFER_BYTES, OfferError
from server.whip_sdp import read_fragment, read_offer

SDP: Final = "application/sdp"
FRAGMENT: Final = "application/trickle-ice-sdpfrag"
_OF_ENDPOINT: Final = "OPTIONS, GET, HEAD, POST"
_OF_LEG: Final = "OPTIONS, GET, HEAD, PATCH, DELETE"
_METHODS: Final = "OPTIONS, GET, HEAD, POST, PATCH, DELETE"  # of both, for CORS
_HEADERS: Final = "Authorization, Content-Type, If-Match"
_PREFLIGHT_AGE_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What tells WHIP and WHEP apart.

    Attributes:
        name: in paths.
        scope: of the tokens that open it.
        direction: of the media in an offer.
    """

    name: str
    scope: Scope
    direction: str


WHIP: Final = Protocol(name="whip", scope="publish", direction="sendonly")
WHEP: Final = Protocol(name="whep", scope="watch", direction="recvonly")


def routes() -> Iterable[Route]:
    """Yield the routes of both."""
    for protocol in (WHIP, WHEP):
        endpoint = f"/v1/{protocol.name}/{{public_id}}"
        leg = f"{endpoint}/{{leg_id}}"
        yield Route(endpoint, partial(_create, protocol), methods=["POST"])
        yield Route(endpoint, partial(_probe, protocol), methods=["GET"])
        yield Route(leg, partial(_trickle, protocol), methods=["PATCH"])
        yield Route(leg, partial(_hang_up, protocol), methods=["DELETE"])
        yield Route(leg, partial(_probe_leg, protocol), methods=["GET"])
        yield Route(endpoint, partial(_options, protocol), methods=["OPTIONS"])
        yield Route(leg, partial(_options_leg, protocol), methods=["OPTIONS"])


def authorize(request: Request, public_id: str, scope: Scope) -> None:
    """Check the token of a request (RFC 6750).

    Raises:
        HTTPException: 401 without a token that holds, 403 with one for something else.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "Send a bearer token.", {"WWW-Authenticate": "Bearer"})
    services: Services = request.state.services
    try:
        grant = verify(token.strip(), services.secret, now_s=unix_s())
    except TokenError as error:
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise HTTPException(401, str(error), challenge) from error
    if (grant.session, grant.scope) != (public_id, scope):
        challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
        raise HTTPException(403, "This token is for something else.", challenge)


async def _create(protocol: Protocol, request: Request) -> Response:
    limit_rate(request)
    services: Services = request.state.services
    call = _find_call(request)
    authorize(request, call.public_id, protocol.scope)
    _expect(request, SDP, accepts="Accept-Post")
    form = _form(request) if protocol is WHEP else WHOLE
    sdp = await read_text(request, MAX_OFFER_BYTES)
    try:
        offer = read_offer(sdp, direction=protocol.direction)
        if protocol is WHIP:
            leg, answer = await services.publish(call, offer)
        else:
            if call.peer is None:
                raise busy("Nobody is driving this avatar yet.", status=409)
            if len(call.viewers) >= services.config.max_viewers:
                raise busy("All places are taken. Try again in a moment.")
            leg, answer = await services.watch(call, offer, form)
    except OfferError as error:
        raise HTTPException(422, str(error)) from error
    headers = {
        "Location": f"/v1/{protocol.name}/{call.public_id}/{leg.id}",
        "ETag": leg.etag,
        "Accept-Patch": FRAGMENT,
    }
    response = Response(answer, 201, headers)
    response.headers["Content-Type"] = SDP  # without the charset, which is not a parameter of it
    if protocol is WHEP:
        response.headers.update(GENERATED)
    _add_links(response, services, call)
    return response


async def _probe(protocol: Protocol, request: Request) -> Response:
    _find_call(request)
    if protocol is WHEP and request.method == "HEAD":
        return Response(headers={"Content-Type": SDP})
    return Response(status_code=204)


async def _probe_leg(protocol: Protocol, request: Request) -> Response:
    _find_leg(protocol, request)
    return Response(status_code=204)


async def _options(protocol: Protocol, request: Request) -> Response:
    if _is_preflight(request):
        return _preflight()
    is_authorized = "Authorization" in request.headers
    if is_authorized:
        # First, so that who waits for a session knows whether it is the one that it may watch.
        authorize(request, request.path_params["public_id"], protocol.scope)
    call = _find_call(request)
    response = Response(headers={"Accept-Post": SDP, "Allow": _OF_ENDPOINT})
    if is_authorized:
        _add_links(response, request.state.services, call)
    return response


async def _options_leg(protocol: Protocol, request: Request) -> Response:
    if _is_preflight(request):
        return _preflight()
    _find_leg(protocol, request)
    return Response(headers={"Accept-Patch": FRAGMENT, "Allow": _OF_LEG})


async def _trickle(protocol: Protocol, request: Request) -> Response:
    limit_rate(request)
    services: Services = request.state.services
    _, leg = _find_leg(protocol, request)
    _expect(request, FRAGMENT, accepts="Accept-Patch")
    match = request.headers.get("If-Match")
    if match is not None and match not in ("*", '"*"', leg.etag):
        raise HTTPException(412, "This is not the entity-tag of the ICE session.")
    text = await read_text(request, MAX_OFFER_BYTES)
    try:
        fragment = read_fragment(text)
        if match is None:
            is_restart = not leg.offer.owns(fragment)
            if services.config.strict_etags or is_restart:
                raise HTTPException(428, "Send the entity-tag of the ICE session as If-Match.")
            services.metrics.miss_if_match()
        await leg.trickle(fragment)
    except (OfferError, RestartError) as error:
        raise HTTPException(422, str(error)) from error
    return Response(status_code=204)


async def _hang_up(protocol: Protocol, request: Request) -> Response:
    limit_rate(request)
    _, leg = _find_leg(protocol, request)
    await leg.peer.close()
    return Response()


def _is_preflight(request: Request) -> bool:
    return "Access-Control-Request-Method" in request.headers


def _preflight() -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
        },
    )


def _find_call(request: Request) -> Call:
    call: Call | None = request.state.services.calls.named(request.path_params["public_id"])
    if call is None:
        raise HTTPException(404, "There is no such session, or it has ended.")
    return call


def _find_leg(protocol: Protocol, request: Request) -> tuple[Call, Leg]:
    call, leg_id = _find_call(request), request.path_params["leg_id"]
    leg = call.publisher if protocol is WHIP else call.viewers.get(leg_id)
    if leg is None or leg.id != leg_id:
        raise HTTPException(404, "There is no such session, or it has ended.")
    if "Authorization" in request.headers:
        authorize(request, call.public_id, protocol.scope)
    return call, leg


def _form(request: Request) -> Form:
    # A viewer asks for it in the endpoint's query, which the session's URL goes without.
    try:
        form = read_form(request.query_params)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    if form.alpha != "none" and not request.state.services.model.has_matte:
        raise HTTPException(422, "This model draws its own outline: there is only alpha=none.")
    return form


def _expect(request: Request, expected: str, *, accepts: str) -> None:
    # `accepts` names the header that tells: Accept-Post, or Accept-Patch (RFC 5789, 2.2).
    if media_type(request) != expected:
        raise HTTPException(415, f"Send this as {expected}.", {accepts: expected})


def _add_links(response: Response, services: Services, call: Call) -> None:
    for server in services.ice_servers(call):
        response.headers.append("Link", link(server))
