"""The block counter that measures glass to glass."""

import numpy as np
import pytest

from server.latency_marker import LatencyMarker, MarkedExtractor, draw_counter, read_counter
from streaming.types import AvatarFrame
from tests.fakes import Extractor


@pytest.mark.parametrize("counter", [0, 1, 0x8000, 0xBEEF, 0xFFFF])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (240, 320), (256, 256), (360, 478)])
def test_a_drawn_counter_is_read_back_at_any_size(counter: int, height: int, width: int) -> None:
    picture = np.full((height, width, 3), 120, np.uint8)
    marked = draw_counter(picture, counter)
    assert read_counter(marked) == counter
    assert (picture == 120).all()
    assert (marked[height // 12 :] == 120).all()


def test_the_number_of_a_driving_frame_appears_on_its_avatar_frame_alone() -> None:
    marker = LatencyMarker()
    extractor = MarkedExtractor(Extractor(), marker)
    extractor.extract(1.5, draw_counter(np.zeros((480, 640, 3), np.uint8), 0xBEEF))
    plain = np.full((256, 256, 3), 77, np.uint8)
    marked = marker.draw(AvatarFrame(time_s=1.5, pixels=plain))
    assert read_counter(marked) == 0xBEEF
    assert marker.draw(AvatarFrame(time_s=1.6, pixels=plain)) is plain


def test_old_numbers_are_forgotten() -> None:
    marker = LatencyMarker()
    for number in range(1000):
        marker.note(float(number), draw_counter(np.zeros((480, 640, 3), np.uint8), number))
    plain = np.full((256, 256, 3), 77, np.uint8)
    assert marker.draw(AvatarFrame(time_s=0.0, pixels=plain)) is plain
    assert read_counter(marker.draw(AvatarFrame(time_s=999.0, pixels=plain))) == 999
