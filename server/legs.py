"""One WHIP or WHEP session (RFC 9725, section 4.1): the connection of a publisher or a viewer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from server.auth import new_id
from server.peer import Peer
from server.signaling import MAX_CANDIDATES, OfferError
from server.whip_sdp import Fragment, Offer


class RestartError(ValueError):
    """A fragment that wants another ICE session, which aiortc cannot start."""


@dataclass(kw_only=True)
class Leg:
    """A connection that was offered over HTTP.

    Attributes:
        peer: the connection.
        offer: what it answers.
        id: unguessable; who knows it may trickle candidates and hang up.
        etag: names its ICE session, a strong entity-tag with its quotes.
        candidates: how many were trickled.
    """

    peer: Peer
    offer: Offer
    id: str = field(default_factory=new_id)
    etag: str = field(default_factory=lambda: f'"{secrets.token_hex(8)}"')
    candidates: int = 0

    async def trickle(self, fragment: Fragment) -> None:
        """Take the candidates of a fragment; one that the server may not contact is left out.

        Raises:
            RestartError: it has the credentials of another ICE session; this one goes on.
            OfferError: it has too many candidates, or one that cannot be used.
        """
        if not self.offer.owns(fragment):
            raise RestartError("This server cannot restart ICE. End the session, start another.")
        self.candidates += fragment.found
        if self.candidates > MAX_CANDIDATES:
            raise OfferError(f"A session may have {MAX_CANDIDATES} candidates.")
        for candidate in fragment.candidates:
            await self.peer.add_candidate(candidate)
        if fragment.is_last:
            await self.peer.add_candidate(None)
