"""What is on air sent to a WHIP endpoint (RFC 9725), again and again until it is taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from fractions import Fraction
from typing import Final

import av
import httpx2
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from mimaface.types import Pixels
from server.feed import OutputState
from server.program import Picture, pictures, sound_track
from server.push import Outage
from server.registry import Call

_TICKS: Final = 90_000  # a second, of RTP video
_TIMEOUT_S: Final = 15.0
_FAREWELL_S: Final = 3.0
_MOST_REDIRECTS: Final = 5
_SDP: Final = "application/sdp"
# What aiortc raises on an answer that makes no sense.
_NONSENSE: Final = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OperationError, InvalidStateError),
)


class PushError(Exception):
    """The endpoint did not take the stream, or does not any more."""


class ProgramTrack(MediaStreamTrack):
    """Sends what is on air to one connection."""

    kind = "video"

    def __init__(self, shown: AsyncIterator[Picture], state: OutputState) -> None:
        """Send the pictures of `shown`; those that come too fast are counted in `state`."""
        super().__init__()
        self._shown = shown
        self._state = state
        self._start_s: float | None = None
        self._pts = -1

    async def recv(self) -> av.VideoFrame:
        """Return the next picture; raises MediaStreamError once the track is stopped."""
        picture = await anext(self._shown)
        if self.readyState != "live":
            raise MediaStreamError
        self._state.dropped += picture.missed
        if self._start_s is None:
            self._start_s = picture.time_s
        # The encoder writes into its frames: each send needs one of its own.
        frame = av.VideoFrame.from_ndarray(picture.pixels, format="rgb24")
        self._pts = max(round((picture.time_s - self._start_s) * _TICKS), self._pts + 1)
        frame.pts, frame.time_base = self._pts, Fraction(1, _TICKS)
        return frame


async def push_whip(
    url: str, token: str, *, calls: Iterable[Call], idle: Pixels, state: OutputState
) -> None:
    """Publish what is on air until cancelled; `idle` while nothing is.

    ICE servers that the endpoint names are not used: it is to be reachable itself, and who runs
    this server decides whom it contacts.
    """
    outage = Outage(state, url)
    loop = asyncio.get_running_loop()
    async with httpx2.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
        while True:
            up_s = loop.time()
            connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            connection.addTransceiver(
                ProgramTrack(pictures(calls, idle), state), direction="sendonly"
            )
            connection.addTransceiver(sound_track(calls), direction="sendonly")
            try:
                async with _published(connection, client, url, token) as lost:
                    outage.end()
                    up_s = loop.time()
                    await lost.wait()
                reason = "the connection was lost"
            except (PushError, httpx2.HTTPError, httpx2.InvalidURL) as error:
                reason = str(error) or type(error).__name__
            finally:
                state.is_up = False
                await connection.close()
            await asyncio.sleep(outage.begin(reason, lasted_s=loop.time() - up_s))


@contextlib.asynccontextmanager
async def _published(
    connection: RTCPeerConnection, client: httpx2.AsyncClient, url: str, token: str
) -> AsyncIterator[asyncio.Event]:
    # Yields what is set when the connection is lost; ends the WHIP session afterwards.
    is_up, is_lost = asyncio.Event(), asyncio.Event()

    @connection.on("connectionstatechange")
    def follow() -> None:
        if connection.connectionState == "connected":
            is_up.set()
        elif connection.connectionState in ("failed", "closed"):
            is_up.set()
            is_lost.set()

    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    await connection.setLocalDescription(await connection.createOffer())
    answered = await _post(client, url, connection.localDescription.sdp, bearer)
    session = answered.url.join(answered.headers["Location"])
    try:
        try:
            await connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))
        except _NONSENSE as error:
            raise PushError(f"its answer cannot be used: {error!r}") from error
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await is_up.wait()
        except TimeoutError as error:
            raise PushError("no media connection came up") from error
        if is_lost.is_set():
            raise PushError("the media connection failed")
        yield is_lost
    finally:
        # It would end by itself too, only later.
        with contextlib.suppress(httpx2.HTTPError):
            await client.delete(session, headers=bearer, timeout=_FAREWELL_S)


async def _post(
    client: httpx2.AsyncClient, url: str, offer: str, bearer: dict[str, str]
) -> httpx2.Response:
    target = httpx2.URL(url)
    for _ in range(_MOST_REDIRECTS):
        answered = await client.post(target, content=offer, headers=bearer | {"Content-Type": _SDP})
        if answered.status_code not in (307, 308):
            break
        # The token goes along, as WHIP asks, but never from HTTPS into the open.
        following = target.join(answered.headers.get("Location", ""))
        if target.scheme == "https" and following.scheme != "https":
            raise PushError("it leads from HTTPS to an address without")
        target = following
    if answered.status_code != 201 or "Location" not in answered.headers:
        raise PushError(f"it answered {answered.status_code} {answered.reason_phrase}".rstrip())
    return answered
