"""What is on air sent to an RTMP server, again and again until it is taken."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import av

from server.canvas import Canvas
from server.feed import Feed, OutputState
from server.muxer import Muxer
from server.push_relay import ADDRESS, UP

logger = logging.getLogger(__name__)

SIZE_PX: Final = (1280, 720)
_BPS: Final = "2500000"  # bit/s, what services advise for 720 lines
_QUALITY: Final = {"preset": "superfast", "b": _BPS, "maxrate": _BPS, "bufsize": _BPS}
_LIVE: Final = {"flvflags": "no_duration_filesize"}  # there is no end to tell of at the start
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_STEADY_S: Final = 10.0  # a connection that held so long was a good one


class Outage:
    """When to try again, and what to tell of it: one line when it begins, one when it is over."""

    def __init__(self, state: OutputState, url: str) -> None:
        """Follow the connection to `url`, whose secrets are left out of the log."""
        self._state = state
        self._where = public_part(url)
        self._wait_s = _FIRST_WAIT_S
        self._is_told = False

    def end(self) -> None:
        """Note that there is a connection."""
        self._state.is_up, self._is_told = True, False
        logger.info("%s is taking what is on air", self._where)

    def begin(self, reason: str, *, lasted_s: float) -> float:
        """Note that there is none any more, or still none; return for how long to wait."""
        self._state.is_up = False
        if not self._is_told:
            logger.error("cannot push to %s: %s; trying again", self._where, reason)
            self._is_told = True
        if lasted_s >= _STEADY_S:
            self._wait_s = _FIRST_WAIT_S
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, _LONGEST_WAIT_S)
        return wait_s


def public_part(url: str) -> str:
    """Return where a URL leads without its path, query and user, any of which may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def push(feed: Feed, url: str) -> None:
    """Send what the feed brings until it is closed; runs in a thread of its own.

    Nothing waits for a connection: what comes meanwhile is dropped.
    """
    outage = Outage(feed.state, url)
    while not feed.is_closed:
        lasted_s, reason = _push_once(feed, url, outage)
        if not feed.is_closed:
            feed.rest(outage.begin(reason, lasted_s=lasted_s))
    feed.state.is_up = False


def _push_once(feed: Feed, url: str, outage: Outage) -> tuple[float, str]:
    # Returns for how long the server took the stream and why it does not any more.
    start_s = end_s = None
    said = ""
    with subprocess.Popen(
        [sys.executable, "-m", "server.push_relay"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd=Path(__file__).parents[1],
        env=os.environ | {ADDRESS: url},
        start_new_session=True,  # an interrupt from the keyboard is not for it
    ) as relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        try:
            container = av.open(relay.stdin, "w", format="flv", options=_LIVE)
            muxer = Muxer(container, Canvas(*SIZE_PX), quality=_QUALITY)
            while items := feed.take():
                for item in items:
                    muxer.write(item)
                if start_s is None and select.select([relay.stdout], [], [], 0)[0]:
                    said = relay.stdout.readline().decode().strip()
                    if said != UP:
                        break
                    outage.end()
                    start_s = items[0].time_s
                end_s = items[-1].time_s
            else:
                muxer.close()
        except (OSError, av.FFmpegError):
            pass  # the relay is gone, and has said why
        relay.stdin.close()
        rest = relay.stdout.read().decode().split("\n")
    reason = next((line for line in (*rest, said) if line not in ("", UP)), "it does not answer")
    return (end_s - start_s if start_s and end_s else 0.0), reason
