"""One peer connection of a call: the webcam's track in, the avatar's track out, `ctrl` beside.

A publisher's has only the first, a viewer's only the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import av
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceCandidate,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamTrack
from aiortc.stats import RTCRemoteInboundRtpStreamStats, RTCTransportStats

from server import tracks
from server.rtc_patches import is_repaired
from server.rtc_receiver import RepairedReceiver
from server.sender_clock import Arrivals, SenderClock
from server.signaling import (
    OfferError,
    accept_offer,
    declare_generated,
    raise_uplink_bitrate,
    require_rtcp_mux,
)
from server.sound import Sound
from server.tracks import RATE, AvatarTrack, Samples
from streaming.live import LiveSession

logger = logging.getLogger(__name__)

# What aiortc raises on nonsense; its parser asserts, indexes and searches without a net.
_REFUSALS: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OperationError,
    InvalidStateError,
)

_LOOKS: Final = 10  # at what has arrived, within the silence that ends a connection
_HANDSHAKE_S: Final = 1.0


class Peer:
    """A peer connection that answers one offer.

    It closes itself, and says so through `on_close`, when it is not connected in time, when the
    other side goes away, or when nothing at all comes from there any more: no media, no reports on
    it, no `ctrl`. A muted camera is no such silence.
    """

    def __init__(
        self,
        live: LiveSession | None,
        avatar: AvatarTrack | None,
        *,
        connect_timeout_s: float,
        on_close: Callable[[Peer], None],
        on_channel: Callable[[RTCDataChannel], Coroutine[Any, Any, None]] | None = None,
        sound: MediaStreamTrack | None = None,
        microphone: Sound | None = None,
        silence_s: float = 10.0,
    ) -> None:
        """Prepare to send `avatar`, with `sound`, and to feed `live` and `microphone`.

        A publisher's connection has no avatar and a viewer's feeds nothing. `on_channel` runs
        along with `ctrl`; `silence_s` is the silence that ends the connection. Without it aiortc
        takes half a minute to notice that the other side has vanished.
        """
        self._live = live
        self._microphone = microphone or Sound()  # a track that is not read grows without bound
        self._arrivals = Arrivals()
        self._on_channel = on_channel
        self._on_close = on_close
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_connected = asyncio.Event()
        self._is_closing = False
        self._has_channel = False
        # Without an explicit list aiortc asks a public STUN server.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._sender: RTCRtpSender | None = None
        if avatar is not None:
            direction = "sendonly" if live is None else "sendrecv"
            transceiver = self._connection.addTransceiver(avatar, direction=direction)
            # H.264 takes half the time of VP8 once aiortc is repaired, and far longer before.
            first = "video/H264" if is_repaired() else "video/VP8"
            codecs = RTCRtpSender.getCapabilities("video").codecs
            transceiver.setCodecPreferences(
                sorted(codecs, key=lambda codec: codec.mimeType not in (first, "video/rtx"))
            )
            self._sender = transceiver.sender
        if sound is not None:
            direction = "sendonly" if live is None else "sendrecv"
            self._connection.addTransceiver(sound, direction=direction)
        self._connection.on("track", self._start_pump)
        self._connection.on("datachannel", self._start_channel)
        self._connection.on("connectionstatechange", self._follow_state)
        self._start(self._watch(connect_timeout_s, silence_s))

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer; both are SDP with all candidates.

        Raises:
            OfferError: the offer is not usable.
        """
        description = RTCSessionDescription(sdp=accept_offer(offer), type="offer")
        try:
            await self._connection.setRemoteDescription(description)
            answer = await self._connection.createAnswer()
            await self._connection.setLocalDescription(answer)
            sdp = require_rtcp_mux(self._connection.localDescription.sdp)
        except OperationError as error:
            kind = "audio" if "audio" in str(error) else "video"
            raise OfferError(
                f"No codec of the section of {kind} is one of this server's."
            ) from error
        except _REFUSALS as error:
            raise OfferError(f"The offer cannot be answered: {error!r}") from error
        if self._sender is not None:
            sdp = declare_generated(sdp)
        return sdp if self._live is None else raise_uplink_bitrate(sdp)

    async def add_candidate(self, candidate: RTCIceCandidate | None) -> None:
        """Take another candidate of the other side; None says that it was the last.

        Raises:
            OfferError: the connection cannot use it.
        """
        try:
            await self._connection.addIceCandidate(candidate)
        except _REFUSALS as error:
            raise OfferError(f"The candidate cannot be used: {error!r}") from error

    async def rtt_s(self) -> float | None:
        """Return the round trip to the other side, None while it is unknown."""
        if self._sender is None:
            return None
        for report in (await self._sender.getStats()).values():
            if isinstance(report, RTCRemoteInboundRtpStreamStats):
                return report.roundTripTime
        return None

    async def close(self) -> None:
        """End the connection and all its tasks."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._connection.iceConnectionState == "completed":
            # Who is in the middle of the DTLS handshake cannot be told that the call is over.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HANDSHAKE_S):
                    await self._is_connected.wait()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        for receiver in self._connection.getReceivers():
            # close() waits on the event loop until the decoder has worked through its queue.
            waiting = receiver._RTCRtpReceiver__decoder_queue  # type: ignore[attr-defined]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.get_nowait()
        transceivers = self._connection._RTCPeerConnection__transceivers  # type: ignore[attr-defined]
        # close() expects a transport of every one; an offer refused half-way leaves some without.
        transceivers[:] = [each for each in transceivers if each.receiver.transport is not None]
        await self._connection.close()
        self._on_close(self)

    def _start_pump(self, track: MediaStreamTrack) -> None:
        if self._live is None:
            return
        clock = self._sender_clock(track)
        if track.kind == "video":

            def note(frame: av.VideoFrame, arrived_s: float) -> None:
                self._arrivals.add_frame(arrived_s, clock.sent_s(frame))

            self._start(tracks.pump(track, self._live, note=note))
        else:
            self._start(tracks.listen(track, partial(self._hear, clock)))

    def _hear(
        self,
        clock: SenderClock,
        piece: Samples,
        position: int,
        frame: av.AudioFrame,
        arrived_s: float,
    ) -> None:
        # A piece is on its way once its last sample is recorded, and its times are the first one's.
        began_s = arrived_s - len(piece) / RATE
        time_s = self._arrivals.place(began_s, clock.sent_s(frame))
        self._microphone.put(piece, position, time_s=time_s, now_s=arrived_s)

    def _sender_clock(self, track: MediaStreamTrack) -> SenderClock:
        for receiver in self._connection.getReceivers():
            if receiver.track is track and isinstance(receiver, RepairedReceiver):
                return receiver.sender_clock
        return SenderClock()  # aiortc was left as it is, and says nothing of it

    def _start_channel(self, channel: RTCDataChannel) -> None:
        if self._on_channel is None or self._has_channel or channel.label != "ctrl":
            channel.close()
            return
        self._has_channel = True
        self._start(self._on_channel(channel))

    def _follow_state(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._is_connected.set()
        elif state in ("failed", "closed"):
            self._start(self.close())

    async def _watch(self, connect_timeout_s: float, silence_s: float) -> None:
        try:
            async with asyncio.timeout(connect_timeout_s):
                await self._is_connected.wait()
        except TimeoutError:
            logger.info("a peer connection did not come up in %.0f s", connect_timeout_s)
            await self.close()
            return
        received, silent = 0, 0
        # Looks are counted, not seconds: while the loop is held up it takes no packets either.
        while silent < _LOOKS:
            await asyncio.sleep(silence_s / _LOOKS)
            if self._sender is not None and self._sender.track.readyState == "ended":
                await self.close()  # its encoder has failed, and told why
                return
            before, received = received, await self._packets_received()
            silent = silent + 1 if received == before else 0
        logger.info("a peer connection was silent for %.0f s", silence_s)
        await self.close()

    async def _packets_received(self) -> int:
        reports = [
            report
            for receiver in self._connection.getReceivers()
            for report in (await receiver.getStats()).values()
        ]
        # Where the media share a transport, each tells of it.
        return sum(each.packetsReceived for each in reports if isinstance(each, RTCTransportStats))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Without it the connection would stand there, with a picture or a voice that is frozen.
            logger.error("a peer connection ends", exc_info=task.exception())
            self._start(self.close())
