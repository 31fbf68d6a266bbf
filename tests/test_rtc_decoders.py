"""What received video may unfold to."""

from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs import get_encoder
from aiortc.codecs.vpx import VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame

from server.rtc_decoders import MAX_PIXELS, get_decoder
from tests.scripted_link import CODECS


def coded(codec: str, width: int, height: int) -> JitterFrame:
    """Return a keyframe of a grey picture."""
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 90_000)
    if codec == "VP8":
        payloads, _ = get_encoder(CODECS["VP8"]).encode(frame, True)
        return JitterFrame(b"".join(VpxPayloadDescriptor.parse(each)[1] for each in payloads), 0)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 30), {"preset": "ultrafast"}
    packets = [*encoder.encode(frame.reformat(format="yuv420p")), *encoder.encode(None)]
    return JitterFrame(b"".join(map(bytes, packets)), 0)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_a_picture_as_large_as_a_webcams_is_decoded(codec: str) -> None:
    decoder = get_decoder(CODECS[codec])
    frames = decoder.decode(coded(codec, 1920, 1080))
    if codec == "H264":
        frames += decoder.codec.decode(None)  # it holds the last one back
    [frame] = frames
    assert isinstance(frame, av.VideoFrame)
    assert (frame.width, frame.height) == (1920, 1080)


def test_h264_larger_than_that_is_refused() -> None:
    frame = coded("H264", 4096, MAX_PIXELS // 4096 + 25)
    with pytest.raises(av.FFmpegError):
        get_decoder(CODECS["H264"]).decode(frame)


def test_a_vp8_header_that_claims_more_is_refused_before_it_costs_memory() -> None:
    frame = coded("VP8", 64, 64)
    side = (16383).to_bytes(2, "little")
    frame.data = frame.data[:6] + side + side + frame.data[10:]
    with pytest.raises(av.FFmpegError, match="16383x16383"):
        get_decoder(CODECS["VP8"]).decode(frame)
