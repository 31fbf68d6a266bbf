"""A browser drives, three viewers watch, and one of them stalls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from playwright.sync_api import Page, expect, sync_playwright

from mimaface.photo import built_in_portraits
from server import services
from server.config import ServerConfig
from server.tracks import AvatarTrack
from tests.browser_setup import find_chromium, launch, moving_face, write_webcam_clip
from tests.serving import serving

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

STALL_S = 10
STALLS = 3  # a machine that is busy elsewhere may cost a frame in one of them, not in all
FPS = 10  # which a busy machine can keep up for four at a time
WATCHING, STALLED = (0, 1), 2
TICKS = 2  # of 1/90000 s, which the encoder's own clock may round away


class WatchedTrack(AvatarTrack):
    """Notes the times of the frames it sends."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sent: list[int] = []

    async def recv(self) -> av.VideoFrame:
        frame = await super().recv()
        assert frame.pts is not None, "it was given one"
        self.sent.append(frame.pts)
        return frame


class Viewer:
    """A WHEP viewer with a thread and an event loop of its own."""

    def __init__(self, url: str, session: dict[str, Any]) -> None:
        self.received: list[int] = []
        self.is_watching = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._url = url
        self._session = session
        self._is_over = asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._watch()], daemon=True
        )
        self._thread.start()

    async def _watch(self) -> None:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.addTransceiver("video", direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        headers = {
            "Authorization": f"Bearer {self._session['tokens']['watch']}",
            "Content-Type": "application/sdp",
        }
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            sdp = connection.localDescription.sdp
            answered = await client.post(self._session["whep_url"], content=sdp, headers=headers)
        assert answered.status_code == 201, answered.text
        await connection.setRemoteDescription(RTCSessionDescription(answered.text, "answer"))
        [receiver] = connection.getReceivers()
        task = asyncio.create_task(self._receive(receiver.track))
        await self._is_over.wait()
        task.cancel()
        await connection.close()

    async def _receive(self, track: Any) -> None:
        while True:
            frame = await track.recv()
            self.received.append(frame.pts)
            self.is_watching.set()

    def duration_s(self) -> float:
        """Return how much time of the avatar it has seen, from the first frame to the last."""
        return float(self.received[-1] - self.received[0]) / 90_000

    def stall(self, seconds: float) -> None:
        """Do nothing at all for so long: read no packet and answer none."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    def close(self) -> None:
        """Hang up; a viewer that stalls does it afterwards."""
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._loop.close()


@contextmanager
def driven_page(url: str, webcam: Path) -> Iterator[tuple[Page, dict[str, Any]]]:
    """Go live in Chromium; yield the page and its session."""
    with sync_playwright() as playwright:
        browser = launch(playwright, f"--use-file-for-fake-video-capture={webcam}")
        page = browser.new_context(permissions=["camera"]).new_page()
        page.goto(url)
        expect(page.locator("#start")).to_be_enabled()
        with page.expect_response("**/v1/sessions") as created:
            page.click("#start")
        expect(page.locator("#status")).to_have_text("Live", timeout=60_000)
        yield page, created.value.json()
        browser.close()


def test_viewers_lose_no_frame_while_another_one_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks: list[WatchedTrack] = []

    def make_track(*given: Any) -> WatchedTrack:
        tracks.append(WatchedTrack(*given))
        return tracks[-1]

    monkeypatch.setattr(services, "AvatarTrack", make_track)
    webcam = tmp_path / "face.mjpeg"
    write_webcam_clip(webcam, moving_face(built_in_portraits()[0], frames=60))
    config = ServerConfig(size_px=256, steps=0, fps=FPS, admission_fps=0)
    with (
        serving(config) as url,
        driven_page(url, webcam) as (page, session),
        ExitStack() as hanging_up,
    ):
        viewers = []
        for _ in range(3):
            viewers.append(Viewer(url, session))
            hanging_up.callback(viewers[-1].close)
            assert viewers[-1].is_watching.wait(60)
        tracks = tracks[1:]  # the first one is the page's own
        for _ in range(STALLS):
            missed = [track.missed for track in tracks]
            sent = [len(track.sent) for track in tracks]
            seen, seen_s = len(viewers[STALLED].received), viewers[STALLED].duration_s()
            viewers[STALLED].stall(STALL_S)
            page.wait_for_timeout(1000 * STALL_S)
            assert len(viewers[STALLED].received) - seen < FPS, "it reads nothing meanwhile"
            for number in WATCHING:
                assert len(tracks[number].sent) - sent[number] > 3 * STALL_S
            left_out = [tracks[number].missed - missed[number] for number in WATCHING]
            wanted = [len(track.sent) for track in tracks]
            for _ in range(120):
                if viewers[STALLED].duration_s() - seen_s > STALL_S:
                    break
                page.wait_for_timeout(500)
            else:
                raise AssertionError("the stalled viewer does not go on with what is new")
            if not any(left_out):
                break
        else:
            raise AssertionError(f"the server leaves out frames in each stall, at last {left_out}")
    for number in WATCHING:
        received = np.array(viewers[number].received)[: wanted[number]]
        assert len(received) == wanted[number]
        off = (
            received
            - received[0]
            - np.subtract(tracks[number].sent, tracks[number].sent[0])[: wanted[number]]
        )
        assert np.abs(off).max() <= TICKS, "each frame that was sent arrived, in its place"
