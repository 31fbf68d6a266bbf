"""GStreamer publishes a real clip, another GStreamer plays the avatar back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from mimaface.photo import built_in_portraits
from tests.browser_setup import FPS, HEIGHT_PX, WIDTH_PX, moving_face, run_server

PYTHON = "/usr/bin/python3"  # GStreamer's bindings are the system's
CLIENT = Path(__file__).with_name("gstreamer_client.py")
NEEDED = "webrtcbin nicesrc vp8dec openh264dec matroskademux opusenc rtpvp8pay rtph264pay"
RATE = 48_000
TONE_HZ = 440  # that the client publishes
FRAMES = 60
CODECS = {"VP8": "libvpx", "H264": "libx264"}


def missing() -> str:
    """Return what GStreamer lacks here, or nothing."""
    script = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstWebRTC', '1.0');"
        "from gi.repository import Gst, GstWebRTC; Gst.init(None);"
        f"print(*(n for n in '{NEEDED}'.split() if Gst.ElementFactory.find(n) is None))"
    )
    try:
        asked = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True)
    except OSError:
        return PYTHON
    return asked.stdout.strip() if asked.returncode == 0 else "its Python bindings"


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(bool(missing()), reason=f"GStreamer here lacks {missing()}"),
]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with run_server("--steps", "0", "--size-px", "256", "--strict-etags") as server:
        yield server.url


@pytest.fixture(scope="module", params=CODECS)
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of a face that moves, with a keyframe every second."""
    path = tmp_path_factory.mktemp("clip") / f"{request.param}.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream(CODECS[request.param], rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        video.bit_rate, video.gop_size = 1_000_000, FPS
        video.options = {
            "VP8": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
            "H264": {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"},
        }[request.param]
        packets = []
        for number, picture in enumerate(moving_face(built_in_portraits()[1], frames=2 * FPS)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode(None)
        coded = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(120 * FPS):  # the same again and again
            payload, is_keyframe = coded[number % len(coded)]
            packet = av.Packet(payload)
            packet.stream, packet.is_keyframe = video, is_keyframe
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, FPS)
            container.mux(packet)
    return path


@contextmanager
def gstreamer(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [PYTHON, str(CLIENT), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None, "it was asked for"
    line = process.stdout.readline()
    assert line, "the client ended; its error is above"
    return json.loads(line)


def strongest_hz(sound: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(spectrum.argmax() * RATE / len(sound))


def test_gstreamer_publishes_a_clip_and_another_plays_the_avatar(
    server_url: str, clip: Path, tmp_path: Path
) -> None:
    codec = clip.stem
    with httpx.Client(base_url=server_url, timeout=60) as client:
        [source, *_] = built_in_portraits()
        session = client.post("/v1/sessions", json={"source": source.stem}).json()
        whip, whep = (f"{server_url}{session[name]}" for name in ("whip_url", "whep_url"))
        with gstreamer("publish", whip, session["tokens"]["publish"], clip) as publisher:
            connected = told(publisher)
            assert set(connected["trickled"]) == {204}
            watch = session["tokens"]["watch"]
            with gstreamer("play", whep, watch, tmp_path, FRAMES, codec) as viewer:
                played = told(viewer)
            assert played == {"size": [256, 256], "ended": 200}
            assert client.get(f"{session['url']}/stats").json()["state"] in ("calibrating", "live")
            publisher.communicate("")
            assert publisher.returncode == 0
        client.delete(session["url"]).raise_for_status()
    frames = np.fromfile(tmp_path / "frames", np.uint8).reshape(-1, 256, 256).astype(np.float32)
    assert len(frames) == FRAMES
    assert max(np.abs(frame - frames[0]).mean() for frame in frames) > 1.0, "it does not move"
    sound = np.fromfile(tmp_path / "sound", np.int16)
    assert strongest_hz(sound[-RATE:]) == pytest.approx(TONE_HZ, abs=5)
