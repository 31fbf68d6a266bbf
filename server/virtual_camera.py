"""What is on air as a webcam that every program of this machine can choose."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from server.canvas import Canvas
from server.feed import Feed
from server.program import Picture

if TYPE_CHECKING:
    import pyvirtualcam

logger = logging.getLogger(__name__)

SIZE_PX: Final = (1280, 720)
FPS: Final = 30
_DRIVERS: Final = {
    "linux": "Install v4l2loopback (Debian: apt install v4l2loopback-dkms) and load it with "
    "modprobe v4l2loopback exclusive_caps=1 card_label=Avatar",
    "darwin": "Install OBS and start its virtual camera once",
    "win32": "Install OBS, or UnityCapture",
}


class CameraError(Exception):
    """There is no virtual camera; the message says what to install."""


def open_camera() -> pyvirtualcam.Camera:
    """Open the virtual camera of this machine.

    Raises:
        CameraError: the package or the driver is missing, or another program holds the camera.
    """
    try:
        import pyvirtualcam
    except ImportError as error:
        raise CameraError(
            "a virtual camera needs pyvirtualcam: pip install pyvirtualcam"
        ) from error
    try:
        return pyvirtualcam.Camera(*SIZE_PX, FPS)
    except RuntimeError as error:
        reason = "; ".join(str(error).splitlines())
        driver = _DRIVERS.get(sys.platform, "Install a driver that pyvirtualcam knows")
        raise CameraError(
            f"there is no virtual camera ({reason}). {driver}, then start again."
        ) from error


def show(feed: Feed, camera: pyvirtualcam.Camera) -> None:
    """Show the newest picture 30 times a second until the feed is closed; runs in its own thread.

    A picture that was not shown before the next one came is dropped.
    """
    canvas = Canvas(*SIZE_PX)
    fitted = None
    with camera:
        logger.info("the avatar is on the camera %s", camera.device)
        while not feed.is_closed:
            # The camera has a clock of its own: only the first picture is waited for.
            for item in feed.take(None if fitted is None else 0):
                if isinstance(item, Picture):
                    fitted = canvas.fit(item.pixels, item.portrait)
            if fitted is None:
                continue
            try:
                camera.send(fitted)
            except RuntimeError as error:
                logger.error("the camera %s is gone: %s", camera.device, error)
                break
            feed.state.is_up = True
            camera.sleep_until_next_frame()
    feed.state.is_up = False
