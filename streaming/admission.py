"""How many sessions the device holds, from what their clips cost. No clock: times are given."""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict, deque
from typing import Final, NamedTuple

from streaming.backend import Made

# The rest is for the video's decoding and encoding, and for what comes irregularly: uploads to
# encode, clips that wait for others.
MOST_SHARE: Final = 0.85
_SAMPLES: Final = 64  # about two seconds of one session: a median of them passes over a hiccup
_INSTANT_S: Final = 1e-6  # nothing takes less


class _Quality(NamedTuple):
    steps: int
    size_px: int


class Admission:
    """Answers whether one more session fits, so that none has to go below the lowest rung.

    A session may be asked to do with fewer denoising steps for another's sake, but not with fewer
    than `lowest_steps`, nor with fewer frames a second than `fps`, nor with a smaller picture. What
    clips of so many steps cost is measured as they are made, in the batches that occur: the more
    sessions share them, the less each costs. While none were made, the cheapest of more steps stand
    for them, which cost more. The first session always fits: it takes nothing from anybody.

    A device is now quick and now slow, and the clips that would tell may not be made meanwhile. So
    costs are kept as on a free device, the least that a batch of its kind ever took; how many times
    that the batches of now take, of whatever kind, is how slow the device is for all kinds.

    The backend's thread and another one may call it at the same time.
    """

    def __init__(
        self,
        *,
        lowest_steps: int,
        new_frames: int,
        cores: int,
        has_gpu: bool,
        fps: float = 25.0,
    ) -> None:
        """Know nothing of the costs yet.

        Args:
            lowest_steps: the fewest denoising steps a session may be asked to do with.
            new_frames: N, frames a clip adds.
            cores: of the processor.
            has_gpu: whether clips are made elsewhere than on the processor.
            fps: frames per second that every session must get.
        """
        self._lowest_steps = lowest_steps
        self._new_frames = new_frames
        self._cores = cores
        self._has_gpu = has_gpu
        self._fps = fps
        self._lock = threading.Lock()
        self._batches: defaultdict[_Quality, deque[int]] = defaultdict(  # clips in each
            lambda: deque(maxlen=_SAMPLES)
        )
        self._least_s: dict[tuple[_Quality, int], float] = {}  # of a batch of so many clips
        self._slowness: deque[float] = deque(maxlen=_SAMPLES)  # of 1 is a free device
        self._frames_s: deque[float] = deque(maxlen=_SAMPLES)

    def add(self, made: Made) -> None:
        """Learn what a batch cost; the backend's `on_made`."""
        quality, clips = _Quality(made.steps, made.size_px), len(made.asked_s)
        busy_s = max(made.busy_s, _INSTANT_S)
        with self._lock:
            least_s = min(busy_s, self._least_s.get((quality, clips), busy_s))
            self._least_s[quality, clips] = least_s
            self._batches[quality].append(clips)
            self._slowness.append(busy_s / least_s)

    def add_frame(self, took_s: float) -> None:
        """Learn what a driving frame costs the processor before the backend: the motion stage.

        Until it is known only the backend's work counts.
        """
        with self._lock:
            self._frames_s.append(took_s)

    @property
    def capacity(self) -> int | None:
        """How many sessions fit, at least one; None while no clip was made that tells."""
        with self._lock:
            size_px = max((quality.size_px for quality in self._batches), default=0)
            free_s = [
                statistics.median(self._least_s[quality, clips] / clips for clips in batches)
                for quality, batches in self._batches.items()
                if quality.steps >= self._lowest_steps and quality.size_px == size_px
            ]
            frame_s = statistics.median(self._frames_s) if self._frames_s else 0.0
            slowness = statistics.median(self._slowness) if self._slowness else 1.0
        if not free_s:
            return None
        device_s = min(free_s) * slowness / self._new_frames  # of every frame
        processor_s = frame_s if self._has_gpu else frame_s + device_s
        # What one session takes of the device's thread, or of all cores if that is more.
        share = self._fps * max(device_s, processor_s / self._cores)
        return max(1, int(MOST_SHARE / max(share, 1e-6)))

    def has_room(self, sessions: int) -> bool:
        """Return whether one more fits beside so many active sessions."""
        return sessions == 0 or sessions < (self.capacity or 1)
