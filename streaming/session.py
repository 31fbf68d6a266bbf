"""Which motion becomes which clip. No thread, no clock, no socket: every call returns at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from mimaface.types import Appearance, Clip, ClipRequest, Cutout, ICAState, MeshRender, Motion
from streaming.types import AvatarFrame


class Session:
    """Cuts one driver's relative motion into clips and carries the ICA state between them.

    One request is in flight at a time. Motion that arrives meanwhile waits, one chunk at most:
    beyond that the oldest frame is dropped, because the newest is what the driver does now.

    Attributes:
        steps: denoising steps of the clips to come; the carried state outlives a change.
        is_half: whether the clips to come show the portrait at half the side, if it has that.
        dropped: frames of motion that were dropped.
        failed: clips that were lost to an error.
    """

    def __init__(
        self, appearance: Appearance, *, new_frames: int, steps: int = 0, seed: int = 0
    ) -> None:
        """Start without carried state; `new_frames` is N, the frames a clip adds."""
        if new_frames < 1:
            raise ValueError(f"new_frames must be at least 1, found {new_frames}")
        self._appearance = appearance
        self._new_frames = new_frames
        self.steps = steps
        self.is_half = False
        self._seed = seed
        self._waiting: deque[tuple[Motion, MeshRender | None]] = deque()
        self._in_flight: ClipRequest | None = None
        self._ica: ICAState | None = None
        self.dropped = 0
        self.failed = 0

    @property
    def portrait(self) -> Appearance:
        """What the clips to come show."""
        half = self._appearance.half if self.is_half else None
        return half or self._appearance

    def push(self, motion: Motion, moved: MeshRender | None = None) -> ClipRequest | None:
        """Take one frame of relative motion; return the clip that became due.

        Args:
            motion: the frame's.
            moved: the portrait as it is moved by it, if that is drawn already. It goes unused if
                the clip is to show another portrait by then.
        """
        if len(motion) != 1 or not motion.is_relative:
            raise ValueError("push takes one frame of relative motion")
        self._waiting.append((motion, moved))
        if len(self._waiting) > self._new_frames:
            self._waiting.popleft()
            self.dropped += 1
        return self._next_request()

    def complete(self, clip: Clip) -> tuple[list[AvatarFrame], ClipRequest | None]:
        """Take the clip in flight; return its frames and the clip that became due."""
        request = self._land()
        if len(clip.pixels) != len(request.motion):
            raise ValueError(
                f"a clip of {len(request.motion)} frames was due, found {len(clip.pixels)}"
            )
        # The state holds the portrait it was made with, at either size. A clip without denoising
        # steps may bring none; the next one with steps then goes on from the last there was.
        sizes = self._appearance, self._appearance.half
        is_of_portrait = any(request.appearance is each for each in sizes)
        if is_of_portrait and (clip.ica is not None or request.steps):
            self._ica = clip.ica
        frames = [
            AvatarFrame(time_s=float(time_s), pixels=pixels, cutout=cutout)
            for time_s, pixels, cutout in zip(
                request.motion.time_s,
                clip.pixels,
                _cutouts(request.appearance.cutout, clip),
                strict=True,
            )
        ]
        return frames, self._next_request()

    def fail(self) -> ClipRequest | None:
        """Give up the clip in flight; return the clip that became due, without carried state.

        The lost clip is not asked for again: by now there is newer motion, or soon will be.
        """
        self._land()
        self._ica = None
        self.failed += 1
        return self._next_request()

    def drop_before(self, time_s: float) -> None:
        """Drop the motion that waits if even the newest of it is from before `time_s`."""
        if self._waiting and self._waiting[-1][0].time_s[0] < time_s:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def change_source(self, appearance: Appearance) -> None:
        """Show another portrait from the next clip on."""
        self._appearance = appearance
        self._ica = None

    def _land(self) -> ClipRequest:
        assert self._in_flight is not None, "no clip is in flight"
        request, self._in_flight = self._in_flight, None
        return request

    def _next_request(self) -> ClipRequest | None:
        if self._in_flight is not None or len(self._waiting) < self._new_frames:
            return None
        drawn = [moved for _, moved in self._waiting if moved and moved.mesh is self.portrait.mesh]
        self._in_flight = ClipRequest(
            appearance=self.portrait,
            motion=Motion.concatenate([motion for motion, _ in self._waiting]),
            ica=self._ica,
            steps=self.steps,
            seed=self._seed,
            moved=MeshRender.concatenate(drawn) if len(drawn) == self._new_frames else None,
        )
        self._waiting.clear()
        return self._in_flight


def _cutouts(still: Cutout | None, clip: Clip) -> Sequence[Cutout | None]:
    # The source's, whose person has moved; its background is the same for every frame.
    if still is None or clip.matte is None:
        return [None] * len(clip.pixels)
    return [replace(still, matte=matte) for matte in clip.matte]
