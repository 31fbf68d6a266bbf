"""Do the borders of clips show? The same motion in longer clips, with ICA and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from mimaface.evaluation.metrics import seam_jump
from mimaface.evaluation.rollout import make_clip
from mimaface.model import Model
from mimaface.render import render
from mimaface.types import Appearance, Floats, ICAState, Motion, Pixels

SEAM_FRAMES: Final = 120  # seams are looked for in so many frames,
SEAM_CLIP: Final = 4  # in clips of at least so many.


@dataclass(frozen=True, kw_only=True)
class Seams:
    """`metrics.seam_jump` of clips of some frames; 1 is no seam, None where nothing is known."""

    clip_frames: int
    with_ica: float | None
    without_ica: float | None


def measure_seams(
    model: Model, appearance: Appearance, motions: Sequence[Motion], *, steps: int, seed: int = 0
) -> Seams | None:
    """Make the same motion in clips of several frames, with and without ICA, and compare borders.

    A model whose own clips add fewer than `SEAM_CLIP` frames is asked for so many: where a clip is
    one frame there is no inside to compare the borders with. Returns None without denoising steps.

    Args:
        model: what makes the clips.
        appearance: the portrait.
        motions: one frame of relative motion each.
        steps: denoising steps.
        seed: of the noise.
    """
    if not steps or not motions:
        return None
    motion, frames = Motion.concatenate(motions), max(model.config.new_frames, SEAM_CLIP)
    is_border = np.arange(1, len(motion)) % frames == 0
    rendered = _changes(render(appearance.mesh, motion).pixels)

    def jump(*, is_carried: bool) -> float | None:
        ica: ICAState | None = None
        shown: list[Pixels] = []
        for start in range(0, len(motion), frames):
            clip = make_clip(
                model,
                appearance,
                motion[start : start + frames],
                frames=frames,
                ica=ica if is_carried else None,
                steps=steps,
                seed=seed,
            )
            shown.append(clip.pixels)
            ica = clip.ica
        return seam_jump(_changes(np.concatenate(shown)), rendered, is_border)

    return Seams(
        clip_frames=frames,
        with_ica=jump(is_carried=True),
        without_ica=jump(is_carried=False),
    )


def _changes(pictures: Pixels) -> Floats:
    # Mean squared difference of each picture [F, H, W, 3] and the one before it, [F - 1].
    return np.array(
        [
            np.square(picture.astype(np.float32) - before).mean()
            for before, picture in pairwise(pictures)
        ]
    )
