"""The driver's voice on its way to a listener, with the clock in the test's hands."""

from __future__ import annotations

import asyncio
import fractions

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from server.sound import MOST_WAIT_S, Listener, Sound
from server.tracks import PIECE, RATE, Samples, SoundTrack, listen
from tests.fakes import SimulatedLoop

PIECE_S = PIECE / RATE


class Voice:
    """A microphone that sends a piece every 20 ms, and a listener who asks for one as often."""

    def __init__(self, wave: Samples, *, path_s: float = 0.1) -> None:
        self.wave = wave
        self.sound = Sound()
        self.sound.note_path(path_s)
        self.listener = Listener(self.sound)
        self.start_s, self.count = 100.0, 0

    def say(self, *, is_lost: bool = False) -> Samples:
        """Let 20 ms pass; return what the listener hears in them."""
        position = self.count * PIECE
        now_s = self.start_s + (position + PIECE) / RATE
        if not is_lost:
            piece = self.wave[position : position + PIECE]
            self.sound.put(piece, position, time_s=now_s - PIECE_S, now_s=now_s)
        self.count += 1
        return self.listener.next_piece(now_s)

    def say_all(self) -> Samples:
        return np.concatenate([self.say() for _ in range(len(self.wave) // PIECE)])


def tone(seconds: float, *, hz: float = 200, peak: int = 10_000) -> Samples:
    time_s = np.arange(round(seconds * RATE)) / RATE
    wave: Samples = (peak * np.sin(2 * np.pi * hz * time_s)).astype(np.int16)
    return wave


def clicks(seconds: float, *, every_s: float = 0.5) -> Samples:
    wave = np.zeros(round(seconds * RATE), np.int16)
    wave[:: round(every_s * RATE)] = 20_000
    return wave


def times_s(heard: Samples) -> list[float]:
    """When there are clicks."""
    loud = np.flatnonzero(heard > 5000)
    return [float(place) / RATE for place in loud]


def steepest(heard: Samples) -> int:
    return int(np.abs(np.diff(heard.astype(int))).max())


def test_what_is_heard_is_what_was_said_as_late_as_the_video_path() -> None:
    wave = tone(2)
    heard = Voice(wave, path_s=0.1).say_all()
    # A listener's piece begins when a piece has come whole, 20 ms after its first sample.
    late = round(0.1 * RATE) - PIECE
    assert np.array_equal(heard[late:], wave[:-late])
    assert not heard[: late - 1].any()


def test_without_a_microphone_there_is_silence() -> None:
    assert not Listener(Sound()).next_piece(100.0).any()


def test_a_muted_microphone_is_silence_and_comes_back_in_time() -> None:
    voice = Voice(tone(2))
    before = [voice.say() for _ in range(20)]
    muted = [voice.say(is_lost=True) for _ in range(40)]
    after = [voice.say() for _ in range(20)]
    assert before[-1].any()
    assert not np.concatenate(muted[6:]).any()
    assert not np.concatenate(after[:4]).any()
    late = round(0.1 * RATE) - PIECE
    said = voice.wave[75 * PIECE - late : 76 * PIECE - late]
    assert np.array_equal(after[15], said)


def test_a_microphone_whose_samples_did_not_count_during_the_pause_is_in_time_too() -> None:
    voice = Voice(clicks(4))
    for _ in range(50):
        voice.say()
    voice.start_s += 5.0  # its next sample follows the one before, five seconds later
    heard = np.concatenate([voice.say() for _ in range(100)])
    assert times_s(heard) == pytest.approx([0.08, 0.58, 1.08, 1.58], abs=1e-4)


def test_another_connection_of_the_driver_begins_anew() -> None:
    voice = Voice(clicks(4))
    for _ in range(50):
        voice.say()
    voice.start_s, voice.count = voice.start_s + 1.5, 0
    heard = np.concatenate([voice.say() for _ in range(50)])
    assert times_s(heard) == pytest.approx([0.08, 0.58], abs=1e-4)


def test_two_seconds_are_kept() -> None:
    sound = Sound()
    wave = tone(10)
    for position in range(0, len(wave), PIECE):
        time_s = 100 + position / RATE
        sound.put(wave[position : position + PIECE], position, time_s=time_s, now_s=time_s + 0.02)
    kept = sound.read(0, len(wave))
    assert np.array_equal(kept[-2 * RATE :], wave[-2 * RATE :])
    assert not kept[: -2 * RATE].any()


def test_the_delay_is_the_usual_one_of_the_path() -> None:
    sound = Sound()
    for seconds in [*[0.08] * 20, *[0.5] * 10, *[0.12] * 15]:
        sound.note_path(seconds)
    assert sound.delay_s == 0.12


def test_a_listener_catches_up_in_a_pause_at_once() -> None:
    voice = Voice(clicks(4), path_s=0.1)
    first = np.concatenate([voice.say() for _ in range(95)])
    for _ in range(64):
        voice.sound.note_path(0.15)
    second = np.concatenate([voice.say() for _ in range(95)])
    assert times_s(first) == pytest.approx([0.08, 0.58, 1.08, 1.58], abs=1e-4)
    assert times_s(second) == pytest.approx([0.23, 0.73, 1.23, 1.73], abs=1e-4)


def test_speech_without_a_pause_is_stretched_by_half_a_percent_and_never_clicks() -> None:
    wave = tone(16)
    voice = Voice(wave, path_s=0.10)
    for _ in range(50):
        voice.say()
    for _ in range(64):
        voice.sound.note_path(0.1525)
    heard = np.concatenate([voice.say() for _ in range(700)])
    assert steepest(heard) <= 1.02 * steepest(wave)
    crossings = np.flatnonzero((heard[:-1] < 0) & (heard[1:] >= 0))
    assert np.abs(np.diff(crossings) - RATE / 200).max() <= 0.0055 * RATE / 200 + 1
    # The path's 50 ms and half a wave are made up for, but for a rest of at most a millisecond.
    end = 750 * PIECE - round(0.1525 * RATE) + PIECE

    rests = range(-120, 120)
    said = [wave[end + rest - PIECE : end + rest].astype(int) for rest in rests]
    unlike = [int(np.abs(heard[-PIECE:] - each).sum()) for each in said]
    assert abs(rests[int(np.argmin(unlike))]) <= RATE // 1000


def test_a_change_too_large_to_stretch_for_is_one_faded_jump() -> None:
    wave = tone(8)
    voice = Voice(wave, path_s=0.1)
    for _ in range(100):
        voice.say()
    for _ in range(64):
        voice.sound.note_path(0.4025)  # 300 ms and half a wave later
    heard = np.concatenate([voice.say() for _ in range(100)])
    # The fade of 5 ms adds at most its own slope to that of the wave.
    assert steepest(heard) <= steepest(wave) + 2 * 10_000 / (0.005 * RATE) + 2
    late = round(0.4025 * RATE) - PIECE
    assert np.array_equal(heard[-PIECE:], wave[200 * PIECE - late - PIECE : 200 * PIECE - late])


def test_sound_that_comes_late_is_waited_for_but_not_past_what_lips_allow() -> None:
    for age_s, delay_s in ((0.03, 0.06), (0.05, 0.07), (0.3, 0.06 + MOST_WAIT_S)):
        sound = Sound()
        sound.note_path(0.06)
        for position in range(0, RATE, PIECE):
            sound.put(
                tone(PIECE_S),
                position,
                time_s=100 + position / RATE,
                now_s=100 + position / RATE + age_s,
            )
        assert sound.delay_s == pytest.approx(delay_s)
        assert sound.late == (50 if age_s == 0.3 else 0)


class Recording(MediaStreamTrack):
    """A track that gives these frames, then ends."""

    kind = "audio"

    def __init__(self, frames: list[av.AudioFrame]) -> None:
        super().__init__()
        self.frames = frames

    async def recv(self) -> av.AudioFrame:
        if not self.frames:
            raise MediaStreamError
        return self.frames.pop(0)


def frame(samples: Samples, *, layout: str, rate: int, pts: int) -> av.AudioFrame:
    made = av.AudioFrame.from_ndarray(samples[None], format="s16", layout=layout)
    made.sample_rate, made.pts, made.time_base = rate, pts, fractions.Fraction(1, rate)
    return made


@pytest.mark.parametrize(
    ("rate", "layout"), [(48_000, "stereo"), (8_000, "mono"), (16_000, "mono")]
)
def test_any_codecs_sound_becomes_48_khz_mono_at_its_place(rate: int, layout: str) -> None:
    channels = {"mono": 1, "stereo": 2}[layout]
    wave = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    samples = np.repeat((10_000 * wave).astype(np.int16), channels)
    step = rate // 50
    frames = [
        frame(
            samples[i * step * channels : (i + 1) * step * channels],
            layout=layout,
            rate=rate,
            pts=i * step,
        )
        for i in range(50)
        if i != 20  # which was lost
    ]
    heard = np.zeros(RATE, np.int16)

    def hear(piece: Samples, position: int, _frame: av.AudioFrame, _arrived_s: float) -> None:
        heard[position : position + len(piece)] = piece

    asyncio.run(listen(Recording(frames), hear))
    expected = 10_000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    middle = slice(25 * PIECE, 45 * PIECE)
    assert np.corrcoef(heard[middle], expected[middle])[0, 1] > 0.999
    assert not heard[round(20.3 * PIECE) : round(20.7 * PIECE)].any()


def test_a_track_sends_pieces_one_after_the_other_each_in_a_frame_of_its_own() -> None:
    asked_s: list[float] = []

    def read(now_s: float) -> Samples:
        asked_s.append(now_s)
        return np.full(PIECE, len(asked_s), np.int16)

    async def main() -> list[av.AudioFrame]:
        track = SoundTrack(read)
        return [await track.recv() for _ in range(5)]

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        frames = runner.run(main())
    assert [frame.pts for frame in frames] == [0, PIECE, 2 * PIECE, 3 * PIECE, 4 * PIECE]
    assert {(frame.sample_rate, frame.samples, frame.format.name) for frame in frames} == {
        (RATE, PIECE, "s16")
    }
    assert [int(frame.to_ndarray()[0, 0]) for frame in frames] == [1, 2, 3, 4, 5]
    assert np.diff(asked_s) == pytest.approx([PIECE_S] * 4)


def test_a_track_that_was_held_up_leaves_sound_out_rather_than_hurry() -> None:
    asked_s: list[float] = []

    def read(now_s: float) -> Samples:
        asked_s.append(now_s)
        return np.zeros(PIECE, np.int16)

    async def main() -> list[int | None]:
        track = SoundTrack(read)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        before = (await track.recv()).pts
        loop.now_s += 5.0
        return [before, (await track.recv()).pts, (await track.recv()).pts]

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        first, held_up, after = runner.run(main())
    assert first == 0
    assert held_up is not None
    assert held_up >= 5 * RATE
    assert after == held_up + PIECE
    assert asked_s[1] - asked_s[0] >= 5.0
    assert asked_s[2] - asked_s[1] == pytest.approx(PIECE_S, abs=1e-4)


def test_a_stopped_track_ends_and_the_others_go_on() -> None:
    async def main() -> None:
        sound = Sound()
        one, other = sound.track(), sound.track()
        await one.recv()
        waiting = asyncio.create_task(one.recv())
        await asyncio.sleep(0)
        one.stop()
        with pytest.raises(MediaStreamError):
            await waiting
        assert not (await other.recv()).to_ndarray().any()

    asyncio.run(main())
