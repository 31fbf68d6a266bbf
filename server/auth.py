"""Unguessable ids, and tokens that let their bearer do one thing in one session for a while.

A token is `payload.signature`: JSON and its HMAC-SHA256, both in base64url. Its end is seconds
since 1970 on the wall clock, the one clock that everybody who holds the secret shares.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

Scope = Literal["publish", "watch", "control"]

SECRET_BYTES: Final = 32
_MAX_TOKEN_CHARS: Final = 512


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a token allows.

    Attributes:
        session: public id of the session.
        scope: publish a webcam, watch the avatar, or control the session.
        expires_s: until when, in seconds since 1970.
    """

    session: str
    scope: Scope
    expires_s: float


class TokenError(ValueError):
    """A token that was not signed here, is spoilt, or has expired."""


def new_id() -> str:
    """Return an id that cannot be guessed: 128 bits."""
    return secrets.token_urlsafe(16)


def sign(grant: Grant, secret: bytes) -> str:
    """Return the token for a grant."""
    payload = _encode(json.dumps(asdict(grant), separators=(",", ":")).encode())
    return f"{payload}.{_signature(payload, secret)}"


def verify(token: str, secret: bytes, *, now_s: float) -> Grant:
    """Return the grant of a token; `now_s` is in seconds since 1970.

    Raises:
        TokenError: it is not a token of this secret, or its time is over.
    """
    payload, _, signature = token.partition(".")
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        raise TokenError("This is not a token.")
    if not hmac.compare_digest(signature, _signature(payload, secret)):
        raise TokenError("This token was not issued here.")
    grant = Grant(**json.loads(base64.urlsafe_b64decode(payload + "==")))
    assert grant.scope in get_args(Scope), "only grants are signed"
    if grant.expires_s <= now_s:
        raise TokenError("This token has expired.")
    return grant


def _signature(payload: str, secret: bytes) -> str:
    return _encode(hmac.digest(secret, payload.encode(), "sha256"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
