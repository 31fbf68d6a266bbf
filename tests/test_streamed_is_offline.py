"""What is streamed is what would have been made offline, to the pixel."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mimaface.animate import animate, draw_ahead, encode_source
from mimaface.model import Model, load
from mimaface.motion import FaceMeshExtractor, RelativeMotion
from mimaface.types import Appearance, ClipRequest, Motion, Pixels
from mimaface.video import VideoReader
from streaming.backend import LocalBackend
from streaming.live import LiveSession
from streaming.types import AvatarFrame, DrivingFrame
from tests.conftest import FPS
from tests.fakes import Clock, one_rung
from tests.narrow import narrow_model

GONE = slice(45, 60)  # the driver leaves the picture and comes back


MODELS = {"tiny": partial(load, "tiny", weights="random"), "sd15": narrow_model}


@pytest.fixture(scope="module")
def driving(driving_clip: Path) -> list[tuple[float, Pixels]]:
    with VideoReader(driving_clip) as video:
        frames = list(video)
    # A wall with the grain of a sensor, so that the camera does not count as frozen.
    wall = np.random.default_rng(1).integers(0, 40, (len(frames), *frames[0][1].shape), np.uint8)
    here = range(len(frames))[GONE]
    return [
        (time_s, wall[i] if i in here else picture) for i, (time_s, picture) in enumerate(frames)
    ]


@pytest.fixture(scope="module")
def relative(driving: list[tuple[float, Pixels]]) -> list[Motion]:
    neutral = RelativeMotion()
    with closing(FaceMeshExtractor()) as extractor:
        return [neutral.push(extractor.extract(time_s, rgb)) for time_s, rgb in driving]


# The generator is slow on a processor: a few frames must do. The released form makes frames of the
# clip before again.
@pytest.mark.parametrize(
    ("name", "new_frames", "steps", "frames"),
    [
        ("tiny", 1, 0, 75),
        ("tiny", 5, 0, 75),
        ("tiny", 1, 1, 12),
        ("tiny", 2, 2, 12),
        ("sd15", 2, 2, 8),
    ],
)
def test_streamed_equals_offline_to_the_bit_when_nothing_is_dropped(
    portrait: Path,
    driving: list[tuple[float, Pixels]],
    relative: list[Motion],
    name: str,
    new_frames: int,
    steps: int,
    frames: int,
) -> None:
    model, motions = MODELS[name](), relative[:frames]
    appearance = encode_source(model, portrait)
    chunks = {"new_frames": new_frames, "steps": steps}
    offline = list(make_offline(model, appearance, motions, **chunks))
    streamed = list(stream(model, appearance, driving[:frames], **chunks))
    assert [frame.time_s for frame in streamed] == [frame.time_s for frame in offline]
    for one, other in zip(streamed, offline, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    # The noise is the same in a session without motion.
    still = [replace(motions[0], time_s=motion.time_s) for motion in motions]
    *_, last = make_offline(model, appearance, still, **chunks)
    moved = np.abs(last.pixels.astype(int) - offline[-1].pixels).mean()
    assert moved > 0.1, "a still picture would prove nothing"


def test_the_driver_of_these_tests_leaves_once(relative: list[Motion]) -> None:
    valid = np.array([motion.valid[0] for motion in relative])
    assert valid[0]
    assert valid[-1]
    assert np.count_nonzero(valid[1:] != valid[:-1]) == 2


def make_offline(
    model: Model, appearance: Appearance, relative: list[Motion], *, new_frames: int, steps: int
) -> Iterator[AvatarFrame]:
    ica = None
    for start in range(0, len(relative), new_frames):
        motion = Motion.concatenate(relative[start : start + new_frames])
        request = ClipRequest(appearance=appearance, motion=motion, ica=ica, steps=steps)
        [clip] = animate(model, [request])
        ica = clip.ica
        for time_s, pixels in zip(motion.time_s, clip.pixels, strict=True):
            yield AvatarFrame(time_s=float(time_s), pixels=pixels)


def stream(
    model: Model,
    appearance: Appearance,
    driving: list[tuple[float, Pixels]],
    *,
    new_frames: int,
    steps: int,
) -> Iterator[AvatarFrame]:
    clock = Clock(driving[0][0])
    is_opened, is_made = threading.Semaphore(0), threading.Semaphore(0)

    def opened(rgb: Pixels) -> Pixels:
        is_opened.release()
        return rgb

    backend = LocalBackend(partial(animate, model), clock=clock)
    live = LiveSession(
        "test",
        appearance,
        extractor=FaceMeshExtractor,
        draw=draw_ahead,
        backend=backend,
        clock=clock,
        new_frames=new_frames,
        ladder=one_rung(steps=steps, fps=FPS),
    )
    live.on_frame = is_made.release
    try:
        for start in range(0, len(driving), new_frames):
            for time_s, rgb in driving[start : start + new_frames]:
                clock.now_s = time_s
                live.feed(DrivingFrame(time_s=time_s, rgb=partial(opened, rgb)))
                assert is_opened.acquire(timeout=20)
            assert is_made.acquire(timeout=20)
            for i in range(new_frames):
                yield live.pull(clock.now_s + (i + 0.5) / FPS)
        stats = live.stats(clock.now_s)
        assert (stats.dropped, stats.repeated, stats.failed) == (0, 0, 0)
    finally:
        live.close()
        backend.close()
