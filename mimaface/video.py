"""Driving videos in, avatar videos out, through PyAV.

`VideoReader` delivers every picture that can be decoded, upright and with its time;
`write_video` makes an MP4 that browsers play, with the driver's sound. Time zero is the driver's
first frame. Neither knows what a face is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final, Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from mimaface.errors import UnreadableMediaError
from mimaface.types import Pixels
from mimaface.whole_file import naming_errors, whole_file

# A whole number of ticks for 24, 25, 30, 50 and 60 frames a second and for 1000/1001 of them.
TICK_S: Final = Fraction(1, 240_000)
USUAL_FPS: Final = 30.0
SHORT_BY_S: Final = 0.5  # pictures that end this much before the announced end were cut off
SOUND_RATE: Final = 48_000  # Hz, when the sound has to be encoded anew


class VideoReader:
    """Read a driving video once, frame by frame, in constant memory.

    A damaged video yields what can be decoded; `notes` then says what was lost.

    Attributes:
        path: the file.
        fps: its average frame rate; frames keep their own times, however uneven.
        expected_frames: roughly how many frames will come, None when the file does not say.
        start_s: the time of the first frame on the file's own clock.
        notes: sentences about damage, complete when the last frame was read.
    """

    def __init__(self, path: Path) -> None:
        """Open the video and decode its first frame.

        Raises:
            UnreadableMediaError: there is no such file, or no picture in it can be decoded.
        """
        self.path = path
        self.notes: list[str] = []
        self._container = _open(path)
        videos = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of an album
        ]
        if not videos:
            raise UnreadableMediaError(f"{path} holds no pictures: choose a video")
        self._stream = videos[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        # Recordings made in a browser announce the 1000 Hz of their clock, or nothing.
        self.fps = float(rate) if rate and 1 <= rate <= 240 else USUAL_FPS
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise UnreadableMediaError(
                f"no picture of {path} can be decoded: the file is damaged or incomplete"
            )
        self._first = first
        self.start_s = float(first.time or 0.0)
        duration_s = self._announced_s()
        self.expected_frames = round(duration_s * self.fps) if duration_s else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[float, Pixels]]:
        """Yield the time, strictly increasing, and the picture, uint8 [H, W, 3], of each frame."""
        time_s = -1 / self.fps
        for frame in chain([self._first], self._frames):
            # Some files give a frame no time, or a time that has been.
            following_s = time_s + 1 / self.fps
            found_s = following_s if frame.time is None else frame.time - self.start_s
            time_s = found_s if found_s > time_s else following_s
            yield time_s, _upright(frame, self._stream.sample_aspect_ratio)
        announced_s = self._announced_s()
        if announced_s is not None and time_s + SHORT_BY_S < announced_s:
            self.notes.append(
                f"the pictures end after {time_s:.1f} s of the {announced_s:.1f} s announced"
            )

    def _announced_s(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            end = (self._container.start_time or 0) + self._container.duration
            return float(end / av.time_base) - self.start_s
        return None

    def _decode(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        lost = 0
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                yield from packet.decode()
            except av.FFmpegError:
                lost += 1
        # A demuxer that stopped at an error has left frames in the decoder.
        with suppress(av.FFmpegError):
            yield from self._stream.decode(None)
        if lost:
            self.notes.append(f"{lost} damaged pieces of the video were left out")


@contextmanager
def write_video(
    path: Path, *, width: int, height: int, fps: float, driver: VideoReader | None = None
) -> Iterator[VideoWriter]:
    """Write an H.264 MP4 that starts playing while it loads.

    The file appears under its name when the block ends, and not at all after an error.

    Args:
        path: where it will be; a file there is replaced.
        width: pixels, even.
        height: pixels, even.
        fps: average frame rate, also the duration of the last frame.
        driver: the video whose sound this one gets.

    Raises:
        UnwritableMediaError: the folder is missing, read-only or full.
    """
    if width % 2 or height % 2:
        raise ValueError(f"width and height must be even, found {width}x{height}")
    with whole_file(path) as partial:
        with naming_errors(path):
            container = av.open(
                f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}
            )
        try:
            writer = VideoWriter(container, path, width, height, fps, driver)
            yield writer
            with naming_errors(path):
                writer.finish()
                container.close()
        finally:
            with suppress(av.FFmpegError):
                container.close()


class VideoWriter:
    """Takes the frames of one video; made by `write_video`."""

    def __init__(
        self,
        container: OutputContainer,
        path: Path,
        width: int,
        height: int,
        fps: float,
        driver: VideoReader | None,
    ) -> None:
        self._container, self._path = container, path
        self._stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"}
        )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TICK_S
        # Without these marks players guess the colours from the size of the picture.
        self._stream.codec_context.colorspace = Colorspace.ITU709
        self._stream.codec_context.color_primaries = ColorPrimaries.BT709
        self._stream.codec_context.color_trc = ColorTrc.BT709
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._frame_s = 1 / fps
        self._end_s = 0.0
        self._sound = _sound(driver, container) if driver else iter(())
        self._next_sound = next(self._sound, None)

    def write(self, time_s: float, rgb: Pixels) -> None:
        """Add a frame, uint8 [H, W, 3], shown from `time_s`, later than the one before.

        Raises:
            UnwritableMediaError: there is no room.
        """
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.time_base, frame.pts = TICK_S, round(time_s / TICK_S)
        frame.duration = round(self._frame_s / TICK_S)
        with naming_errors(self._path):
            self._container.mux(self._stream.encode(frame))
            self._end_s = time_s + self._frame_s
            self._mux_sound()

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
        self._mux_sound()

    def _mux_sound(self) -> None:
        while self._next_sound is not None and _time_s(self._next_sound) < self._end_s:
            self._container.mux(self._next_sound)
            self._next_sound = next(self._sound, None)


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise UnreadableMediaError(f"there is no file {path}")
    try:
        # As a local file, or a name with a colon in it would be taken for an address.
        return av.open(f"file:{path}")
    except av.FFmpegError as error:
        raise UnreadableMediaError(
            f"{path} is not a video that can be read ({error.strerror}): "
            "choose a complete MP4, WebM, MOV or MKV"
        ) from error


def _upright(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> Pixels:
    width = round(frame.width * (pixel_aspect or 1))
    rgb = frame.reformat(width=width, format="rgb24").to_ndarray()
    turned = np.rot90(rgb, round(frame.rotation / 90))
    return np.ascontiguousarray(turned, dtype=np.uint8)


def _sound(driver: VideoReader, output: OutputContainer) -> Iterator[av.Packet[AudioStream]]:
    """Add a sound track to the output and return its packets, on the clock of the frames."""
    source = _open(driver.path)
    if not source.streams.audio:
        source.close()
        return iter(())
    stream = source.streams.audio[0]
    if stream.codec_context.name == "aac":
        return _copied(source, stream, output.add_stream_from_template(stream), driver.start_s)
    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    track = output.add_stream("aac", rate=SOUND_RATE, layout=layout)
    return _encoded(source, stream, track, driver.start_s)


def _copied(
    source: InputContainer, stream: AudioStream, track: AudioStream, start_s: float
) -> Iterator[av.Packet[AudioStream]]:
    with source, suppress(av.FFmpegError):
        for packet in source.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            start = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            # One packet from before the start stays: decoders need it for the first one.
            if packet.pts + (packet.duration or 0) >= 0:
                packet.stream = track
                yield packet


def _encoded(
    source: InputContainer, stream: AudioStream, track: AudioStream, start_s: float
) -> Iterator[av.Packet[AudioStream]]:
    track.codec_context.open()
    resampler = av.AudioResampler(
        format=track.codec_context.format,
        layout=track.codec_context.layout,
        rate=SOUND_RATE,
        frame_size=track.codec_context.frame_size,
        # Silence fills the gaps of a recording, so that what follows stays in time.
        options={"async": "1", "first_pts": "0"},
    )
    with source:
        for packet in source.demux(stream):
            parts: list[av.AudioFrame] = []
            # What is damaged, or of another format than the rest, becomes silence.
            with suppress(av.FFmpegError, ValueError):
                for frame in packet.decode():
                    if frame.pts is not None and frame.time_base is not None:
                        frame.pts -= round(start_s / frame.time_base)
                    parts += resampler.resample(frame)
            for part in parts:
                yield from track.encode(part)
        for part in resampler.resample(None):
            yield from track.encode(part)
        yield from track.encode(None)


def _time_s(packet: av.Packet[AudioStream]) -> float:
    return float((packet.pts or 0) * packet.time_base)
