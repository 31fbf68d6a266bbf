"""How many sessions the device holds, from what their clips cost. No clock: times are given."""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict, deque
from typing import Final

from streaming.backend import Made

# The rest is for what comes irregularly: uploads to encode, clips that wait for others.
MOST_SHARE: Final = 0.85
_SAMPLES: Final = 64  # about two seconds of one session: a median of them passes over a hiccup


class Admission:
    """Answers whether one more session fits, so that none has to go below the lowest rung.

    A session may be asked to do with fewer denoising steps for another's sake, but not with fewer
    than `lowest_steps`, nor with fewer frames a second than `fps`. What clips of so many steps
    cost is measured as they are made, in the batches that occur: the more sessions share them, the
    less each costs. While none were made, the cheapest of more steps stand for them, which cost
    more. The first session always fits: it takes nothing from anybody.

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
        self._clips_s: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_SAMPLES))
        self._frames_s: deque[float] = deque(maxlen=_SAMPLES)

    def add(self, made: Made) -> None:
        """Learn what a batch cost; the backend's `on_made`."""
        with self._lock:
            self._clips_s[made.steps].append(made.busy_s / len(made.asked_s))

    def add_frame(self, took_s: float) -> None:
        """Learn what a driving frame costs the processor before and after the backend.

        That is tracking, and encoding what is sent. Without it, only the backend's work counts.
        """
        with self._lock:
            self._frames_s.append(took_s)

    @property
    def capacity(self) -> int | None:
        """How many sessions fit, at least one; None while no clip was made that tells."""
        with self._lock:
            costs_s = [
                statistics.median(taken)
                for steps, taken in self._clips_s.items()
                if steps >= self._lowest_steps
            ]
            frame_s = statistics.median(self._frames_s) if self._frames_s else 0.0
        if not costs_s:
            return None
        device_s = min(costs_s) / self._new_frames  # of every frame
        processor_s = frame_s if self._has_gpu else frame_s + device_s
        # What one session takes of the device's thread, or of all cores if that is more.
        share = self._fps * max(device_s, processor_s / self._cores)
        return max(1, int(MOST_SHARE / max(share, 1e-6)))

    def has_room(self, sessions: int) -> bool:
        """Return whether one more fits beside so many active sessions."""
        return sessions == 0 or sessions < (self.capacity or 1)
