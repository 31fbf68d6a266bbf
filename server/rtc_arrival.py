"""When a packet arrived, by the kernel's clock: how late the event loop takes it is no delay.

aiortc reads the time when it gets to a packet. On a busy server that grows and shrinks as if the
network were congested, and the estimate of the sender's bitrate falls without need.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aioice.ice import Connection, StunProtocol
from aiortc.clock import NTP_EPOCH
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport

_SIOCGSTAMPNS: Final = 0x8907  # when the datagram read last had arrived (socket(7))
_TIMESPEC: Final = struct.Struct("@ll")
_EPOCH_MS: Final = -round(NTP_EPOCH.timestamp() * 1000)  # aiortc counts from 1900, not from 1970


class Datagram(bytes):
    """What was received.

    Attributes:
        arrived_ms: when, on the clock of `aiortc.clock.current_ms`.
    """

    arrived_ms: int


class StampingProtocol(StunProtocol):
    """Receives datagrams that know when they arrived, where the system can tell."""

    def __init__(self, receiver: Connection) -> None:
        super().__init__(receiver)
        self._socket_fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a socket; the kernel stamps what arrives from now on."""
        super().connection_made(transport)
        self._socket_fd = transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):  # there is nothing to tell of yet
            _arrived_ms(self._socket_fd)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Take the datagram that was just read from the socket."""
        assert isinstance(data, bytes), "text is not sent by datagram"
        with contextlib.suppress(OSError):  # a system without stamps
            datagram = Datagram(data)
            datagram.arrived_ms = _arrived_ms(self._socket_fd)
            data = datagram
        super().datagram_received(data, addr)


class PunctualDtlsTransport(RTCDtlsTransport):
    """Tells receivers when their packets arrived, and not when it got to them."""

    def __init__(self, transport: RTCIceTransport, certificates: list[RTCCertificate]) -> None:
        super().__init__(transport, certificates)
        self._arrived_ms: int | None = None
        # A packet has lost its stamp once it is decrypted, so that of the last one is kept.
        transport._recv = self._note_arrivals(transport._recv)

    def _note_arrivals(self, receive: Callable[[], Awaitable[bytes]]) -> Callable[[], Any]:
        async def receive_and_note() -> bytes:
            data = await receive()
            self._arrived_ms = data.arrived_ms if isinstance(data, Datagram) else None
            return data

        return receive_and_note

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        if self._arrived_ms is not None:
            arrival_time_ms = self._arrived_ms
        await super()._handle_rtp_data(data, arrival_time_ms)


def _arrived_ms(socket_fd: int) -> int:
    if sys.platform != "linux":
        raise OSError("only Linux tells when a datagram arrived")
    import fcntl  # which Windows lacks

    seconds: int
    nanoseconds: int
    seconds, nanoseconds = _TIMESPEC.unpack(
        fcntl.ioctl(socket_fd, _SIOCGSTAMPNS, bytes(_TIMESPEC.size))
    )
    return _EPOCH_MS + seconds * 1000 + nanoseconds // 1_000_000
