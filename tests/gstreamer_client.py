"""A WHIP and WHEP client made of GStreamer's webrtcbin, run by the system's Python.

publish URL TOKEN CLIP: play a Matroska file of VP8 or H.264 and a tone into a session, until the
standard input ends. Candidates are trickled.
play URL TOKEN FOLDER FRAMES CODEC: write so many grey frames and the sound that came with them to
`frames` and `sound` there, and say what they are. The offer has all candidates.

Each line of the standard output is a JSON object.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC  # noqa: E402

PATIENCE_S: Final = 30
PAYLOADERS: Final = {
    "V_VP8": "rtpvp8pay picture-id-mode=15-bit ! application/x-rtp,encoding-name=VP8",
    "V_MPEG4/ISO/AVC": (
        "h264parse ! rtph264pay config-interval=-1 aggregate-mode=zero-latency"
        " ! application/x-rtp,encoding-name=H264"
    ),
}
PUBLISHER: Final = """
webrtcbin name=webrtc bundle-policy=max-bundle
filesrc location="{clip}" ! matroskademux ! identity sync=true ! {payloader},payload=96 ! webrtc.
audiotestsrc is-live=true freq=440 ! audio/x-raw,rate=48000,channels=2 ! opusenc ! rtpopuspay
 ! application/x-rtp,encoding-name=OPUS,payload=97 ! webrtc.
"""
OFFERED: Final = {
    "VP8": "media=video,clock-rate=90000,payload=96",
    "H264": (
        "media=video,clock-rate=90000,payload=96"
        ",packetization-mode=(string)1,profile-level-id=(string)42e01f"
    ),
    "OPUS": "media=audio,clock-rate=48000,encoding-params=(string)2,payload=97",
}
DECODERS: Final = {
    "VP8": "rtpvp8depay ! vp8dec",
    "H264": "rtph264depay ! h264parse ! openh264dec",
    "OPUS": "rtpopusdepay ! opusdec",
}
WRITERS: Final = {
    "video": "videoconvert ! video/x-raw,format=GRAY8 ! appsink name=frames sync=false",
    "audio": (
        "audioconvert ! audioresample ! audio/x-raw,format=S16LE,rate=48000,channels=1"
        " ! appsink name=sound sync=false"
    ),
}


class Session:
    """A WHIP or WHEP session over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._etag = ""

    def offer(self, sdp: str) -> str:
        """Return the answer to an offer."""
        answered = self._send("POST", "application/sdp", sdp)
        assert answered.status == 201
        self._url = urllib.parse.urljoin(self._url, answered.headers["Location"])
        self._etag = answered.headers["ETag"]
        return str(answered.read().decode())

    def trickle(self, fragment: str) -> int:
        """Send a fragment; return the status."""
        kind = "application/trickle-ice-sdpfrag"
        return int(self._send("PATCH", kind, fragment, {"If-Match": self._etag}).status)

    def end(self) -> int:
        """End the session; return the status."""
        return int(self._send("DELETE").status)

    def _send(
        self, method: str, kind: str = "", body: str = "", headers: dict[str, str] | None = None
    ) -> Any:
        given = {"Authorization": f"Bearer {self._token}"} | (headers or {})
        if kind:
            given["Content-Type"] = kind
        request = urllib.request.Request(
            self._url, body.encode() if kind else None, given, method=method
        )
        try:
            return urllib.request.urlopen(request, timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{error.code}: {error.read().decode()}\n{body}") from error


class Connection:
    """A pipeline with a webrtcbin in it."""

    def __init__(self, pipeline: Gst.Pipeline) -> None:
        self._pipeline = pipeline
        self.webrtc = pipeline.get_by_name("webrtc")
        self.candidates: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self._is_ready, self._is_up = threading.Event(), threading.Event()
        self.webrtc.connect("on-negotiation-needed", lambda _webrtc: self._is_ready.set())
        self.webrtc.connect("on-ice-candidate", self._take_candidate)
        self.webrtc.connect("notify::ice-gathering-state", self._follow_gathering)
        self.webrtc.connect("notify::connection-state", self._follow_state)

    def start(self) -> str:
        """Play and return an offer, without candidates."""
        self._pipeline.set_state(Gst.State.PLAYING)
        assert self._is_ready.wait(PATIENCE_S), "there is nothing to offer"
        promise = Gst.Promise.new()
        self.webrtc.emit("create-offer", None, promise)
        promise.wait()
        reply = promise.get_reply()  # holds the description
        description = reply.get_value("offer")
        applied = Gst.Promise.new()
        self.webrtc.emit("set-local-description", description, applied)
        applied.wait()
        return str(description.sdp.as_text())

    def gather(self) -> str:
        """Return the offer with all candidates."""
        while self.candidates.get(timeout=PATIENCE_S) is not None:
            pass
        return str(self.webrtc.get_property("local-description").sdp.as_text())

    def accept(self, answer: str) -> None:
        """Take the answer."""
        _, sdp = GstSdp.SDPMessage.new_from_text(answer)
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        applied = Gst.Promise.new()
        description = GstWebRTC.WebRTCSessionDescription.new(kind, sdp)
        self.webrtc.emit("set-remote-description", description, applied)
        applied.wait()

    def wait_until_up(self) -> None:
        """Wait until media can flow."""
        assert self._is_up.wait(PATIENCE_S), "the connection does not come up"

    def stop(self) -> None:
        """End the pipeline."""
        self._pipeline.set_state(Gst.State.NULL)

    def _take_candidate(self, _webrtc: Gst.Element, section: int, candidate: str) -> None:
        self.candidates.put((section, candidate))

    def _follow_gathering(self, webrtc: Gst.Element, _property: Any) -> None:
        state = webrtc.get_property("ice-gathering-state")
        if state == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            self.candidates.put(None)

    def _follow_state(self, webrtc: Gst.Element, _property: Any) -> None:
        state = webrtc.get_property("connection-state")
        if state == GstWebRTC.WebRTCPeerConnectionState.CONNECTED:
            self._is_up.set()


def publish(url: str, token: str, clip: str) -> None:
    """Publish a file and a tone until the standard input ends."""
    codec = next(codec for codec in PAYLOADERS if codec.encode() in Path(clip).read_bytes()[:4096])
    connection = Connection(
        Gst.parse_launch(PUBLISHER.format(clip=clip, payloader=PAYLOADERS[codec]))
    )
    session = Session(url, token)
    offer = connection.start()
    answer = session.offer(offer)
    connection.accept(answer)
    statuses = []
    while (found := connection.candidates.get(timeout=PATIENCE_S)) is not None:
        statuses.append(session.trickle(fragment(offer, *found)))
    statuses.append(session.trickle(fragment(offer, 0, "end-of-candidates")))
    connection.wait_until_up()
    say(state="connected", offer=offer, answer=answer, trickled=statuses)
    sys.stdin.read()
    say(ended=session.end())
    connection.stop()


def play(url: str, token: str, folder: str, frames: str, codec: str) -> None:
    """Write what a session sends."""
    pipeline = Gst.Pipeline.new()
    webrtc = Gst.ElementFactory.make("webrtcbin", "webrtc")
    webrtc.set_property("bundle-policy", "max-bundle")
    pipeline.add(webrtc)
    connection = Connection(pipeline)
    sinks: queue.Queue[tuple[str, Gst.Element]] = queue.Queue()

    def decode(_webrtc: Gst.Element, pad: Gst.Pad) -> None:
        caps = pad.get_current_caps().get_structure(0)
        name, kind = caps.get_string("encoding-name"), caps.get_string("media")
        decoder = Gst.parse_bin_from_description(f"{DECODERS[name]} ! {WRITERS[kind]}", True)
        pipeline.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))
        sinks.put((kind, decoder.get_by_name({"video": "frames", "audio": "sound"}[kind])))

    connection.webrtc.connect("pad-added", decode)
    direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
    for kind in ("OPUS", codec):
        caps = Gst.Caps.from_string(f"application/x-rtp,encoding-name={kind},{OFFERED[kind]}")
        webrtc.emit("add-transceiver", direction, caps)
    session = Session(url, token)
    connection.start()
    connection.accept(session.offer(connection.gather()))
    connection.wait_until_up()
    found = dict(sinks.get(timeout=PATIENCE_S) for _ in ("audio", "video"))
    size = (0, 0)
    with Path(folder, "frames").open("wb") as file:
        for _ in range(int(frames)):
            sample = pull(found["video"])
            caps = sample.get_caps().get_structure(0)
            size = (caps.get_value("width"), caps.get_value("height"))
            file.write(data(sample))
    with Path(folder, "sound").open("wb") as file:
        while (sample := found["audio"].emit("try-pull-sample", 0)) is not None:
            file.write(data(sample))
    say(size=size, ended=session.end())
    connection.stop()


def pull(sink: Gst.Element) -> Gst.Sample:
    """Return the next sample of a sink."""
    sample = sink.emit("try-pull-sample", PATIENCE_S * Gst.SECOND)
    assert sample is not None, "nothing comes"
    return sample


def data(sample: Gst.Sample) -> bytes:
    """Return a sample's bytes."""
    buffer = sample.get_buffer()
    return bytes(buffer.extract_dup(0, buffer.get_size()))


def fragment(offer: str, section: int, line: str) -> str:
    """Return the fragment (RFC 8840) that says `line` of a section of the offer."""
    lines = offer.split("\r\nm=")[1 + section].splitlines()
    names = ("a=ice-ufrag:", "a=ice-pwd:", "a=mid:")
    ufrag, pwd, mid = (next(each for each in lines if each.startswith(name)) for name in names)
    return "\r\n".join([ufrag, pwd, f"m={lines[0]}", mid, f"a={line}", ""])


def say(**told: Any) -> None:
    """Write a line to the standard output."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Gst.init(None)
    {"publish": publish, "play": play}[sys.argv[1]](*sys.argv[2:])
