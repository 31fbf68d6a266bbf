"""The MIMAFace generator: appearance, motion and ICA state become latents, and latents pictures.

`Generator.animate` is the model from end to end. It knows no session and holds no state of one:
what a clip leaves for the next is in the `ICAState` it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from mimaface.autoencoder import KL, TAESD, PixelUnshuffle
from mimaface.bfm import BfmModel
from mimaface.condition import (
    face_condition,
    mesh_condition,
    read_face,
    to_images,
)
from mimaface.config import AttentionKernel, AutoencoderConfig, ClipEncoderConfig, ModelConfig
from mimaface.d3dfr import CoefficientRegressor
from mimaface.denoiser import Denoiser, predict
from mimaface.face_crop import cut, fade, last_latents
from mimaface.ica import carry, warm_start
from mimaface.mia import PaperMIA, ReleasedMIA
from mimaface.render import drawn
from mimaface.schedule import denoise
from mimaface.sight import features_of, look_at, pack_motion, refine, shrink, sight_of
from mimaface.source_encoder import ClipIdentityEncoder, PatchEncoder
from mimaface.types import (
    Appearance,
    Clip,
    ClipRequest,
    Condition,
    Corner,
    Floats,
    ICAState,
    MeshRender,
    Pixels,
    SourceFeatures,
    Stage,
)

# Pictures that the autoencoder takes at a time: at 512x512 each fills about half a GiB in it.
MOST_PICTURES: Final = 8


class Generator(nn.Module):
    """All networks of a model. `mimaface.weights` fills and stores them.

    Those that work for every clip (MIA, denoiser, autoencoder) may run in half precision; those
    that read the source once (encoder, regressor) stay in float32.

    Attributes:
        config: the model's shape.
        face_model: the official face model, where the condition is its render.
    """

    def __init__(self, config: ModelConfig, *, attention: AttentionKernel = "sdpa") -> None:
        """Build it without weights."""
        super().__init__()
        self.config = config
        self.face_model: BfmModel | None = None
        self.regressor: CoefficientRegressor | None = None
        self.encoder: ClipIdentityEncoder | PatchEncoder
        self.mia: ReleasedMIA | PaperMIA
        encoder = config.encoder
        if isinstance(encoder, ClipEncoderConfig):
            self.regressor = CoefficientRegressor(width=encoder.regressor_width)
            self.encoder = ClipIdentityEncoder(encoder)
            self.mia = ReleasedMIA(
                config.mia,
                source_width=encoder.width,
                identity_features=encoder.identity_features,
            )
        else:
            self.encoder = PatchEncoder(encoder)
            self.mia = PaperMIA(config.mia, source_width=encoder.width)
        self.denoiser = Denoiser(
            config.denoiser,
            channels=config.autoencoder.channels,
            context_width=config.mia.width,
            attention=attention,
        )
        self.autoencoder = build_autoencoder(config.autoencoder)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of what works for every clip."""
        return next(self.denoiser.parameters()).dtype

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move it to a device, and what works for every clip to a precision; once, at load."""
        for part in (self.mia, self.denoiser, self.autoencoder):
            part.to(device, dtype)
        self.to(device)
        self.requires_grad_(requires_grad=False).eval()

    @torch.inference_mode()
    def read_source(self, appearance: Appearance) -> SourceFeatures:
        """Return what the generator needs of a source, once for all its clips."""
        face, aligned, coefficients = None, None, np.empty(0, np.float32)
        if isinstance(self.config.encoder, ClipEncoderConfig):
            assert self.regressor is not None, "the released form reads the face model"
            assert self.face_model is not None, "the face model is loaded with the weights"
            face, aligned, coefficients = read_face(
                appearance,
                self.regressor,
                self.face_model,
                identity_crop_px=self.config.encoder.identity_crop_px,
            )
        [seen] = shrink(appearance.source[None], self.config.source_px)
        encoded = self.encoder.encode(seen, aligned)
        source = shrink(appearance.source[None], self.config.working_px)
        [[latents]] = self._encode(to_images(source)[None])
        return SourceFeatures(
            tokens=encoded.tokens.cpu().numpy(),
            identity=encoded.identity.cpu().numpy(),
            coefficients=coefficients,
            latents=latents.cpu().numpy(),
            face=face,
        )

    @torch.inference_mode()
    def class_token(self, picture: Pixels) -> Floats:
        """Return what the source encoder says of a whole picture [H, W, 3], a vector [D]."""
        [seen] = shrink(picture[None], self.config.source_px)
        token: Floats = self.encoder.describe(seen).float().cpu().numpy()
        return token

    @torch.inference_mode()
    def animate(self, requests: Sequence[ClipRequest], *, stage: Stage) -> list[Clip]:
        """Make the clips of B requests of the same steps, new and carried frames, in one batch.

        Carried frames come first in every array over F; their pictures were shown already.
        """
        form, steps, new_frames = self.config.ica, requests[0].steps, len(requests[0].motion)
        features = [features_of(request, self.config) for request in requests]
        states = [request.ica for request in requests if request.ica is not None]

        # The motion as pictures of the moved source, and as signals.
        with stage("condition"):
            conditions = [self._condition(request) for request in requests]
            signals = self._batch([each.signals for each in conditions])  # [B, N, M]
            corners = [each.corner for each in conditions]
        with stage("encode"):
            pictures = torch.stack([each.render for each in conditions])  # [B, N, 3, H, W]
            render = self._encode(pictures)  # [B, N, C, h, w]

        # The last latents of the previous clips and, where they are made again, what these were
        # conditioned on.
        with stage("carry"):
            previous = self._carried(states, corners) if states else None  # [B, K, C, h, w]
            if states and form == "overlap":
                again = self._batch([state.render_latents for state in states])
                render = torch.cat([again, render], dim=1)  # [B, F, C, h, w]
                signals = torch.cat([self._batch([s.signals for s in states]), signals], dim=1)
            carried = carry(previous, like=render, form=form)  # [B, F, C + 1, h, w]
            source = self._source(features, corners)  # [B, C, h, w]
            warm = warm_start(previous, source, frames=render.shape[1])

        # Appearance and identity, modulated by the motion.
        with stage("tokens"):
            read = [
                self._batch([each.tokens for each in features]),
                self._batch([each.identity for each in features]),
                self._batch([each.coefficients for each in features]),
                signals,
            ]
            tokens = self.mia(*(each.to(self.dtype) for each in read))  # [B, F, L, D]

        with stage("denoise"):
            sampling = self.config.samplings[steps]
            network = partial(
                predict,
                self.denoiser,
                condition=torch.cat([render, carried], dim=2).to(self.dtype),
                tokens=tokens,
                guidance=sampling.guidance,
            )
            *_, latents = denoise(
                lambda noisy, timestep: network(noisy, timestep).latents,
                warm,
                partial(draw_noise, requests, like=warm)
                if sampling.is_noisy
                else lambda _: torch.zeros_like(warm),
                steps=steps,
                sampling=sampling,
                prediction=self.config.prediction,
            )

        # The new frames alone are decoded.
        with stage("decode"):
            decoded = self._decode(latents[:, -new_frames:])
            are_finite = torch.isfinite(decoded).flatten(1).all(dim=1).tolist()
            images = decoded.clamp(-1, 1)
            pixels = [
                self._show(image, each) for image, each in zip(images, conditions, strict=True)
            ]
        return [
            Clip(
                pixels=pixels[row],
                ica=self._leave(request, latents[row], render[row], signals[row], corners[row]),
                matte=conditions[row].matte,
                is_finite=are_finite[row],
            )
            for row, request in enumerate(requests)
        ]

    @torch.inference_mode()
    def remember(self, request: ClipRequest, moved: MeshRender) -> ICAState | None:
        """Return the state that a clip drawn without denoising leaves, so that steps can follow it.

        None where the next clip would make the carried frames again from a condition of their own.
        """
        if self.config.ica == "overlap":
            return None
        kept = slice(-self.config.carried_frames, None)
        seen, corner = look_at(moved, sight_of(request.ica, self.config))
        latents = self._encode(to_images(seen[kept])[None])
        signals = self._batch([pack_motion(request.motion[kept])])
        return self._leave(request, latents[0], latents[0], signals[0], corner)

    def _condition(self, request: ClipRequest) -> Condition:
        face = features_of(request, self.config).face
        if face is None or self.face_model is None:
            sight = sight_of(request.ica, self.config)
            return mesh_condition(drawn(request), request.motion, sight)
        return face_condition(
            request.appearance,
            self.face_model,
            face,
            request.motion,
            start=None if request.ica is None else request.ica.signals[-1],
            device=self.device,
        )

    def _carried(self, states: Sequence[ICAState], corners: Sequence[Corner]) -> Tensor:
        cell_px = self.config.autoencoder.factor
        return self._batch(
            [
                last_latents(state, corner, cell_px=cell_px)
                for state, corner in zip(states, corners, strict=True)
            ]
        )

    def _source(self, features: Sequence[SourceFeatures], corners: Sequence[Corner]) -> Tensor:
        cell_px, side_px = self.config.autoencoder.factor, self.config.square_px
        return self._batch(
            [
                cut(each.latents, corner, cell_px=cell_px, side_px=side_px)
                for each, corner in zip(features, corners, strict=True)
            ]
        )

    def _leave(
        self,
        request: ClipRequest,
        latents: Tensor,
        render: Tensor,
        signals: Tensor,
        corner: Corner,
    ) -> ICAState:
        # What a clip [F, ...] leaves for the next one.
        def last(rows: Tensor) -> NDArray[Any]:
            kept = rows[-self.config.carried_frames :]
            return (kept if self.dtype == torch.float32 else kept.half()).cpu().numpy()

        return ICAState(
            latents=last(latents),
            signals=signals[-self.config.carried_frames :].cpu().numpy(),
            render_latents=last(render) if self.config.ica == "overlap" else None,
            next_frame=request.first_frame + len(request.motion),
            corner=corner,
        )

    def _show(self, images: Tensor, condition: Condition) -> Pixels:
        # What is seen of decoded pictures [N, 3, H, W]; what they do not show of a render stays.
        if condition.whole is None:
            pixels = ((images + 1) * 127.5).round().to(torch.uint8)
            return rearrange(pixels, "n c h w -> n h w c").cpu().numpy()
        difference = (images - condition.render.to(images.device)) * 127.5
        change = rearrange(difference, "n c h w -> n h w c").cpu().numpy()
        if self.config.square_px != self.config.working_px:
            change = change * fade(self.config.square_px)
        return refine(condition.whole, change, condition.corner, working_px=self.config.working_px)

    def _batch(self, rows: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.device, torch.float32)

    def _encode(self, images: Tensor) -> Tensor:
        # [B, N, 3, H, W] -> [B, N, C, h, w]
        flat = rearrange(images, "b n c h w -> (b n) c h w").to(self.device, self.dtype)
        slabs = [self.autoencoder.encode(slab) for slab in torch.split(flat, MOST_PICTURES)]
        return rearrange(torch.cat(slabs).float(), "(b n) c h w -> b n c h w", b=len(images))

    def _decode(self, latents: Tensor) -> Tensor:
        # [B, N, C, h, w] -> [B, N, 3, H, W], which may exceed [-1, 1]
        flat = rearrange(latents, "b n c h w -> (b n) c h w").to(self.dtype)
        slabs = [self.autoencoder.decode(slab) for slab in torch.split(flat, MOST_PICTURES)]
        return rearrange(torch.cat(slabs).float(), "(b n) c h w -> b n c h w", b=len(latents))


def draw_noise(requests: Sequence[ClipRequest], draw: int, *, like: Tensor) -> Tensor:
    """Return unit normal noise like `like` [B, F, ...].

    It depends on each session's seed, the frame's index in the session and the number of the
    draw alone: not on the batch, the clip's length or the device.
    """
    frames = like.shape[1]
    noise = [
        np.random.default_rng((request.seed, frame, draw)).standard_normal(
            like.shape[2:], dtype=np.float32
        )
        for request in requests
        for last in [request.first_frame + len(request.motion)]
        for frame in range(last - frames, last)
    ]
    return torch.from_numpy(np.stack(noise)).reshape(like.shape).to(like)


def build_autoencoder(config: AutoencoderConfig) -> KL | TAESD | PixelUnshuffle:
    """Build an autoencoder without weights."""
    if config.kind == "kl":
        return KL(widths=config.widths, layers=config.layers, latent_channels=config.channels)
    if config.kind == "taesd":
        return TAESD(width=config.widths[0], latent_channels=config.channels)
    return PixelUnshuffle(config.factor)
