"""The generator on a CPU: what `mimaface.generator` makes, frame by frame and without torch.

The networks and what prepares their inputs are graphs; what they say is done to the picture by one
compiled loop. A clip that is made so needs Python's lock seldom: where other threads want it too,
waiting for it can take as long as the networks do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from mimaface.config import ModelConfig, trailing_timesteps
from mimaface.correction_loop import correct_picture
from mimaface.face_crop import cut, fade, last_latents
from mimaface.render import drawn
from mimaface.sight import features_of, look_at, pack_motion, refine, shrink, sight_of
from mimaface.types import (
    Appearance,
    Clip,
    ClipRequest,
    Floats,
    ICAState,
    MeshRender,
    Pixels,
    SourceFeatures,
    Stage,
)

Inputs = Mapping[str, NDArray[Any]]  # of the denoiser and MIA, by name

# render uint8 [H, W, 3]; guess and previous [C, h, w], clean latents of this frame and the last;
# has_previous [1], 1, or 0 for first clips, whose previous is zeros; timestep [1]; source [L, D'],
# its tokens; signals [M], of the motion.
INPUTS: Final = (
    "render", "guess", "previous", "has_previous", "timestep", "source", "signals",
)  # fmt: skip


class Networks(Protocol):
    """What was trained."""

    def encode(self, source: Pixels) -> Floats:
        """Return the tokens [L, D'] of a source [H, W, 3], the class token first."""
        ...

    def correct(self, inputs: Inputs) -> Floats:
        """Return what MIA and denoiser say [C + 2, h, w], settled (`correction.settle`)."""
        ...


class FrameGenerator:
    """Makes clips as a roll-out of single frames, each carried to the next.

    It holds no state of any session.

    Attributes:
        config: the model's shape.
        networks: what it makes them with.
    """

    def __init__(self, config: ModelConfig, networks: Networks) -> None:
        """Use networks.

        Args:
            config: of a model with a residual denoiser on rearranged pixels, whose carried frame is
                held beside the new one, and whose samplings draw no noise.
            networks: all of them.
        """
        assert config.denoiser.residual, "a correction is what the loop knows how to apply"
        assert config.autoencoder.kind == "unshuffle", "latents are pixels"
        assert config.ica == "hold", "no frame is made again"
        assert not any(each.is_noisy for each in config.samplings.values()), "none is drawn"
        self.config = config
        self.networks = networks
        self._timesteps = {
            steps: trailing_timesteps(steps, first=sampling.first_timestep)
            for steps, sampling in config.samplings.items()
        }
        cells = config.square_px // config.autoencoder.factor
        self._nothing = np.zeros((config.autoencoder.channels, cells, cells), np.float32)

    def read_source(self, appearance: Appearance) -> SourceFeatures:
        """Return what it needs of a source, once for all its clips."""
        tokens = self._tokens(appearance.source)
        [source] = shrink(appearance.source[None], self.config.working_px)
        return SourceFeatures(
            tokens=tokens,
            identity=tokens[0],
            coefficients=np.empty(0, np.float32),
            latents=self._latents(source),
            face=None,
        )

    def class_token(self, picture: Pixels) -> Floats:
        """Return what the source encoder says of a whole picture [H, W, 3], a vector [D']."""
        token: Floats = self._tokens(picture)[0]
        return token

    def animate(self, requests: Sequence[ClipRequest], *, stage: Stage) -> list[Clip]:
        """Make the clips of requests, one after the other."""
        return [self._roll_out(request, stage) for request in requests]

    def remember(self, request: ClipRequest, moved: MeshRender) -> ICAState:
        """Return the state that a clip drawn without denoising leaves, so that steps can follow it.

        Args:
            request: for the clip.
            moved: the mesh that is its pictures.
        """
        seen, corner = look_at(moved[-1:], sight_of(request.ica, self.config))
        return ICAState(
            latents=self._latents(seen[0])[None],
            signals=pack_motion(request.motion[-1:]),
            render_latents=None,
            next_frame=request.first_frame + len(request.motion),
            corner=corner,
        )

    def _roll_out(self, request: ClipRequest, stage: Stage) -> Clip:
        with stage("condition"):
            moved = drawn(request)
        state, clips = request.ica, []
        for frame in range(len(request.motion)):
            only = slice(frame, frame + 1)
            next_one = replace(request, motion=request.motion[only], ica=state, moved=moved[only])
            clips.append(self._make(next_one, stage))
            state = clips[-1].ica
        if len(clips) == 1:
            return clips[0]
        return Clip(
            pixels=np.concatenate([each.pixels for each in clips]),
            ica=state,
            matte=moved.coverage,
            is_finite=all(each.is_finite for each in clips),
        )

    def _make(self, request: ClipRequest, stage: Stage) -> Clip:
        # One frame.
        config, state, moved = self.config, request.ica, drawn(request)
        side_px, cell_px = config.square_px, config.autoencoder.factor
        with stage("condition"):
            features = features_of(request, config)
            seen, corner = look_at(moved, sight_of(state, config))
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
                correction = self.networks.correct({**inputs, "guess": guess, "timestep": level})
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
                next_frame=request.first_frame + 1,
                corner=corner,
            ),
            matte=moved.coverage,
            is_finite=bool(np.isfinite(correction).all()),
        )

    def _tokens(self, picture: Pixels) -> Floats:
        [seen] = shrink(picture[None], self.config.source_px)
        return self.networks.encode(seen)

    def _latents(self, picture: Pixels) -> Floats:
        # As `autoencoder.PixelUnshuffle` rearranges a picture [H, W, 3]: [C, h, w].
        cell_px = self.config.autoencoder.factor
        levels = picture.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return rearrange(levels, "(h i) (w j) c -> (c i j) h w", i=cell_px, j=cell_px)
