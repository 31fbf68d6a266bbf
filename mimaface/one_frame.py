"""Clips of one frame on a CPU: what `Generator.animate` makes, in two calls a denoising step.

The networks and what prepares their inputs are one graph; what they say is done to the picture by
one compiled loop. A clip that is made so needs Python's lock less often: where other threads want
it too, waiting for it can take as long as the networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mimaface.condition import look_at, pack_motion, refine, sight_of
from mimaface.config import ModelConfig
from mimaface.correction_loop import correct_picture
from mimaface.face_crop import cut, fade
from mimaface.generator import features_of, next_frame
from mimaface.ica import last_latents
from mimaface.render import drawn
from mimaface.schedule import trailing_timesteps
from mimaface.types import Clip, ClipRequest, Floats, ICAState, Stage

Inputs = Mapping[str, NDArray[Any]]  # of the networks, by name
Networks = Callable[[Inputs], Floats]  # -> [C + 2, h, w], the correction without small additions

# render uint8 [H, W, 3]; guess and previous [C, h, w], clean latents of this frame and the last;
# has_previous [1], 1, or 0 for first clips, whose previous is zeros; timestep [1]; source [L, D'],
# its tokens; signals [M], of the motion.
INPUTS: Final = (
    "render", "guess", "previous", "has_previous", "timestep", "source", "signals",
)  # fmt: skip


class OneFrame:
    """Makes clips of one frame; it holds no state of any session."""

    def __init__(self, config: ModelConfig, networks: Networks) -> None:
        """Use networks.

        Args:
            config: of a model with a residual denoiser, whose carried frame is held beside the new
                one, and whose samplings draw no noise.
            networks: MIA and denoiser.
        """
        assert config.denoiser.residual, "a correction is what the loop knows how to apply"
        assert config.ica == "hold", "no frame is made again"
        assert not any(each.is_noisy for each in config.samplings.values()), "none is drawn"
        self._config = config
        self._networks = networks
        self._timesteps = {
            steps: trailing_timesteps(steps, first=sampling.first_timestep).numpy()
            for steps, sampling in config.samplings.items()
        }
        cells = config.square_px // config.autoencoder.factor
        self._nothing = np.zeros((config.autoencoder.channels, cells, cells), np.float32)

    def animate(self, request: ClipRequest, *, stage: Stage) -> Clip:
        """Make the clip of a request for one new frame."""
        config, state = self._config, request.ica
        side_px, cell_px = config.square_px, config.autoencoder.factor
        with stage("condition"):
            features = features_of(request, config)
            moved = drawn(request)
            seen, corner = look_at(moved, sight_of(request, config))
            [render], [signals] = np.ascontiguousarray(seen), pack_motion(request.motion)
            if state is None:
                previous = self._nothing
                guess = cut(features.latents, corner, cell_px=cell_px, side_px=side_px)
            else:
                [previous] = last_latents(state, corner, cell_px=cell_px)
                guess = previous
            inputs = {
                "render": render,
                "previous": previous,
                "has_previous": np.array([state is not None], np.float32),
                "source": features.tokens,
                "signals": signals,
            }
        for timestep in self._timesteps[request.steps]:
            with stage("denoise"):
                level = np.array([timestep])
                correction = self._networks({**inputs, "guess": guess, "timestep": level})
            with stage("correct"):
                guess, change = correct_picture(render, correction)
        with stage("decode"):
            if side_px != config.working_px:
                change *= fade(side_px)
            pixels = refine(moved.pixels, change[None], corner, working_px=config.working_px)
        return Clip(
            pixels=pixels,
            ica=ICAState(
                latents=guess[None],
                signals=signals[None],
                render_latents=None,
                next_frame=next_frame(request) + 1,
                corner=corner,
            ),
            matte=moved.coverage,
            is_finite=bool(np.isfinite(correction).all()),
        )
