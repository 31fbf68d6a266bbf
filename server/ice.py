"""The STUN and TURN servers that clients are told of.

TURN credentials are the time-limited ones of coturn's `use-auth-secret`: the user name is the end
of their life and an id, the password is its HMAC-SHA1 under the secret shared with coturn.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

_TURN_TTL_S: Final = 3600


def ice_servers(urls: str, turn_secret: str, *, session: str, now_s: float) -> list[dict[str, str]]:
    """Return each server as an RTCIceServer.

    Args:
        urls: of the servers, with commas between them.
        turn_secret: shared with the TURN servers among them.
        session: public id of the session that uses them.
        now_s: seconds since 1970.
    """
    username = f"{round(now_s) + _TURN_TTL_S}:{session}"
    digest = hmac.digest(turn_secret.encode(), username.encode(), "sha1")
    credentials = {"username": username, "credential": base64.b64encode(digest).decode()}
    return [
        {"urls": url} | (credentials if url.startswith(("turn:", "turns:")) else {})
        for url in filter(None, (part.strip() for part in urls.split(",")))
    ]


def link(server: dict[str, str]) -> str:
    """Return a server as the value of a `Link` header (RFC 9725, section 4.6).

    mediamtx's reader depends on the order of the parameters.
    """
    value = f'<{server["urls"]}>; rel="ice-server"'
    if "username" in server:
        value += (
            f'; username="{server["username"]}"; credential="{server["credential"]}"'
            '; credential-type="password"'
        )
    return value
