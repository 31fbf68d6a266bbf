"""Pictures and sound on their way from the event loop to the thread of one output."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from server.program import Picture, Piece


@dataclass(kw_only=True)
class OutputState:
    """How an output does.

    Attributes:
        name: of its kind.
        is_up: whether what it is fed arrives.
        dropped: pictures that it had no time for, or nowhere to send.
    """

    name: str
    is_up: bool = False
    dropped: int = 0


class Feed:
    """Never makes the event loop wait: when its thread falls behind, the oldest give way.

    Attributes:
        state: of the output it belongs to.
        takes_sound: whether there is room for any.
    """

    def __init__(self, state: OutputState, *, most_pictures: int, most_pieces: int = 0) -> None:
        """Hold so many of each; what gives way is counted in `state`."""
        self.state = state
        self.takes_sound = most_pieces > 0
        self._pictures: deque[Picture] = deque(maxlen=most_pictures)
        self._pieces: deque[Piece] = deque(maxlen=most_pieces)
        self._has_news = threading.Condition()
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more comes."""
        return self._closed.is_set()

    def put(self, item: Picture | Piece) -> None:
        """Hand one on."""
        with self._has_news:
            if isinstance(item, Piece):
                self._pieces.append(item)
            else:
                is_full = len(self._pictures) == self._pictures.maxlen
                self.state.dropped += item.missed + is_full
                self._pictures.append(item)
            self._has_news.notify()

    def take(self, timeout_s: float | None = None) -> list[Picture | Piece]:
        """Return what there is in the order of its time, and wait for something if need be.

        It returns nothing after `timeout_s`, and when the feed is closed and empty.
        """
        with self._has_news:
            self._has_news.wait_for(
                lambda: self._pictures or self._pieces or self.is_closed, timeout_s
            )
            items: list[Picture | Piece] = [*self._pictures, *self._pieces]
            self._pictures.clear()
            self._pieces.clear()
        return sorted(items, key=lambda item: item.time_s)

    def rest(self, seconds: float) -> None:
        """Let time pass, at most until the feed is closed; then only what is new is left."""
        self._closed.wait(seconds)
        with self._has_news:
            self.state.dropped += len(self._pictures)
            self._pictures.clear()
            self._pieces.clear()

    def close(self) -> None:
        """Let the thread end once it has taken what there is."""
        self._closed.set()
        with self._has_news:
            self._has_news.notify()
