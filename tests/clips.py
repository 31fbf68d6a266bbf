"""Small videos without a face, recorded the way a camera does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mimaface.types import Pixels


def picture(index: int = 0, *, height: int = 96, width: int = 128) -> Pixels:
    """Return a picture whose colour changes with its index; its left upper corner is white."""
    rgb = np.full((height, width, 3), (40, 90, 60 + 3 * index % 120), np.uint8)
    rgb[: height // 4, : width // 4] = 255
    return rgb


def record(
    path: Path, *, codec: str = "aac", click_s: float = 1.0, start_s: float = 0.0, turned: int = 0
) -> Path:
    """Write two seconds the way a camera does, with a click in the sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.set_display_rotation(turned)
        audio = container.add_stream(codec, rate=48_000, layout="mono")
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts, frame.time_base = round(index + start_s * 25), Fraction(1, 25)
            container.mux(video.encode(frame))
        samples = np.zeros((1, 96_000), np.float32)
        click = slice(round(click_s * 48_000), round(click_s * 48_000) + 960)
        samples[0, click] = 0.9 * np.sin(2 * np.pi * 2000 * np.arange(960) / 48_000)
        sound = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        sound.sample_rate, sound.time_base = 48_000, Fraction(1, 48_000)
        sound.pts = round(start_s * 48_000)
        context = audio.codec_context
        cutter = av.AudioResampler(context.format, "mono", 48_000, context.frame_size)
        for part in cutter.resample(sound):
            container.mux(audio.encode(part))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path
