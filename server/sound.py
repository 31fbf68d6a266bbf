"""The driver's voice for any number of listeners, as late as the avatar that speaks it.

Time is an argument: `time_s` is on the clock of the driving frames, `now_s` the server's. Sound is
int16 [N], mono, `RATE` samples a second. It knows no connection and no codec.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from server.tracks import PIECE, RATE, Samples, SoundTrack
from server.window import Window

# An offset of 45 ms is noticed (ITU-R BT.1359); Opus, on both ways, takes 13 ms of them.
MOST_WAIT_S: Final = 0.02

_KEPT: Final = 2 * RATE  # samples, more than any delay
_RESTART_S: Final = 0.3  # the stream's times do not move so far without a pause

_JUMP: Final = RATE // 5  # samples; more is not caught up with by stretching
_STRETCH: Final = 5  # samples in 20 ms, 0.5 %: nobody hears the pitch change
_SLACK: Final = RATE // 1000  # samples, 1 ms: less is left as it is
_IN_A_PAUSE: Final = RATE // 100  # samples, 10 ms: less is not worth a jump
_QUIET: Final = 327  # of 32767, -40 dB: between words
_FADE: Final = RATE // 200  # samples, 5 ms


class Sound:
    """Two seconds of the microphone, and how late they are to be heard.

    The delay is what the video path is measured to take: the median age of the last driving frames
    when their avatar frames were shown. Sound that takes longer to come is waited for, but at most
    `MOST_WAIT_S`: rather a gap than a voice that is not the avatar's.

    Attributes:
        late: pieces that came after their time and are heard by nobody.
    """

    def __init__(self) -> None:
        """Start silent."""
        self.late = 0
        self._kept = np.zeros(_KEPT, np.int16)  # a ring, the oldest gives way
        self._end = 0  # the position behind the newest sample
        self._start_s = Window()  # the time of position 0, as each piece has it
        self._path_s = Window()
        self._age_s = Window()  # of a piece's first sample when it comes

    def note_path(self, seconds: float) -> None:
        """Note the age of a driving frame whose avatar frame is shown now."""
        self._path_s.add(seconds)

    def put(self, piece: Samples, position: int, *, time_s: float, now_s: float) -> None:
        """Take a piece of the microphone's stream; what is missing before it is silence.

        Args:
            piece: the samples.
            position: of the first one in its stream.
            time_s: when a driving frame that was sent together with it arrived.
            now_s: when it came.
        """
        start_s = time_s - position / RATE
        usual_s = self._start_s.quantile(0.5)
        if usual_s is None or abs(start_s - usual_s) > _RESTART_S:
            self._start_s.clear()
            self._age_s.clear()
            self._kept[:] = 0
            self._end = position
        self._start_s.add(start_s)
        self._age_s.add(now_s - time_s)
        self.late += now_s - time_s > self.delay_s + len(piece) / RATE
        gap = position - self._end
        if gap > 0:
            self._write(np.zeros(min(gap, _KEPT), np.int16), position - min(gap, _KEPT))
        self._write(piece, position)
        self._end = position + len(piece)

    @property
    def delay_s(self) -> float:
        """How much later than a driving frame's arrival the sound of its moment is to be heard."""
        path_s = self._path_s.quantile(0.5) or 0.0
        age_s = self._age_s.quantile(0.95) or 0.0
        # A listener's piece may end with the first samples of one that comes.
        return min(max(path_s, age_s + PIECE / RATE), path_s + MOST_WAIT_S)

    def position(self, now_s: float) -> int | None:
        """Return which sample is to be heard now; None before there is sound."""
        start_s = self._start_s.quantile(0.5)
        return None if start_s is None else round((now_s - self.delay_s - start_s) * RATE)

    def read(self, position: int, count: int) -> Samples:
        """Return the samples from a position on; those not there any more, or not yet, are 0."""
        positions = np.arange(position, position + count)
        is_kept = (positions >= self._end - _KEPT) & (positions < self._end)
        return np.where(is_kept, self._kept[positions % _KEPT], 0).astype(np.int16, copy=False)

    def track(self) -> SoundTrack:
        """Return a track for one listener."""
        return SoundTrack(Listener(self).next_piece)

    def _write(self, piece: Samples, position: int) -> None:
        self._kept[np.arange(position, position + len(piece)) % _KEPT] = piece


class Listener:
    """One listener's place in the sound; it follows the delay without being heard to.

    A place that is off moves at once in a pause between words, while somebody speaks by 5 ms in a
    second (the sound is stretched by 0.5 %), and where it is off by more than 200 ms at once too;
    each jump is faded over 5 ms.
    """

    def __init__(self, sound: Sound) -> None:
        """Start where the sound is now."""
        self._sound = sound
        self._position: int | None = None

    def next_piece(self, now_s: float) -> Samples:
        """Return the 20 ms that begin now."""
        wanted = self._sound.position(now_s)
        if wanted is None:
            return np.zeros(PIECE, np.int16)
        if self._position is None:
            self._position = wanted
        off = wanted - self._position
        if abs(off) > _JUMP or (abs(off) > _IN_A_PAUSE and self._is_quiet(off)):
            return self._jump(wanted)
        return self._stretch(int(np.clip(off / _SLACK, -_STRETCH, _STRETCH)))

    def _is_quiet(self, off: int) -> bool:
        assert self._position is not None
        start = self._position + min(off, 0)
        passed_over = self._sound.read(start, abs(off) + PIECE)
        return bool(np.abs(passed_over, dtype=np.int32).max() <= _QUIET)

    def _jump(self, wanted: int) -> Samples:
        assert self._position is not None
        piece = self._sound.read(wanted, PIECE)
        leaving = self._sound.read(self._position, _FADE)
        share = np.linspace(0, 1, _FADE)
        piece[:_FADE] = (1 - share) * leaving + share * piece[:_FADE]
        self._position = wanted + PIECE
        return piece

    def _stretch(self, more: int) -> Samples:
        # As many samples more are squeezed into the piece; with fewer it is drawn out.
        assert self._position is not None
        count = PIECE + more
        piece = self._sound.read(self._position, count + 1)
        self._position += count
        if not more:
            return piece[:-1]
        places = np.arange(PIECE) * (count / PIECE)
        return np.interp(places, np.arange(count + 1), piece).round().astype(np.int16)
