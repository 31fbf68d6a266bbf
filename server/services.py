"""What runs behind the routes: the calls, from start to end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar, get_args

from aiortc import RTCDataChannel
from starlette.websockets import WebSocket

from mimaface.animate import draw_ahead
from mimaface.model import Model
from mimaface.motion import FaceMeshExtractor, MotionExtractor
from server.alpha import Form
from server.auth import Grant, Scope, TokenError, new_id, sign, verify
from server.broadcast import Broadcast
from server.config import ServerConfig
from server.control import Control, DataChannel
from server.drain import Drain
from server.ice import ice_servers
from server.latency_marker import LatencyMarker, MarkedExtractor
from server.legs import Leg
from server.metrics import Metrics, Result
from server.peer import Peer
from server.portraits import encode_upload
from server.registry import Call, Calls, Connection, Source, Sources
from server.signaling import OfferError, wants_sound
from server.socket import SocketPeer
from server.sound import Sound
from server.tracks import AvatarTrack
from server.whip_sdp import Offer, finish_answer
from streaming.admission import Admission
from streaming.backend import LocalBackend
from streaming.ladder import Ladder, rungs_for
from streaming.live import LiveSession
from streaming.metrics import Stage

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FROZEN_AFTER_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Services:
    """A running server without its routes.

    Attributes:
        workers: threads for what takes long, uploads.
        endings: one for the ends of calls, which do not wait for those.
    """

    config: ServerConfig
    model: Model
    backend: LocalBackend
    workers: ThreadPoolExecutor
    endings: ThreadPoolExecutor
    sources: Sources
    calls: Calls
    admission: Admission
    metrics: Metrics
    drain: Drain
    secret: bytes = field(repr=False)

    async def add_upload(self, photo: bytes) -> Source:
        """Encode a photo and keep it, in memory only, for a while.

        Raises:
            UnreadableMediaError, SourceImageError: it cannot be a portrait.
        """
        source = await _run(self.workers, encode_upload, self.model, self.backend, photo)
        self.sources.add_upload(source, now_s())
        return source

    def start_call(
        self, source: Source, *, ttl_s: float, address: str = "", public_id: str = ""
    ) -> Call:
        """Start a call from an address, which builds its motion extractor at once.

        Without a driver it ends after `ttl_s`. Its public id is a new one, unless it is given.
        """
        call_id, config = new_id(), self.config
        marker = LatencyMarker() if config.has_latency_marker else None

        def extractor() -> MotionExtractor:
            extractor = FaceMeshExtractor(frozen_after_s=_FROZEN_AFTER_S)
            return extractor if marker is None else MarkedExtractor(extractor, marker)

        live = LiveSession(
            call_id[:6],
            source.appearance,
            extractor=extractor,
            draw=draw_ahead,
            backend=self.backend,
            clock=asyncio.get_running_loop().time,
            new_frames=self.model.config.new_frames,
            ladder=Ladder(
                rungs_for(
                    offered_steps(self.model, config),
                    fps=config.fps,
                    has_half=source.appearance.half is not None,
                ),
                deadline_s=config.latency_budget_s,
            ),
        )
        sound = Sound()
        live.on_timed = partial(self._note_time, sound)
        call = Call(
            id=call_id,
            source=source,
            live=live,
            broadcast=Broadcast(
                live,
                draw=None if marker is None else marker.draw,
                on_coded=self.metrics.count_coded,
            ),
            sound=sound,
            expires_s=now_s() + ttl_s,
            ttl_s=ttl_s,
            address=address,
            ends_s=now_s() + (config.max_session_s or math.inf),
            drain=self.drain,
            public_id=public_id or new_id(),
        )
        self.calls.add(call)
        logger.info("call %s started with portrait %s", call_id[:6], source.name)
        return call

    async def inherit(self, token: str) -> str:
        """Return the public id that who holds a control token may go on under, "" for none.

        Viewers have it in their addresses. A call that waits for its driver gives it up and ends;
        one that is driven keeps it.
        """
        try:
            grant = verify(token, self.secret, now_s=unix_s())
        except TokenError:  # its time is over, or the server has another secret since
            return ""
        if grant.scope != "control":
            return ""
        while (call := self.calls.named(grant.session)) is not None:
            if call.peer is not None:
                return ""
            await self.close_call(call)
        return grant.session

    async def connect_call(self, call: Call, offer: str) -> str:
        """Answer a call's offer; an earlier connection of the same call ends.

        Raises:
            OfferError: the offer is not usable, or the call has ended.
        """
        async with call.is_changing:
            if call.peer is not None:
                await call.peer.close()
            if self.calls.get(call.id) is None:
                raise OfferError("This session has ended. Start a new one.")
            peer = call.peer = self._make_peer(call, offer)
            call.publisher = None
            try:
                return await peer.answer(offer)
            except OfferError:
                await peer.close()
                raise

    async def carry_call(self, call: Call, socket: WebSocket) -> bool:
        """Carry a call over an accepted socket, to its end; an earlier connection ends.

        Return whether the call was there.
        """
        async with call.is_changing:
            if call.peer is not None:
                await call.peer.close()
            if self.calls.get(call.id) is None:
                return False
            peer = call.peer = SocketPeer(
                socket,
                call,
                sources=self.sources,
                on_close=partial(self._forget_driver, call),
            )
            call.publisher = None
        await peer.run()
        return True

    async def publish(self, call: Call, offer: Offer) -> tuple[Leg, str]:
        """Answer a publisher's offer; whoever drove the call before is disconnected then.

        Raises:
            OfferError: the offer is not usable, or the call has ended; all stays as it was.
        """
        async with call.is_changing:
            peer = Peer(
                call.live,
                None,
                microphone=call.sound,
                connect_timeout_s=self.config.connect_timeout_s,
                on_close=partial(self._forget_driver, call),
            )
            answer = await self._answer(call, peer, offer)
            before, call.peer = call.peer, peer
            call.publisher = Leg(peer=peer, offer=offer)
            if before is not None:
                await before.close()
            return call.publisher, answer

    async def watch(self, call: Call, offer: Offer, form: Form) -> tuple[Leg, str]:
        """Answer a viewer's offer; the caller has looked whether there is room.

        The viewer is sent the avatar in `form`.

        Raises:
            OfferError: the offer is not usable, or the call has ended.
        """

        def forget(_peer: Peer) -> None:
            call.viewers.pop(leg.id, None)

        peer = Peer(
            None,
            AvatarTrack(call.broadcast, form),
            sound=call.sound.track() if "audio" in offer.kinds else None,
            connect_timeout_s=self.config.connect_timeout_s,
            on_close=forget,
        )
        leg = Leg(peer=peer, offer=offer)
        call.viewers[leg.id] = leg
        return leg, await self._answer(call, peer, offer)

    async def _answer(self, call: Call, peer: Peer, offer: Offer) -> str:
        try:
            answer = finish_answer(await peer.answer(offer.sdp))
            if self.calls.get(call.id) is None:
                raise OfferError("This session has ended.")
        except OfferError:
            await peer.close()
            raise
        return answer

    def tokens(self, call: Call, *, expires_s: float) -> dict[Scope, str]:
        """Return a token of each scope for a call; its end is in seconds since 1970."""
        return {
            scope: sign(
                Grant(session=call.public_id, scope=scope, expires_s=expires_s), self.secret
            )
            for scope in get_args(Scope)
        }

    def ice_servers(self, call: Call) -> list[dict[str, str]]:
        """Return the STUN and TURN servers for a call's clients."""
        config = self.config
        return ice_servers(
            config.ice_urls, config.turn_secret, session=call.public_id, now_s=unix_s()
        )

    async def close_call(self, call: Call, result: Result = "ended") -> None:
        """End a call and wait for its thread."""
        if not self.calls.remove(call):
            return
        self.metrics.close(call, result)
        async with call.is_changing:
            for leg in list(call.viewers.values()):
                await leg.peer.close()
            if call.peer is not None:
                await call.peer.close()
            await _run(self.endings, call.live.close)
        logger.info("call %s ended: %s", call.id[:6], call.live.stats(now_s()))

    def _note_time(self, sound: Sound, stage: Stage, seconds: float) -> None:
        # Called by all of a session's threads; frames are pulled, and so shown, on the event loop.
        self.metrics.observe(stage, seconds)
        if stage == "server":
            sound.note_path(seconds)
        if stage == "motion":
            self.admission.add_frame(seconds)

    def _make_peer(self, call: Call, offer: str) -> Peer:
        def control(channel: RTCDataChannel) -> Coroutine[Any, Any, None]:
            control = Control(DataChannel(channel), call, sources=self.sources)
            channel.on("message", control.receive)
            return control.run()

        return Peer(
            call.live,
            AvatarTrack(call.broadcast),
            sound=call.sound.track() if wants_sound(offer) else None,
            microphone=call.sound,
            connect_timeout_s=self.config.connect_timeout_s,
            on_channel=control,
            on_close=partial(self._forget_driver, call),
        )

    def _forget_driver(self, call: Call, peer: Connection) -> None:
        if call.peer is peer:
            call.peer = call.publisher = None
            call.expires_s = now_s() + call.ttl_s


async def _run(pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    # Blocking work must stay away from the event loop.
    return await asyncio.get_running_loop().run_in_executor(pool, partial(function, *arguments))


def offered_steps(model: Model, config: ServerConfig) -> list[int]:
    """Return the numbers of denoising steps a session may come to, from the settings' downwards."""
    return [steps for steps in model.steps if steps <= config.steps]


def now_s() -> float:
    """Return the time on the server's one clock."""
    return asyncio.get_running_loop().time()


def unix_s() -> float:
    """Return the seconds since 1970, which tokens and TURN credentials end by."""
    return datetime.now(UTC).timestamp()
