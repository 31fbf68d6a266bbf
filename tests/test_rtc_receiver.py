"""Video over a link that loses, delays and reorders packets: repaired, and as aiortc has it.

A test that takes `is_repaired` is expected to fail with aiortc as it is; once it does not, that
repair is not needed any more.
"""

import random
from itertools import pairwise

import numpy as np
import pytest
from aiortc.rate import RemoteBitrateEstimator
from aiortc.rtp import RtpPacket

from server.rtc_nack import RepeatedNack
from server.rtc_receiver import UPLINK_BPS, EarlyEstimator
from tests.fakes import Clock
from tests.scripted_link import FPS, Camera, Heard, picture, send

STOCK_FAILS = pytest.mark.parametrize(
    "is_repaired",
    [True, pytest.param(False, marks=pytest.mark.xfail(strict=True, raises=AssertionError))],
    ids=["repaired", "stock"],
)
BOTH_CODECS = pytest.mark.parametrize("codec", ["VP8", "H264"])

SMALL, LARGE = 64, 256  # frames of one packet, and of several


def psnr_db(sent: np.ndarray, shown: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((sent.astype(float) - shown) ** 2)))


@STOCK_FAILS
@BOTH_CODECS
def test_a_frame_is_given_out_with_its_last_packet(codec: str, is_repaired: bool) -> None:
    heard = send(is_repaired, Camera(codec, side_px=LARGE), frames=10)
    assert heard.delays_s == pytest.approx(dict.fromkeys(range(10), 0.0))
    assert sorted(heard.decoded) == list(range(10))


@STOCK_FAILS
@BOTH_CODECS
def test_a_packet_that_never_comes_stops_the_picture_briefly(codec: str, is_repaired: bool) -> None:
    camera = Camera(codec, side_px=LARGE)
    heard = send(
        is_repaired, camera, frames=90, fate=lambda number, _: None if number == 40 else 0.0
    )
    assert heard.longest_freeze_s < 0.35
    for number, shown in heard.decoded.items():
        assert psnr_db(picture(number, LARGE), shown) > 20, number  # nothing builds on a lost frame


def send_without(number: int, attempts: int, *, is_repaired: bool = True) -> Heard:
    """Send frames of which one packet is lost so often."""
    return send(
        is_repaired,
        Camera("VP8", side_px=LARGE),
        frames=40,
        fate=lambda n, attempt: None if n == number and attempt < attempts else 0.0,
    )


@STOCK_FAILS
def test_a_lost_repetition_is_asked_for_again(is_repaired: bool) -> None:
    heard = send_without(40, attempts=2, is_repaired=is_repaired)
    assert len(heard.decoded) == 40
    assert not heard.keyframes_asked_s


def test_a_repetition_is_asked_for_again_before_the_next_frame_shows_that_it_was_lost() -> None:
    heard = send_without(40, attempts=4)
    assert len(heard.decoded) == 40
    assert max(heard.delays_s.values()) == pytest.approx(0.2, abs=0.01)  # not 0.24
    assert not heard.keyframes_asked_s


def test_what_is_late_after_a_hold_up_is_neither_asked_for_nor_waited_for() -> None:
    clock = Clock()
    nack = RepeatedNack(clock=clock)
    assert not nack.add(RtpPacket(sequence_number=1))
    assert nack.add(RtpPacket(sequence_number=3))
    assert nack.wait_s() == pytest.approx(0.05)
    clock.now_s += 5
    assert nack.repeat() == []
    assert nack.wait_s() is None


def test_lost_repetitions_are_asked_for_again_where_numbers_wrap() -> None:
    def lose(number: int, attempt: int) -> float | None:
        is_first_gap, is_later_gap = 38 <= number < 42, number == 70
        return None if attempt < 3 and (is_first_gap or is_later_gap) else 0.0

    camera = Camera("VP8", side_px=LARGE, first=65536 - 40)
    heard = send(True, camera, frames=60, fate=lose)
    assert len(heard.decoded) == 60
    assert not heard.keyframes_asked_s


@STOCK_FAILS
def test_a_late_packet_delays_no_frame_after_it(is_repaired: bool) -> None:
    camera = Camera("VP8", side_px=SMALL)
    heard = send(
        is_repaired, camera, frames=40, fate=lambda number, _: 0.09 if number == 10 else 0.0
    )
    assert len(camera.packets) == len(heard.decoded) == 40
    assert max(heard.delays_s[number] for number in range(15, 40)) < 0.01


@STOCK_FAILS
def test_padding_between_frames_is_no_frame(is_repaired: bool) -> None:
    heard = send(is_repaired, Camera("VP8", side_px=LARGE), frames=20, has_padding=True)
    assert len(heard.decoded) == 20


def test_five_packets_in_a_hundred_lost_stop_nothing_for_long() -> None:
    dice = random.Random(1)
    heard = send(
        True,
        Camera("VP8", side_px=LARGE),
        frames=300,
        fate=lambda _number, _attempt: None if dice.random() < 0.05 else 0.0,
    )
    assert len(heard.decoded) == 300
    assert heard.longest_freeze_s < 0.25  # 0.44 with aiortc as it is


def test_reordered_packets_lose_nothing() -> None:
    dice = random.Random(2)
    heard = send(
        True,
        Camera("VP8", side_px=LARGE),
        frames=60,
        fate=lambda number, _attempt: 0.0 if number == 0 else dice.uniform(0.0, 0.05),
    )
    assert len(heard.decoded) == 60
    assert not heard.keyframes_asked_s


def test_patience_grows_with_the_round_trip() -> None:
    heard = send(
        True,
        Camera("VP8", side_px=LARGE),
        frames=150,
        rtt_s=0.3,
        fate=lambda number, attempt: None if number % 40 == 20 and attempt == 0 else 0.0,
    )
    late = [number for number in heard.decoded if heard.delays_s[number] > 0.25]
    assert late  # waited for, once the first loss has shown how long that takes
    assert set(range(75, 150)) <= heard.decoded.keys()


@STOCK_FAILS
@BOTH_CODECS
def test_a_decoder_that_is_too_slow_is_given_less_and_goes_on_with_a_keyframe(
    codec: str, is_repaired: bool
) -> None:
    heard = send(is_repaired, Camera(codec, side_px=LARGE), frames=120, stuck_s=(1.0, 3.0))
    assert heard.most_waiting < 15, "half a second"
    assert heard.keyframes_asked_s
    assert set(range(100, 120)) <= heard.decoded.keys(), "it is live at once"
    for number in range(100, 120):
        assert psnr_db(picture(number, LARGE), heard.decoded[number]) > 20, number


def test_sequence_numbers_wrap() -> None:
    camera = Camera("VP8", side_px=LARGE, first=65_500)
    heard = send(
        True,
        camera,
        frames=40,
        fate=lambda number, attempt: None if number in (35, 36, 37) and attempt == 0 else 0.0,
    )
    assert len(camera.packets) > 60
    assert len(heard.decoded) == 40


def test_keyframes_are_not_asked_for_too_often() -> None:
    heard = send(
        True,
        Camera("VP8", side_px=LARGE),
        frames=120,
        fate=lambda number, _: None if 40 <= number < 250 and number % 3 == 0 else 0.0,
    )
    assert len(heard.keyframes_asked_s) > 1
    assert min(b - a for a, b in pairwise(heard.keyframes_asked_s)) >= 0.3


def grants(estimator: RemoteBitrateEstimator, *, seconds: int, growing_delay_ms: float) -> list:
    """Feed a steady 300 kbit/s; return the bitrates granted, with their times in ms."""
    found = []
    for number in range(30 * seconds):
        sent_s = number / FPS
        arrival_ms = round(1000 * sent_s + growing_delay_ms * number)
        granted = estimator.add(
            arrival_time_ms=arrival_ms,
            abs_send_time=round(sent_s * (1 << 18)) & 0xFFFFFF,
            payload_size=1250,
            ssrc=1,
        )
        if granted is not None:
            assert granted[1] == [1]
            found.append((arrival_ms, granted[0]))
    return found


@STOCK_FAILS
def test_a_good_bitrate_is_granted_from_the_start(is_repaired: bool) -> None:
    found = grants(
        EarlyEstimator() if is_repaired else RemoteBitrateEstimator(),
        seconds=10,
        growing_delay_ms=0.0,
    )
    assert found[0][0] < 100
    assert min(bitrate for _, bitrate in found) >= UPLINK_BPS
    assert sum(at_ms < 4000 for at_ms, _ in found) >= 25  # some may be lost


def test_a_narrow_link_ends_the_grant() -> None:
    found = grants(EarlyEstimator(), seconds=4, growing_delay_ms=5.0)
    assert found[-1][1] < 400_000
