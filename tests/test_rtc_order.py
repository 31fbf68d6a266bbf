"""Sound packets in their order, at once where nothing is missing."""

from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from server.rtc_order import SoundJitterBuffer

OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=96)


def give_out(*numbers: int, buffer: SoundJitterBuffer | None = None, ssrc: int = 1) -> list[int]:
    """Return the numbers of the packets that come out, in the order they do."""
    buffer = buffer or SoundJitterBuffer({96: OPUS})
    given = []
    for number in numbers:
        packet = RtpPacket(payload_type=96, sequence_number=number % 2**16, timestamp=number * 960)
        packet.ssrc = ssrc
        packet._data = b"sound"  # type: ignore[attr-defined]
        assert buffer.add(packet) == (False, None)
        given += [frame.timestamp // 960 for _, frame in buffer.take()]
    return given


def test_each_packet_comes_out_at_once() -> None:
    buffer = SoundJitterBuffer({96: OPUS})
    assert [give_out(number, buffer=buffer) for number in (7, 8, 9)] == [[7], [8], [9]]


def test_packets_that_overtook_each_other_come_out_in_order() -> None:
    assert give_out(1, 3, 2, 4, 6, 7, 5, 8) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_lost_packet_is_left_out_once_three_have_overtaken_it() -> None:
    buffer = SoundJitterBuffer({96: OPUS})
    assert give_out(1, 3, 4, buffer=buffer) == [1]
    assert give_out(5, 6, buffer=buffer) == [3, 4, 5, 6]  # and nothing is late from then on
    assert give_out(2, buffer=buffer) == []


def test_a_packet_that_comes_twice_comes_out_once() -> None:
    assert give_out(1, 2, 2, 3) == [1, 2, 3]


def test_numbers_may_wrap() -> None:
    numbers = range(2**16 - 2, 2**16 + 2)
    assert give_out(*numbers) == list(numbers)


def test_another_stream_begins_anew() -> None:
    buffer = SoundJitterBuffer({96: OPUS})
    assert give_out(500, 501, buffer=buffer) == [500, 501]
    assert give_out(20, 21, buffer=buffer, ssrc=2) == [20, 21]
