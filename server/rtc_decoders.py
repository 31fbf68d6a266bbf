"""Decoders of received video, which refuse pictures larger than any webcam's.

A coded picture of a few kilobytes can unfold to half a gigabyte.
"""

from __future__ import annotations

from typing import Final

import av
from aiortc.codecs import get_decoder as get_any_decoder
from aiortc.codecs.base import Decoder
from aiortc.codecs.h264 import H264Decoder
from aiortc.codecs.vpx import Vp8Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.frame import Frame

MAX_PIXELS: Final = 3840 * 2160

_VP8_HEADER: Final = 10  # bytes of a keyframe's (RFC 6386, 9.1)


class CarefulH264Decoder(H264Decoder):
    """aiortc's, with a limit that FFmpeg keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.codec.options = {"max_pixels": str(MAX_PIXELS)}


class CarefulVp8Decoder(Vp8Decoder):
    """aiortc's, with a look at the size first: libvpx would take the memory at once."""

    def decode(self, encoded_frame: JitterFrame) -> list[Frame]:
        """Return the decoded frames.

        Raises:
            av.FFmpegError: the data are damaged, or a picture is too large.
        """
        data = encoded_frame.data
        if len(data) >= _VP8_HEADER and data[0] & 1 == 0:
            width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (6, 8))
            if width * height > MAX_PIXELS:
                raise av.ArgumentError(22, f"a picture of {width}x{height} is refused")
        return super().decode(encoded_frame)


def get_decoder(codec: RTCRtpCodecParameters) -> Decoder:
    """Return a decoder; aiortc's name for it."""
    kind = codec.mimeType.lower()
    if kind == "video/h264":
        return CarefulH264Decoder()
    if kind == "video/vp8":
        return CarefulVp8Decoder()
    return get_any_decoder(codec)
