"""Video encoders for live pictures: aiortc's packets around its codecs, opened with other settings.

They know neither the network nor the avatar.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Final

import av
from aiortc.codecs import get_encoder as get_stock_encoder
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder, number_of_threads
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.frame import Frame
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

START_BPS: Final = 1_500_000  # shows a face of 512 pixels well
_MIN_BPS: Final = 100_000
MAX_BPS: Final = 2_500_000

_CLOCK_RATE: Final = 90_000  # of RTP video
_USUAL_FPS: Final = 30
_KEYFRAME_INTERVAL: Final = 3000  # frames; the other side asks when it needs one
_VP8_STEP: Final = 0.25  # a new bitrate means a new encoder and a keyframe


def get_encoder(codec: RTCRtpCodecParameters) -> Encoder:
    """Return a new encoder for a negotiated codec.

    Raises:
        ValueError: there is none.
    """
    live = LIVE_ENCODERS.get(codec.name)
    return get_stock_encoder(codec) if live is None else live()


class LiveVp8Encoder(Vp8Encoder):
    """VP8 without a denoiser, because a rendered picture has no noise.

    libvpx cannot change its bitrate through PyAV, so a request for a new one is followed from a
    quarter on, and a change of a few per cent costs no keyframe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wanted_bps = self._used_bps = START_BPS
        self._reformatter = VideoReformatter()  # a frame's own would start threads for each frame

    @property
    def target_bitrate(self) -> int:
        """The bitrate in use, in bit/s; set by aiortc when the other side estimates one."""
        return self._used_bps

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._wanted_bps = _clamp(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Return a frame's RTP payloads and its time in units of 1/90000 s."""
        assert isinstance(frame, av.VideoFrame), "only pictures are encoded"
        return self.pack(to_packet(self, frame, force_keyframe))

    def access_unit(self, frame: av.VideoFrame, force_keyframe: bool) -> tuple[bytes, bool]:
        """Return a coded frame, and whether it is a keyframe."""
        frame = self._reformatter.reformat(frame, format="yuv420p")
        wanted_bps = self._wanted_bps  # set by the event loop at any time
        if abs(wanted_bps - self._used_bps) > _VP8_STEP * self._used_bps:
            self._used_bps = wanted_bps
            self.codec = None
        if not _fits(self.codec, frame):
            self.codec = _open_vp8(frame, self._used_bps)
        assert self.codec is not None
        return _code(self.codec, frame, force_keyframe)


class LiveH264Encoder(H264Encoder):
    """H.264 by x264's fastest preset, which changes its bitrate without a keyframe."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted_bps = START_BPS

    @property
    def target_bitrate(self) -> int:
        """The bitrate in bit/s; set by aiortc when the other side estimates one."""
        return self._wanted_bps

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._wanted_bps = _clamp(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Return a frame's RTP payloads and its time in units of 1/90000 s."""
        assert isinstance(frame, av.VideoFrame), "only pictures are encoded"
        return self.pack(to_packet(self, frame, force_keyframe))

    def access_unit(self, frame: av.VideoFrame, force_keyframe: bool) -> tuple[bytes, bool]:
        """Return a frame as an access unit, Annex B, and whether it is a keyframe."""
        if not _fits(self.codec, frame):
            self.codec = _open_h264(frame)
        assert self.codec is not None
        self.codec.bit_rate = self._wanted_bps
        return _code(self.codec, frame, force_keyframe)


LiveEncoder = LiveVp8Encoder | LiveH264Encoder

LIVE_ENCODERS: Final[dict[str, type[LiveEncoder]]] = {
    "VP8": LiveVp8Encoder,
    "H264": LiveH264Encoder,
}


def to_packet(
    encoder: LiveEncoder, frame: av.VideoFrame, force_keyframe: bool
) -> av.Packet[Stream]:
    """Return a coded frame with the frame's time."""
    pts, time_base = frame.pts, frame.time_base  # the encoder changes those of the frame
    assert time_base is not None, "frames that are sent have times"
    data, is_keyframe = encoder.access_unit(frame, force_keyframe)
    packet = av.Packet(data)
    packet.pts, packet.time_base, packet.is_keyframe = pts, time_base, is_keyframe
    return packet


def _code(codec: VideoCodecContext, frame: av.VideoFrame, force: bool) -> tuple[bytes, bool]:
    # A frame that is sent again must not be a keyframe again.
    frame.pict_type = PictureType.I if force else PictureType.NONE
    packets = codec.encode(frame)
    return b"".join(map(bytes, packets)), any(packet.is_keyframe for packet in packets)


def _clamp(bitrate: int) -> int:
    return max(_MIN_BPS, min(bitrate, MAX_BPS))


def _fits(codec: VideoCodecContext | None, frame: av.VideoFrame) -> bool:
    return codec is not None and (codec.width, codec.height) == (frame.width, frame.height)


def _prepare(name: str, frame: av.VideoFrame, bitrate: int) -> VideoCodecContext:
    codec = av.CodecContext.create(name, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height = frame.width, frame.height
    codec.pix_fmt = "yuv420p"
    codec.bit_rate = bitrate
    codec.gop_size = _KEYFRAME_INTERVAL
    # Left alone x264 starts a thread and a half per core for every stream.
    codec.thread_count = number_of_threads(frame.width * frame.height, os.cpu_count() or 1)
    return codec


def _open_vp8(frame: av.VideoFrame, bitrate: int) -> VideoCodecContext:
    codec = _prepare("libvpx", frame, bitrate)
    codec.qmin, codec.qmax = 2, 56
    codec.options = {
        "deadline": "realtime",
        "cpu-used": "-6",
        "lag-in-frames": "0",
        # All three the same is a constant bitrate with a buffer of one second.
        "minrate": str(bitrate),
        "maxrate": str(bitrate),
        "bufsize": str(bitrate),
        "undershoot-pct": "100",
        "overshoot-pct": "15",
        "static-thresh": "1",
    }
    return codec


def _open_h264(frame: av.VideoFrame) -> VideoCodecContext:
    # x264 changes its bitrate in place only when it was opened at a constant one, downwards.
    codec = _prepare("libx264", frame, MAX_BPS)
    codec.framerate = Fraction(_USUAL_FPS)
    codec.time_base = Fraction(1, _CLOCK_RATE)
    codec.profile = "Baseline"
    codec.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "level": "31",
        "maxrate": str(MAX_BPS),
        "bufsize": str(MAX_BPS // 4),
    }
    codec.open()
    return codec
