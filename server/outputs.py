"""The outputs the settings ask for: a virtual camera, a push, recordings.

Each follows the call on air on its own, in a thread or a task that no session waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from mimaface.types import Pixels
from server.canvas import surroundings
from server.config import ServerConfig
from server.feed import Feed, OutputState
from server.program import Picture, Piece, pictures, pieces
from server.push import push
from server.push_whip import push_whip
from server.recorder import record
from server.services import Services
from server.virtual_camera import CameraError, open_camera, show

logger = logging.getLogger(__name__)

_JOIN_S: Final = 5.0  # FFmpeg may wait longer for a network that is gone; nobody waits for it
_QUEUED: Final = 8  # pictures, a quarter of a second
_QUEUED_PIECES: Final = 100  # of 20 ms


class OutputError(Exception):
    """An output cannot start; the message says what is to be done."""


def check_outputs(config: ServerConfig) -> None:
    """Try what can be tried before serving: the virtual camera and the folder of the recordings.

    Raises:
        OutputError: it does not work.
    """
    if config.has_virtual_camera:
        try:
            open_camera().close()
        except CameraError as error:
            raise OutputError(str(error)) from error
    if config.record:
        folder = Path(config.record)
        if not folder.is_dir():
            raise OutputError(f"there is no folder {folder} for recordings: create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"recordings cannot be written to the folder {folder}")


@contextlib.asynccontextmanager
async def run_outputs(services: Services) -> AsyncIterator[None]:
    """Run the outputs of the settings, and at the end let them finish what they write.

    Raises:
        CameraError: the virtual camera is gone since `check_outputs`.
    """
    config, calls = services.config, services.calls
    still = services.sources.portraits()[0].appearance.source
    idle = surroundings(still, still.shape[1], still.shape[0])
    async with contextlib.AsyncExitStack() as stack:

        async def start(work: Callable[[Feed], None], feed: Feed) -> None:
            services.metrics.outputs.append(feed.state)
            await stack.enter_async_context(_running(work, feed, services, idle))

        if config.has_virtual_camera:
            camera = open_camera()
            state = OutputState(name="virtual_camera")
            await start(partial(show, camera=camera), Feed(state, most_pictures=1))
        if config.record:
            state = OutputState(name="record")
            feed = Feed(state, most_pictures=_QUEUED, most_pieces=_QUEUED_PIECES)
            await start(partial(record, folder=Path(config.record)), feed)
        if config.push.startswith("rtmp"):
            state = OutputState(name="push")
            feed = Feed(state, most_pictures=_QUEUED, most_pieces=_QUEUED_PIECES)
            await start(partial(push, url=config.push), feed)
        elif config.push:
            state = OutputState(name="push")
            services.metrics.outputs.append(state)
            pushing = push_whip(config.push, config.push_token, calls=calls, idle=idle, state=state)
            await stack.enter_async_context(_task(pushing))
        yield


@contextlib.asynccontextmanager
async def _running(
    work: Callable[[Feed], None], feed: Feed, services: Services, idle: Pixels
) -> AsyncIterator[None]:
    def run() -> None:
        try:
            work(feed)
        except Exception:
            logger.exception("the output %s ended", feed.state.name)
            feed.state.is_up = False

    # A daemon, because the network may hold it for longer than anybody waits.
    thread = threading.Thread(target=run, name=f"output-{feed.state.name}", daemon=True)
    thread.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_task(_fill(feed, pictures(services.calls, idle))))
            if feed.takes_sound:
                await stack.enter_async_context(_task(_fill(feed, pieces(services.calls))))
            yield
    finally:
        feed.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(services.workers, thread.join, _JOIN_S)


async def _fill(feed: Feed, items: AsyncIterator[Picture] | AsyncIterator[Piece]) -> None:
    async for item in items:
        feed.put(item)


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    async def run() -> None:
        try:
            await work
        except Exception:
            logger.exception("a task of an output ended")

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
