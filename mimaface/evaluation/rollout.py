"""Makes an avatar of a driving video, as live: one frame after the other, clip after clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from mimaface.animate import animate, encode_source
from mimaface.evaluation.footage import Take, back_and_forth, crop_of, cropped, filmed, kept
from mimaface.model import Model
from mimaface.motion import Neutral, RelativeMotion, relative_ahead
from mimaface.render import render
from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion, Pixels
from mimaface.video import VideoReader


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of an evaluation; pictures are uint8 [H, W, 3].

    Attributes:
        take: the driver's frame.
        motion: the relative motion it became.
        mesh: the mesh render of that motion.
        output: the avatar.
    """

    take: Take
    motion: Motion
    mesh: Pixels
    output: Pixels

    @property
    def time_s(self) -> float:
        """When it is shown."""
        return float(self.motion.time_s[0])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is filmed: a portrait and its driver.

    Attributes:
        appearance: the portrait.
        frames: of the driver, with the relative motion each became.
        is_self: whether the portrait is the driver's own first frame.
        round_trip_s: how long the clip takes forwards and backwards; None when it plays once.
    """

    appearance: Appearance
    frames: Iterator[tuple[Motion, Take]]
    is_self: bool
    round_trip_s: float | None


def open_scene(
    model: Model, video: VideoReader, photo: Pixels | None, *, repeat_to_s: float | None
) -> Scene:
    """Encode the source, and line the driver up with it.

    In self-reenactment the source frame is the driver's neutral, so that the avatar's motion is
    the driver's own and not one relative to a second of it; smoothing is that of a live session.

    Args:
        model: what is evaluated.
        video: the driver.
        photo: the source, uint8 [H, W, 3]; None for the driver's first frame with a face.
        repeat_to_s: play the driver back and forth for so long; None to play it once.

    Raises:
        SourceImageError: the photo or frame cannot be a portrait, or the driver shows no face.
        UnreadableMediaError: a driver that is to be repeated is too long or a single frame.
    """
    size_px, framing = model.config.size_px, model.config.framing
    shots = filmed(video)
    first = next(shots)
    appearance = encode_source(model, first.rgb if photo is None else photo)
    crop = appearance.crop if photo is None else crop_of(first, framing)
    takes: Iterator[Take] = (cropped(shot, crop, size_px) for shot in chain([first], shots))
    round_trip_s = None
    if repeat_to_s is not None:
        clip = kept(takes)
        round_trip_s = 2 * float(clip[-1].motion.time_s[0] - clip[0].motion.time_s[0])
        takes = back_and_forth(clip, repeat_to_s)
    absolute = ((take.motion, take) for take in takes)
    if photo is None:
        following = RelativeMotion(Neutral.of(first.motion))
        frames: Iterator[tuple[Motion, Take]] = (
            (following.push(motion), take) for motion, take in absolute
        )
    else:
        frames = relative_ahead(absolute)
    return Scene(
        appearance=appearance, frames=frames, is_self=photo is None, round_trip_s=round_trip_s
    )


def roll_out(
    model: Model, scene: Scene, *, steps: int, seed: int = 0, is_carried: bool = True
) -> Iterator[Frame]:
    """Make the avatar, clip after clip.

    Args:
        model: what makes it.
        scene: what is filmed.
        steps: denoising steps.
        seed: of the noise.
        is_carried: whether each clip gets the ICA state of the one before.
    """
    ica = None
    while chunk := list(islice(scene.frames, model.config.new_frames)):
        motion = Motion.concatenate([each for each, _ in chunk])
        clip = make_clip(
            model,
            scene.appearance,
            motion,
            frames=model.config.new_frames,
            ica=ica if is_carried else None,
            steps=steps,
            seed=seed,
        )
        ica = clip.ica
        meshes = render(scene.appearance.mesh, motion).pixels if steps else clip.pixels
        for (moved, take), mesh, output in zip(chunk, meshes, clip.pixels, strict=True):
            yield Frame(take=take, motion=moved, mesh=mesh, output=output)


def make_clip(
    model: Model,
    appearance: Appearance,
    motion: Motion,
    *,
    frames: int,
    ica: ICAState | None,
    steps: int,
    seed: int,
) -> Clip:
    """Make a clip of so many frames; one of less motion is filled up with its end, and cut."""
    filled = Motion.concatenate([motion, *(frames - len(motion)) * [motion[-1:]]])
    request = ClipRequest(appearance=appearance, motion=filled, ica=ica, steps=steps, seed=seed)
    [clip] = animate(model, [request])
    return Clip(pixels=clip.pixels[: len(motion)], ica=clip.ica)
