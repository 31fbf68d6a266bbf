"""One session's avatar for any number of viewers: each frame is pulled once and given to all.

It knows no connection. Every track waits and falls behind alone; those that want the same coded
share an encoder, which is kept here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mimaface.types import Pixels
from server.alpha import Form, shape
from streaming.live import LiveSession
from streaming.types import AvatarFrame

if TYPE_CHECKING:
    from server.shared_encoder import SharedEncoder

_REST_FPS: Final = 5.0


class Broadcast:
    """The avatar frames of a session, numbered from one; only the newest is kept.

    The session keeps the avatar moving at the rate of its rung, so a repeat is rare; it comes half
    an interval late, because a new frame may only just have missed its time. While the avatar
    rests, a few repeats a second keep the connections alive.

    Attributes:
        encoders: those at work, by the codec and the form.
        on_coded: called with the codec of each frame that was coded and whether it is a keyframe.
    """

    def __init__(
        self,
        live: LiveSession,
        *,
        draw: Callable[[AvatarFrame], Pixels] | None = None,
        on_coded: Callable[[str, bool], None] = lambda _codec, _is_keyframe: None,
    ) -> None:
        """Take the frames of `live`; `draw` may return one's pixels with something added."""
        self.encoders: dict[tuple[str, Form], SharedEncoder] = {}
        self.on_coded = on_coded
        self._live = live
        self._draw = draw
        self._event_loop = asyncio.get_running_loop()
        self._number = 0
        self._frame: AvatarFrame | None = None
        self._shaped: dict[Form, Pixels] = {}  # the newest frame, in the forms asked for so far
        self._viewers: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        live.on_frame = self._announce

    def join(self) -> asyncio.Event:
        """Return an event that is set whenever there is a newer frame, as long as it is held."""
        event = asyncio.Event()
        self._viewers.add(event)
        return event

    def frame_after(self, number: int) -> tuple[int, AvatarFrame]:
        """Return the newest frame and its number, which is above `number`.

        Who asks for one that nobody else has been given yet gets the frame to show now, which may
        be the last one again, and everybody else is told of it.
        """
        if number == self._number or self._frame is None:
            self._advance()
        assert self._frame is not None, "there is a frame from the first advance on"
        return self._number, self._frame

    def picture(self, form: Form) -> Pixels:
        """Return the picture of the newest frame in a form; its viewers share it."""
        assert self._frame is not None, "there is a frame from the first advance on"
        if form not in self._shaped:
            self._shaped[form] = shape(self._frame, form)
        return self._shaped[form]

    def patience_s(self) -> float:
        """Return after how many seconds without a newer frame the next one is to be asked for."""
        # Of a chunk the first frame is announced, the others are due one after the other.
        now_s, due_s = self._event_loop.time(), self._live.due_s
        fps = _REST_FPS if self._live.is_at_rest(now_s) else self._live.rung.fps
        return 1.5 / fps if due_s is None else min(1.5 / fps, due_s - now_s)

    def _advance(self) -> None:
        shown = self._live.pull(self._event_loop.time())
        self._frame = shown if self._draw is None else replace(shown, pixels=self._draw(shown))
        self._number += 1
        self._shaped.clear()
        for event in self._viewers:
            event.set()

    def _announce(self) -> None:
        # Called by the backend's thread, also while the loop shuts down.
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(self._advance)
