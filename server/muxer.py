"""The avatar's pictures and sound as H.264 and AAC in any of FFmpeg's containers, as they come."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from server.canvas import Canvas
from server.program import Picture, Piece
from server.tracks import RATE

_TICKS: Final = 90_000  # a second, of the pictures
_USUAL_FPS: Final = 30
_KEYFRAME_S: Final = 2.0  # what streaming services ask for, and what a crash may cost a recording
_THREADS: Final = 2
_SOUND_BPS: Final = 128_000
_SMOOTH: Final = RATE // 10  # samples, 100 ms: sound that is off by less is just late to be read


class Muxer:
    """Writes one stream, which begins with its first picture; used by one thread.

    The rate of the pictures varies: each has the time at which it was shown. Sound from before the
    first picture is left out, and a gap in it is silence.
    """

    def __init__(
        self, container: OutputContainer, canvas: Canvas, *, quality: Mapping[str, str]
    ) -> None:
        """Write to `container` in the size of `canvas`; `quality` are options of x264."""
        self._container, self._canvas = container, canvas
        self._reformatter = VideoReformatter()
        self._video = container.add_stream(
            "libx264",
            rate=_USUAL_FPS,
            # Without a look ahead nothing waits in the encoder, to be late or lost in a crash.
            options={"tune": "zerolatency", **quality},
        )
        self._video.width, self._video.height = canvas.width, canvas.height
        self._video.pix_fmt = "yuv420p"
        codec = self._video.codec_context
        codec.time_base = Fraction(1, _TICKS)
        codec.thread_count = _THREADS
        # Without these marks players guess the colours from the size of the picture.
        codec.colorspace = Colorspace.ITU709
        codec.color_primaries = ColorPrimaries.BT709
        codec.color_trc = ColorTrc.BT709
        codec.color_range = ColorRange.MPEG
        self._sound = container.add_stream("aac", rate=RATE, layout="mono")
        self._sound.bit_rate = _SOUND_BPS
        self._start_s: float | None = None
        self._pts = -1
        self._keyframe_s = float("-inf")
        self._heard = 0  # samples written
        # The header goes out now: an address that does not answer is to say so at once.
        container.start_encoding()
        self._resampler = av.AudioResampler(
            self._sound.codec_context.format, "mono", RATE, self._sound.codec_context.frame_size
        )

    def write(self, item: Picture | Piece) -> None:
        """Add a picture or sound.

        Raises:
            OSError, av.FFmpegError: it cannot be written.
        """
        if isinstance(item, Picture):
            self._write_picture(item)
        elif self._start_s is not None:
            self._write_sound(item, round((item.time_s - self._start_s) * RATE))

    def close(self) -> None:
        """Write what is left, and the end.

        Raises:
            OSError, av.FFmpegError: it cannot be written.
        """
        self._container.mux(self._video.encode(None))
        for frame in self._resampler.resample(None):
            self._container.mux(self._sound.encode(frame))
        self._container.mux(self._sound.encode(None))
        self._container.close()

    def _write_picture(self, picture: Picture) -> None:
        if self._start_s is None:
            self._start_s = picture.time_s
        rgb = self._canvas.fit(picture.pixels, picture.portrait)
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(rgb, "rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        self._pts = max(round((picture.time_s - self._start_s) * _TICKS), self._pts + 1)
        frame.pts, frame.time_base = self._pts, Fraction(1, _TICKS)
        # By the clock and not by count: at rest there are only a few pictures a second.
        is_due = picture.time_s - self._keyframe_s >= _KEYFRAME_S
        frame.pict_type = PictureType.I if is_due else PictureType.NONE
        if is_due:
            self._keyframe_s = picture.time_s
        self._container.mux(self._video.encode(frame))

    def _write_sound(self, piece: Piece, position: int) -> None:
        samples = piece.samples
        gap = position - self._heard
        if gap > _SMOOTH or (self._heard == 0 and gap > 0):
            samples = np.concatenate([np.zeros(gap, np.int16), samples])
        elif gap < -_SMOOTH or (self._heard == 0 and gap < 0):
            samples = samples[-gap:]
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts, frame.time_base = self._heard, Fraction(1, RATE)
        self._heard += len(samples)
        for part in self._resampler.resample(frame):
            self._container.mux(self._sound.encode(part))
