"""Measures an avatar frame by frame against its driver: likeness, motion, flicker, seams, drift.

Without a photo the driver's own first frame is the source: the avatar should look like the rest of
the video. With one, it should do what the driver does. Nothing is kept of the frames but figures,
so a roll-out may be long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np

from mimaface.evaluation.agreement import Agreement, Signals, agree, error, signals
from mimaface.evaluation.metrics import (
    Slope,
    binned,
    face_regions,
    flicker,
    lpips,
    lpips_is_at_hand,
    optical_flow,
    psnr,
    sharpness,
    slope,
    ssim,
)
from mimaface.evaluation.rollout import Frame, Scene, roll_out
from mimaface.evaluation.seams import SEAM_FRAMES, Seams, measure_seams
from mimaface.model import Model
from mimaface.motion import FaceMeshExtractor
from mimaface.types import Floats, Motion

IDENTITY_EVERY: Final = 5  # frames; who it is does not change from one to the next
BIN_S: Final = 1.0  # a drift is fitted to means over so long, or over a round trip


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How near the output is to the driver's real frame; means over frames.

    PSNR in dB; `region` is the eyes with their brows and the mouth (`metrics.face_regions`).
    """

    psnr: float
    psnr_region: float | None
    ssim: float
    ssim_region: float | None
    lpips: float | None


@dataclass(frozen=True, kw_only=True)
class Flicker:
    """What changes from frame to frame that the motion does not explain, in grey levels.

    Mean absolute difference of a frame and the previous one warped by dense optical flow, each
    video's own: flow of the driver's frames would charge the output with every subpixel by which
    it lags behind, which is no flicker.
    """

    output: float
    driver: float

    @property
    def ratio(self) -> float | None:
        """Output over driver."""
        return self.output / self.driver if self.driver else None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How figures change along the roll-out, per minute; None when it is too short to tell.

    Fitted to means over whole round trips of the clip, or over seconds where it plays once.

    Attributes:
        sharpness: of the output over that of the source image.
        colour: mean red, green and blue, in grey levels.
        identity: the similarity to the source.
    """

    sharpness: Slope | None
    colour: tuple[Slope | None, Slope | None, Slope | None]
    identity: Slope | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An avatar, measured.

    Attributes:
        frames: of the roll-out.
        duration_s: from its first frame to its last.
        compared_frames: of them, where both driver and output show a face: the signals' figures.
        face_share: share of the output's frames that show a face.
        likeness: in self-reenactment, over the frames where the driver shows a face, but not the
            source's own; None with a photo.
        sharpness: `metrics.sharpness` of the output over that of the driver's real frames in
            self-reenactment, else over the source image's.
        sharpness_region: the same in the region; None with a photo.
        flicker: None of a single frame.
        seams: None without denoising steps: there is no state then.
        drift: along the roll-out.
        agreements: how the output's signals follow the driver's.
        expression_error: `agreement.error` of the expression around eyes, brows and lips.
        identity_own_encoder: mean cosine of the class tokens of source and output by the model's
            own source encoder, which never learned to tell real people apart if the model did
            not; None without one.
        notes: sentences about what could not be measured.
    """

    frames: int
    duration_s: float
    compared_frames: int
    face_share: float
    likeness: Likeness | None
    sharpness: float | None
    sharpness_region: float | None
    flicker: Flicker | None
    seams: Seams | None
    drift: Drift
    agreements: tuple[Agreement, ...]
    expression_error: float | None
    identity_own_encoder: float | None
    notes: tuple[str, ...]


def evaluate(
    model: Model,
    scene: Scene,
    *,
    steps: int,
    seed: int = 0,
    is_carried: bool = True,
    watch: Callable[[Frame], None] = lambda _frame: None,
) -> Evaluation:
    """Make the avatar and measure it.

    Args:
        model: what makes it.
        scene: what is filmed; its frames are used up.
        steps: denoising steps.
        seed: of the noise.
        is_carried: whether each clip gets the ICA state of the one before.
        watch: is called with every frame.

    Raises:
        UnsupportedStepsError: the model cannot do the steps.
        MimafaceError: torchmetrics is not installed.
    """
    model.check_steps(steps)
    figures: dict[str, list[float]] = defaultdict(list)
    driving: list[Signals] = []
    output: list[Signals] = []
    beginning: list[Motion] = []
    encoder = model.generator
    own = None if encoder is None else encoder.class_token(scene.appearance.source)
    has_lpips = scene.is_self and lpips_is_at_hand()
    previous: Frame | None = None
    with closing(FaceMeshExtractor()) as extractor:
        for index, frame in enumerate(
            roll_out(model, scene, steps=steps, seed=seed, is_carried=is_carried)
        ):
            watch(frame)
            figures["time_s"].append(frame.time_s)
            _measure_picture(figures, frame, is_self=scene.is_self, has_lpips=has_lpips)
            if previous is not None:
                _measure_flicker(figures, frame, previous)
            if encoder is not None and own is not None and index % IDENTITY_EVERY == 0:
                figures["identity_s"].append(frame.time_s)
                figures["identity"].append(_cosine(own, encoder.class_token(frame.output)))
            seen = extractor.extract(frame.time_s, frame.output)
            figures["face"].append(float(seen.valid[0]))
            if seen.valid[0] and frame.take.motion.valid[0]:
                driving.append(signals(frame.take.motion))
                output.append(signals(seen))
            if index < SEAM_FRAMES:
                beginning.append(frame.motion)
            previous = frame
    source_sharpness = sharpness(scene.appearance.source)
    nothing = signals(Motion.missing(0.0)[:0])  # there may be no face in any output frame
    theirs, ours = (Signals.concatenate([nothing, *each]) for each in (driving, output))
    return Evaluation(
        frames=len(figures["time_s"]),
        duration_s=figures["time_s"][-1] - figures["time_s"][0],
        compared_frames=len(driving),
        face_share=float(np.mean(figures["face"])),
        likeness=_likeness(figures) if scene.is_self else None,
        sharpness=_over(figures["sharp"], figures["real_sharp"] or [source_sharpness]),
        sharpness_region=_over(figures["sharp_region"], figures["real_sharp_region"]),
        flicker=_flicker(figures),
        seams=measure_seams(model, scene.appearance, beginning, steps=steps, seed=seed),
        drift=_drift(figures, source_sharpness, bin_s=scene.round_trip_s or BIN_S),
        agreements=agree(theirs, ours),
        expression_error=error(theirs.expression, ours.expression),
        identity_own_encoder=_mean(figures["identity"]),
        notes=tuple(_notes(model, scene, steps=steps, has_lpips=has_lpips)),
    )


def _measure_picture(
    figures: dict[str, list[float]], frame: Frame, *, is_self: bool, has_lpips: bool
) -> None:
    figures["sharp"].append(sharpness(frame.output))
    for channel, level in zip(
        ("red", "green", "blue"), frame.output.mean(axis=(0, 1)), strict=True
    ):
        figures[channel].append(float(level))
    if not is_self or not frame.take.motion.valid[0]:
        return
    real, region = frame.take.picture, face_regions(frame.take.places, len(frame.output))
    figures["real_sharp"].append(sharpness(real))
    if region.any():
        figures["sharp_region"].append(sharpness(frame.output, region))
        figures["real_sharp_region"].append(sharpness(real, region))
    if frame.take.index == 0:
        return  # the source itself is no test
    similar, where = ssim(real, frame.output)
    figures["psnr"].append(psnr(real, frame.output))
    figures["ssim"].append(similar)
    if region.any():
        figures["psnr_region"].append(psnr(real, frame.output, region))
        figures["ssim_region"].append(float(where[region].mean()))
    if has_lpips:
        figures["lpips"].append(lpips(real, frame.output))


def _measure_flicker(figures: dict[str, list[float]], frame: Frame, previous: Frame) -> None:
    for name, now, before in (
        ("driver_flicker", frame.take.picture, previous.take.picture),
        ("flicker", frame.output, previous.output),
    ):
        figures[name].append(flicker(now, before, optical_flow(now, before)))


def _likeness(figures: dict[str, list[float]]) -> Likeness | None:
    if not figures["psnr"]:
        return None
    return Likeness(
        psnr=float(np.mean(figures["psnr"])),
        psnr_region=_mean(figures["psnr_region"]),
        ssim=float(np.mean(figures["ssim"])),
        ssim_region=_mean(figures["ssim_region"]),
        lpips=_mean(figures["lpips"]),
    )


def _flicker(figures: dict[str, list[float]]) -> Flicker | None:
    output, driver = _mean(figures["flicker"]), _mean(figures["driver_flicker"])
    return None if output is None or driver is None else Flicker(output=output, driver=driver)


def _drift(figures: dict[str, list[float]], source_sharpness: float, *, bin_s: float) -> Drift:
    def fitted(name: str, *, clock: str = "time_s", unit: float = 1.0) -> Slope | None:
        if not figures[name]:
            return None
        times_s = np.array(figures[clock], np.float64)
        values = np.array(figures[name], np.float64) / unit
        return slope(*binned(times_s, values, bin_s=bin_s))

    return Drift(
        sharpness=fitted("sharp", unit=source_sharpness) if source_sharpness else None,
        colour=(fitted("red"), fitted("green"), fitted("blue")),
        identity=fitted("identity", clock="identity_s"),
    )


def _notes(model: Model, scene: Scene, *, steps: int, has_lpips: bool) -> list[str]:
    notes = []
    if scene.is_self and not has_lpips:
        notes.append("LPIPS was not computed: torchvision and its AlexNet are not on this disk")
    if model.generator is None:
        notes.append("identity was not compared: the model was loaded without weights")
    if not steps:
        notes.append("there are no seams without denoising steps: no state is handed on")
    return notes


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / max(lengths, 1e-12)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _over(output: Sequence[float], real: Sequence[float]) -> float | None:
    return float(np.mean(output) / np.mean(real)) if output and real and any(real) else None
