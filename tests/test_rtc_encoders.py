"""What the encoders send, and at which cost in keyframes; beside them aiortc's own.

A test that takes `is_repaired` is expected to fail with aiortc as it is.
"""

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc.codecs import CODECS as ALL_CODECS
from aiortc.codecs import depayload
from aiortc.codecs import get_encoder as get_stock_encoder
from aiortc.codecs.opus import OpusEncoder

from server.rtc_encoders import START_BPS, get_encoder
from tests.scripted_link import CODECS, picture

STOCK_FAILS = pytest.mark.parametrize(
    "is_repaired",
    [True, pytest.param(False, marks=pytest.mark.xfail(strict=True, raises=AssertionError))],
    ids=["repaired", "stock"],
)
BOTH_CODECS = pytest.mark.parametrize("codec", ["VP8", "H264"])
SIDE = 256


class Sending:
    """An encoder, its stream so far, and a camera with noise, which takes any bitrate."""

    def __init__(self, codec: str, is_repaired: bool) -> None:
        self.codec = CODECS[codec]
        self.encoder: Any = (get_encoder if is_repaired else get_stock_encoder)(self.codec)
        self.dice = np.random.default_rng(0)
        self.number = 0

    def frame(self, fps: int = 30, side_px: int = SIDE) -> av.VideoFrame:
        noise = self.dice.integers(-20, 20, (side_px, side_px, 3))
        pixels = (picture(self.number, side_px) + noise).clip(0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = self.number * 90_000 // fps, Fraction(1, 90_000)
        self.number += 1
        return frame

    def encode(self, frame: av.VideoFrame, force_keyframe: bool = False) -> bytes:
        payloads, self.timestamp = self.encoder.encode(frame, force_keyframe)
        return b"".join(depayload(self.codec, payload) for payload in payloads)

    def is_keyframe(self, data: bytes) -> bool:
        if self.codec.name == "VP8":
            return data[0] & 1 == 0
        return any(unit[0] & 0x1F == 5 for unit in data.split(b"\0\0\1")[1:])

    def second(self) -> tuple[float, int]:
        """Return the bitrate of a second, in bit/s, and its keyframes."""
        frames = [self.encode(self.frame()) for _ in range(30)]
        return 8.0 * sum(map(len, frames)), sum(map(self.is_keyframe, frames))


@STOCK_FAILS
@BOTH_CODECS
def test_a_stream_starts_at_a_bitrate_that_shows_a_face(codec: str, is_repaired: bool) -> None:
    sending = Sending(codec, is_repaired)
    sending.second()
    assert sending.encoder.target_bitrate == START_BPS
    assert sending.second()[0] > 0.8 * START_BPS


@STOCK_FAILS
@BOTH_CODECS
def test_a_small_change_of_bitrate_brings_no_keyframe(codec: str, is_repaired: bool) -> None:
    sending = Sending(codec, is_repaired)
    sending.encoder.target_bitrate = 1_400_000
    assert sending.second()[1] == 1
    for bitrate in (1_200_000, 1_400_000):
        sending.encoder.target_bitrate = bitrate
        assert sending.second()[1] == 0


@STOCK_FAILS
def test_h264_follows_any_bitrate_without_a_keyframe(is_repaired: bool) -> None:
    sending = Sending("H264", is_repaired)
    sending.second()
    for bitrate in (600_000, 1_500_000, 2_400_000):
        sending.encoder.target_bitrate = bitrate
        assert sending.second()[1] == 0
        assert sending.second()[0] == pytest.approx(bitrate, rel=0.1)


@BOTH_CODECS
def test_a_large_change_of_bitrate_is_followed(codec: str) -> None:
    sending = Sending(codec, is_repaired=True)
    sending.second()
    sending.encoder.target_bitrate = 600_000
    sending.second()
    assert sending.second()[0] == pytest.approx(600_000, rel=0.15)


@BOTH_CODECS
@pytest.mark.parametrize(("asked", "given"), [(1000, 100_000), (90_000_000, 2_500_000)])
def test_a_bitrate_has_limits(codec: str, asked: int, given: int) -> None:
    sending = Sending(codec, is_repaired=True)
    sending.encoder.target_bitrate = asked
    sending.encode(sending.frame())
    assert sending.encoder.target_bitrate == given


@STOCK_FAILS
def test_h264_takes_the_quickest_way_on_one_thread(is_repaired: bool) -> None:
    sending = Sending("H264", is_repaired)
    data = sending.encode(sending.frame())
    settings = data[data.index(b"x264 - core") :].split(b"\0", 1)[0]  # x264 writes them itself
    for setting in (b" subme=0 ", b" ref=1 ", b" threads=1 ", b" rc_lookahead=0 ", b" bframes=0 "):
        assert setting in settings


@STOCK_FAILS
def test_a_vp8_frame_sent_again_is_no_keyframe_again(is_repaired: bool) -> None:
    sending = Sending("VP8", is_repaired)
    sending.second()
    frame = sending.frame().reformat(format="yuv420p")
    assert sending.is_keyframe(sending.encode(frame, force_keyframe=True))
    frame.pts, frame.time_base = 95_000, Fraction(1, 90_000)
    assert not sending.is_keyframe(sending.encode(frame))


@BOTH_CODECS
def test_a_keyframe_comes_when_asked_for_and_with_another_size(codec: str) -> None:
    sending = Sending(codec, is_repaired=True)
    sending.second()
    assert sending.is_keyframe(sending.encode(sending.frame(), force_keyframe=True))
    assert not sending.is_keyframe(sending.encode(sending.frame()))
    assert sending.is_keyframe(sending.encode(sending.frame(side_px=2 * SIDE)))


@BOTH_CODECS
def test_the_time_of_a_frame_is_kept(codec: str) -> None:
    sending = Sending(codec, is_repaired=True)
    for number in range(20):
        sending.encode(sending.frame(fps=25))
        assert sending.timestamp == pytest.approx(number * 3600, abs=1)


def test_sound_keeps_its_encoder() -> None:
    assert isinstance(get_encoder(ALL_CODECS["audio"][0]), OpusEncoder)
