"""Recordings of the calls on air, one MP4 each, that play whatever becomes of the server."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Final

import av

from server.canvas import Canvas
from server.feed import Feed
from server.muxer import Muxer
from server.program import Picture

logger = logging.getLogger(__name__)

# A fragment with every keyframe, handed to the system at once: a crash costs what came since.
_FRAGMENTED: Final = {"movflags": "+frag_keyframe+delay_moov+default_base_moof"}
_QUALITY: Final = {"preset": "veryfast", "crf": "20"}


def record(feed: Feed, folder: Path) -> None:
    """Record what the feed brings until it is closed; runs in a thread of its own.

    Each time another call comes on air, or the same again, a file is begun. What cannot be written
    is given up until the next one.
    """
    muxer: Muxer | None = None
    path, call = folder, None
    while items := feed.take():
        for item in items:
            try:
                if isinstance(item, Picture) and item.call != call:
                    previous, muxer, call = muxer, None, item.call
                    _finish(previous, path)
                    if call is not None:
                        path = folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{call}.mp4"
                        muxer = _begin(path, item)
                        logger.info("call %s is recorded to %s", call, path)
                if muxer is not None:
                    muxer.write(item)
                elif call is not None and isinstance(item, Picture):
                    feed.state.dropped += 1
            except (OSError, av.FFmpegError) as error:
                muxer = None
                logger.error("the recording to %s ended: %s", path, error.strerror)
            feed.state.is_up = muxer is not None
    _finish(muxer, path)
    feed.state.is_up = False


def _begin(path: Path, picture: Picture) -> Muxer:
    # Of an even size, which the format asks for; what has another one is fitted in.
    height, width = (side + side % 2 for side in picture.portrait.shape[:2])
    container = av.open(
        f"file:{path}",
        "w",
        format="mp4",
        options=_FRAGMENTED,
        container_options={"flush_packets": "1"},
    )
    return Muxer(container, Canvas(width, height), quality=_QUALITY)


def _finish(muxer: Muxer | None, path: Path) -> None:
    if muxer is None:
        return
    try:
        muxer.close()
    except (OSError, av.FFmpegError) as error:
        logger.error("the end of %s is missing: %s", path, error.strerror)
