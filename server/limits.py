"""How much one address may ask of the server; who it is, and the refusals."""

from __future__ import annotations

import ipaddress
import math
from typing import Final

from starlette.requests import Request

from server.http import busy
from server.services import Services, now_s

_V6_SITE: Final = 64  # bits that one subscriber is given to choose addresses from


def address_of(request: Request) -> str:
    """Return who asks: an IPv4 address, or the network of an IPv6 one."""
    host = "" if request.client is None else request.client.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, _V6_SITE), strict=False))
        address = address.ipv4_mapped
    return str(address)


def limit_rate(request: Request) -> None:
    """Count a request; each method and each kind of thing (whip, sessions, ...) counts apart.

    Raises:
        HTTPException: its address has sent too many (429).
    """
    kind = request.url.path.split("/")[2]
    wait_s = request.state.rate.wait_s(f"{request.method} {kind} {address_of(request)}", now_s())
    if wait_s:
        message = "These are too many requests. Try again in a moment."
        raise busy(message, status=429, after_s=math.ceil(wait_s))


def limit_sessions(request: Request) -> None:
    """Look whether an address may have one more session.

    Raises:
        HTTPException: it has all that one address may have (429).
    """
    services: Services = request.state.services
    most = services.config.max_sessions_per_address
    if most and services.calls.count_of(address_of(request)) >= most:
        services.metrics.reject("address")
        raise busy("You have as many calls as one address may have. End one first.", status=429)
