"""A live session on a clock of its own, for the tests of what it shows and when."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mimaface.motion import MotionExtractor
from streaming.backend import Animate, LocalBackend, Made
from streaming.ladder import Ladder
from streaming.live import Draw, LiveSession
from tests.fakes import (
    Bell,
    Clock,
    Extractor,
    driving_frame,
    nothing_ahead,
    one_rung,
    paint,
    portrait,
)


class Stage:
    """A live session on a clock of its own."""

    def __init__(
        self,
        animate: Animate = paint,
        extractor: Callable[[], MotionExtractor] | None = None,
        ladder: Ladder | None = None,
        on_made: Callable[[Made], None] = lambda _made: None,
        new_frames: int = 1,
        draw: Draw = nothing_ahead,
    ) -> None:
        self.clock, self.bell, self.extractor = Clock(), Bell(), Extractor()
        self.backend = LocalBackend(animate, clock=self.clock, on_made=on_made)
        self.live = LiveSession(
            "test",
            portrait(10),
            extractor=extractor or (lambda: self.extractor),
            draw=draw,
            backend=self.backend,
            clock=self.clock,
            new_frames=new_frames,
            ladder=ladder or one_rung(),
        )
        self.live.on_frame = self.bell.ring

    def pull(self) -> int:
        return int(self.live.pull(self.clock.now_s).pixels[0, 0, 0])

    def state(self) -> str:
        return self.live.state(self.clock.now_s)

    def drive(self, shade: int = 200) -> None:
        """Let a frame interval pass, feed a frame and wait for its avatar frame."""
        self.clock.now_s += 1 / 30
        # A hair later, because without a camera the session may use this very time itself.
        frame = driving_frame(self.clock.now_s + 1e-6, shade)
        self.live.feed(frame)
        self.bell.wait_for(lambda: self.live.pull(self.clock.now_s).time_s >= frame.time_s)

    def is_idle(self) -> bool:
        """Whether the driving frame that was fed last was looked at or left out."""
        counts = self.live.counts()
        done = counts["track", "dropped"] + len(self.extractor.times)
        return done >= counts["track", "in"]

    def calibrate(self) -> None:
        for _ in range(32):
            self.drive()

    def wait_for_state(self, state: str) -> None:
        self.bell.wait_for(lambda: self.state() == state)

    def close(self) -> None:
        self.live.close()
        self.backend.close()


@contextmanager
def staged(
    animate: Animate = paint,
    extractor: Callable[[], MotionExtractor] | None = None,
    ladder: Ladder | None = None,
    on_made: Callable[[Made], None] = lambda _made: None,
    new_frames: int = 1,
    draw: Draw = nothing_ahead,
) -> Iterator[Stage]:
    stage = Stage(animate, extractor, ladder, on_made, new_frames, draw)
    try:
        yield stage
    finally:
        stage.close()
