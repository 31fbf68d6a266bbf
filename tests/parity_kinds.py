"""What the checks of `tests/parity.py` compute, each with the project's own parts.

A kind of check is a function from the arrays of a file and the networks to the arrays it is
compared with, under the names that the files have for them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from mimaface import bfm
from mimaface.alignment import align_256, invert, warp_affine
from mimaface.autoencoder import KL, KL_SCALE
from mimaface.condition import place_renders
from mimaface.config import CONFIGS, ClipEncoderConfig, ModelConfig, Sampling
from mimaface.d3dfr import CoefficientRegressor
from mimaface.denoiser import Denoiser, predict
from mimaface.ica import carry
from mimaface.identity import CurricularFace, crop_112
from mimaface.mia import ReleasedMIA
from mimaface.official import AUTOENCODER_NAMES, CLIP_NAMES, MIA_NAMES, REGRESSOR_NAMES, UNET_NAMES
from mimaface.raster import blend, illuminate, turn
from mimaface.schedule import (
    add_noise,
    alphas_cumprod,
    denoise,
    euler_step,
    euler_table,
    scale_input,
    snr,
)
from mimaface.source_encoder import ClipIdentityEncoder, clip_pixels
from mimaface.stand_in_face import stand_in
from mimaface.training.losses import denoising_loss, min_snr_weights
from tests import recipe

Arrays = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
Built = TypeVar("Built")

SD15: Final = CONFIGS["sd15"]
assert isinstance(SD15.encoder, ClipEncoderConfig)

FACE_MODEL: Final = "model."  # prefix of its arrays, which are those of the .mat file
SOURCE, DRIVING, INVERSE = "src|source|ref", "dri|drv|target|tgt", "inv"  # parts of arrays' names


class Parts:
    """The networks of a model with the recipe's weights, each built when it is first asked for."""

    def __init__(self, config: ModelConfig, *, lively: bool = False) -> None:
        """Build the parts of this shape; `lively` weights suit narrow ones (`tests.recipe`)."""
        assert isinstance(config.encoder, ClipEncoderConfig)
        self.config, self.encoder = config, config.encoder
        self._load = partial(recipe.load, lively=lively)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The UNet with its motion modules."""
        built = self._on_meta(lambda: self._denoiser(self.config))
        self._load(built, to_official=recipe.UNET, from_official=UNET_NAMES)
        return built

    @cached_property
    def image_denoiser(self) -> Denoiser:
        """The UNet without motion modules, on the same tensors: the image stage's."""
        still = replace(self.config.denoiser, motion=(False,) * len(self.config.denoiser.widths))
        built = self._on_meta(lambda: self._denoiser(replace(self.config, denoiser=still)))
        shared = self.denoiser.state_dict()
        built.load_state_dict({name: shared[name] for name in built.state_dict()}, assign=True)
        return built.eval()

    def motion_module(self, prefix: str) -> nn.Module:
        """One motion module, by the beginning of its official names."""
        denoiser = self._on_meta(lambda: self._denoiser(self.config))
        module = denoiser.unet.get_submodule(prefix.rstrip("."))
        names = [(r"^", f"unet.{prefix}"), *recipe.UNET]
        back = [*UNET_NAMES, (rf"^unet\.{prefix}", "")]
        self._load(module, to_official=names, from_official=back)
        return module

    @cached_property
    def mia(self) -> ReleasedMIA:
        """The released modulation."""
        built = ReleasedMIA(
            self.config.mia,
            source_width=self.encoder.width,
            identity_features=self.encoder.identity_features,
        )
        self._load(built, to_official=recipe.MIA, from_official=MIA_NAMES)
        return built

    @cached_property
    def clip(self) -> nn.Module:
        """CLIP's vision tower."""
        encoder = self._on_meta(lambda: ClipIdentityEncoder(self.encoder))
        self._load(encoder.clip, to_official=recipe.CLIP, from_official=CLIP_NAMES)
        clip: nn.Module = encoder.clip
        return clip

    @cached_property
    def autoencoder(self) -> KL:
        """Stable Diffusion's autoencoder."""
        built = KL(widths=self.config.autoencoder.widths, layers=self.config.autoencoder.layers)
        self._load(built, to_official=recipe.AUTOENCODER, from_official=AUTOENCODER_NAMES)
        return built

    def identity(self, *, bnstats: bool) -> CurricularFace:
        """CurricularFace, with statistics of a new module or drawn ones."""
        built = CurricularFace(
            widths=self.encoder.identity_widths, depths=self.encoder.identity_depths
        )
        self._load(built, bnstats=bnstats)
        return built

    def regressor(self, *, bnstats: bool) -> CoefficientRegressor:
        """D3DFR's network."""
        built = CoefficientRegressor(width=self.encoder.regressor_width)
        self._load(
            built,
            to_official=recipe.REGRESSOR,
            from_official=REGRESSOR_NAMES,
            bnstats=bnstats,
        )
        return built

    @staticmethod
    def _denoiser(config: ModelConfig) -> Denoiser:
        channels, width = config.autoencoder.channels, config.mia.width
        return Denoiser(config.denoiser, channels=channels, context_width=width)

    @staticmethod
    def _on_meta(build: Callable[[], Built]) -> Built:
        with torch.device("meta"):
            return build()


def mia(arrays: Arrays, parts: Parts) -> Outputs:
    """Tokens of each frame [F, L, D]; texture and lighting come frame by frame here."""
    signals = [arrays[name] for name in ("exp", "angles", "translation", "gaze")]
    frames = len(signals[0])
    tokens = parts.mia.per_frame(
        arrays["object_embeds257"].expand(frames, -1, -1),
        arrays["arcface"].expand(frames, -1),
        torch.cat([arrays["tex"], arrays["gamma"]], dim=-1).expand(frames, -1),
        rearrange(torch.cat(signals, dim=-1), "f m -> f 1 m"),
    )
    return {"out": rearrange(tokens, "f 1 l d -> f l d")}


def mia_mean(arrays: Arrays, parts: Parts) -> Outputs:
    """The tokens' mean over the clip [1, L, D], as the UNet is given them."""
    return {"out": mia(arrays, parts)["out"].mean(dim=0, keepdim=True)}


def mia_transformer(arrays: Arrays, parts: Parts) -> Outputs:
    """The transformer alone."""
    tokens, after = arrays["x"], []
    for block in parts.mia.blocks:
        tokens = block(tokens)
        after.append(tokens)
    return {"block0": after[0], "after_mapper": after[-1], "out": parts.mia.norm(tokens)}


def motion_module(arrays: Arrays, parts: Parts) -> Outputs:
    """One motion module; the file names it."""
    x = arrays["x"]
    module = parts.motion_module(str(arrays["prefix"]))
    out = module(rearrange(x, "b c f h w -> (b f) c h w"), num_frames=x.shape[2])
    pe = module.get_buffer("transformer_blocks.0.pos_embed.pe")
    return {"out": rearrange(out, "(b f) c h w -> b c f h w", b=len(x)), "pe": pe}


def unet(arrays: Arrays, parts: Parts) -> Outputs:
    """The whole UNet on a clip [B, 13, F, h, w]; tokens per clip or per frame."""
    sample = arrays["sample"]
    return {"out": parts.denoiser(sample, _timesteps(arrays), _tokens(arrays, sample.shape[2]))}


def unet2d_image(arrays: Arrays, parts: Parts) -> Outputs:
    """The image stage's UNet on pictures [B, 13, h, w], or on the frames of clips, each alone."""
    sample = arrays["sample"]
    is_picture = sample.ndim == 4
    clip = rearrange(sample, "b c h w -> b c 1 h w") if is_picture else sample
    tokens = _tokens(arrays, clip.shape[2])
    out = parts.image_denoiser(clip, _timesteps(arrays), tokens)
    return {"out": rearrange(out, "b c 1 h w -> b c h w") if is_picture else out}


def denoise_clips(arrays: Arrays, parts: Parts) -> Outputs:
    """The release's sampling of clips [B, C, F, h, w], each carried on from the one before."""
    clips = sorted(name.partition(".")[2] for name in arrays if name.startswith("tokens."))
    previous, found = None, {}
    for clip in clips:
        noise, render = (
            rearrange(arrays[name], "b c f h w -> b f c h w")
            for name in ("noise", f"render_latents.{clip}")
        )
        tokens = arrays[f"tokens.{clip}"][:, None].expand(-1, noise.shape[1], -1, -1)
        condition = torch.cat([render, carry(previous, like=render, form="overlap")], dim=2)
        trajectory = _walk(parts.denoiser, arrays, noise, condition, tokens)
        given = int(arrays["prev_frame_num"])
        previous = trajectory[-1][:, noise.shape[1] - given :]
        found[f"trajectory.{clip}"] = rearrange(trajectory, "n b f c h w -> n b c f h w")
        found[f"latents.{clip}"] = rearrange(trajectory[-1], "b f c h w -> (b f) c h w")
    return found


def denoise_image(arrays: Arrays, parts: Parts) -> Outputs:
    """The image stage's sampling of pictures [B, C, h, w], or of the frames of clips."""
    is_picture = arrays["noise"].ndim == 4
    noise, render = (
        array[:, None] if is_picture else rearrange(array, "b c f h w -> b f c h w")
        for array in (arrays["noise"], arrays["render_latents"])
    )
    condition = torch.cat([render, carry(None, like=render, form="overlap")], dim=2)
    tokens = arrays["tokens"][:, None].expand(-1, noise.shape[1], -1, -1)
    walked = _walk(parts.image_denoiser, arrays, noise, condition, tokens)
    trajectory = walked[:, :, 0] if is_picture else rearrange(walked, "n b f c h w -> n b c f h w")
    return {"trajectory": trajectory, "latents": trajectory[-1]}


def train_loss(arrays: Arrays, parts: Parts) -> Outputs:
    """The video stage's loss, from noise to weights; the noise on the given frames is stored."""
    found: dict[str, Tensor] = {}
    clean, render = (
        rearrange(arrays[name], "b c f h w -> b f c h w") for name in ("latents", "render_latents")
    )
    mean = arrays["tokens"].unflatten(0, clean.shape[:2]).mean(dim=1)
    for case in sorted({name.partition(".")[0] for name in arrays if name.endswith(".loss")}):
        noise = rearrange(arrays[f"{case}.noise"], "b c f h w -> b f c h w")
        timestep, given = arrays[f"{case}.timesteps"], int(arrays[f"{case}.prev_frame_num"])
        channels = clean.shape[2]
        noised = arrays[f"{case}.unet_input"][:, 2 * channels : 3 * channels, :given]
        previous = rearrange(noised, "b c f h w -> b f c h w") if given else None
        noisy = add_noise(clean, noise, timestep)
        carried = carry(previous, like=render, form="overlap")
        tokens = torch.zeros_like(mean) if case == "dropped" else mean
        prediction = predict(
            parts.denoiser,
            noisy,
            timestep,
            condition=torch.cat([render, carried], dim=2),
            tokens=tokens[:, None].expand(-1, clean.shape[1], -1, -1),
            guidance=1.0,
        ).latents
        found |= {
            f"{case}.unet_input": rearrange(
                torch.cat([noisy, render, carried], dim=2), "b f c h w -> b c f h w"
            ),
            f"{case}.encoder_hidden_states": tokens,
            f"{case}.pred": rearrange(prediction, "b f c h w -> b c f h w"),
            f"{case}.weights": min_snr_weights(timestep),
            f"{case}.loss": denoising_loss(prediction, noise, timestep),
        }
    return found


def d3dfr(arrays: Arrays, parts: Parts) -> Outputs:
    """D3DFR's coefficients and features."""
    found = {}
    for suffix in ("", "_bnstats"):
        regressor = parts.regressor(bnstats=bool(suffix))
        found["out" + suffix] = regressor(arrays["image"])
        found["pooled" + suffix] = regressor.backbone(arrays["image"])[:, :64]
    return found


def curricular(arrays: Arrays, parts: Parts) -> Outputs:
    """CurricularFace on faces, and on aligned pictures of the wrong and the right size."""
    found = {}
    for suffix in ("", "_bnstats"):
        network = parts.identity(bnstats=bool(suffix))
        if "image112" in arrays:
            deep = network(arrays["image112"])
            found |= {"deep112" + suffix: deep, "embedding112" + suffix: network.embed(deep)}
        for name in arrays:
            if name.startswith("aligned"):
                aligned = rearrange(arrays[name], "h w c -> 1 c h w") / 127.5 - 1
                wrapper = name.replace("aligned", "deep_wrapper")
                found[wrapper + suffix] = network(crop_112(aligned))
    return found


def clip(arrays: Arrays, parts: Parts) -> Outputs:
    """CLIP's tokens."""
    seen = parts.clip(arrays["pixel_values"])
    return {name: seen[name] for name in ("last_hidden_state", "pooler_output")}


def clip_preprocess(arrays: Arrays, parts: Parts) -> Outputs:
    """CLIP's view of a picture."""
    return {"pixel_values": clip_pixels(arrays["image"].numpy(), image_px=parts.encoder.image_px)}


def vae(arrays: Arrays, parts: Parts) -> Outputs:
    """Stable Diffusion's autoencoder; `z` is decoded as it is."""
    kl, found = parts.autoencoder, {}
    if "image" in arrays:
        raw = kl.vae.encode(arrays["image"]).latent_dist
        found = {"mean": raw.mean, "logvar": raw.logvar, "mode_scaled": kl.encode(arrays["image"])}
    if "z" in arrays:
        found["decoded"] = kl.decode(arrays["z"] * KL_SCALE)
    return found


def scheduler(arrays: Arrays, _parts: Parts) -> Outputs:
    """Noise levels, one Euler step, and the training noise."""
    found: dict[str, Tensor] = {"alphas_cumprod": alphas_cumprod()}
    for name in arrays:
        if name.startswith("timesteps."):
            steps = name.partition(".")[2]
            timesteps, sigmas = euler_table(int(steps))
            found |= {name: timesteps, f"sigmas.{steps}": sigmas}
            found[f"init_noise_sigma.{steps}"] = sigmas[0]
    if "x" in arrays:
        _, sigmas = euler_table(25)
        found["scaled"] = scale_input(arrays["x"], sigmas[0])
        found["stepped"] = euler_step(arrays["x"], arrays["eps"], sigmas[0], sigmas[1])
    if "train_t" in arrays:
        found["noisy"] = add_noise(arrays["x0"], arrays["noise"], arrays["train_t"])
        found["snr"] = snr(arrays["train_t"])
        found["snr_weight_gamma5"] = min_snr_weights(arrays["train_t"])
    return found


def align(arrays: Arrays, _parts: Parts) -> Outputs:
    """Crops and warps."""
    found: dict[str, list[Any]] = {}
    if "pts5" in arrays:
        found["warp256"] = [align_256(points) for points in arrays["pts5"].numpy()]
        found["inverse"] = [invert(matrix) for matrix in found["warp256"]]
    outputs = {name: torch.from_numpy(np.stack(each)) for name, each in found.items()}
    if "warp_im" in arrays:
        height, width = arrays["warp_out"].shape[-2:]
        warped = warp_affine(arrays["warp_im"], arrays["warp_M"], (height, width))
        outputs["warp_out"] = warped
    return outputs


def render(arrays: Arrays, _parts: Parts) -> Outputs:
    """The face model's shape, skin, light and render, one frame at a time."""
    model, rows = _face_model(arrays), bfm.Coefficients.split(arrays["coeffs"].numpy())
    camera = _camera(arrays)
    found: dict[str, list[Any]] = defaultdict(list)
    for frame in range(len(rows.identity)):
        one = bfm.Coefficients(**{name: row[frame] for name, row in vars(rows).items()})
        person = _person(model, one)
        points = blend(person.shape, model.expression_basis, one.expression)
        rotation = bfm.row_rotation(one.rotation).astype(np.float32)
        normals = bfm.vertex_normals(model, points)
        turned = turn(normals, rotation, np.zeros(3, np.float32))
        rigid = turn(points, rotation, one.translation)
        found["vertices"].append(points)
        found["rotation"].append(rotation)
        found["vertices_rigid"].append(rigid)
        found["normals"].append(normals)
        found["normals_rotated"].append(turned)
        found["texture"].append(person.texture)
        found["color"].append(illuminate(person.texture, turned, person.bands))
        found["lms_proj"].append(bfm.project(rigid[model.keypoints], **camera)[:, :2])
        rgb, is_face = _rendered(model, one, one, **camera)
        found["rendered"].append(np.dstack([rgb, is_face]))
    # How much of a pixel is covered is not drawn, only whether it is.
    alpha = arrays["rendered"][..., 3]
    alpha.copy_(alpha > 0)
    return {name: torch.from_numpy(np.stack(each)) for name, each in found.items()}


def reenact(arrays: Arrays, _parts: Parts) -> Outputs:
    """The condition: the source's identity, skin and light in the driver's expression and pose.

    Arrays are known by their shapes: coefficients [F, 257] or [F, 261], matrices [F, 2, 3] into
    the crop, or out of it with an inv in their name, pictures [F, 3, H, W]. Which of them are the
    source's and which the driver's, their names say, else their order: the source's come first.
    """
    model, camera = _face_model(arrays), _camera(arrays)
    shapes = {
        name: array.shape
        for name, array in arrays.items()
        if isinstance(array, Tensor) and not name.startswith(FACE_MODEL)
    }
    rows = [name for name, shape in shapes.items() if shape[1:] in ((257,), (261,))]
    source_name = _best(rows, liked=(SOURCE,), disliked=(DRIVING,))
    others = [name for name in rows if name != source_name] or [source_name]
    driving_name = _best(others, liked=(DRIVING,), disliked=(SOURCE,))
    matrices = _best(
        [name for name, shape in shapes.items() if shape[1:] == (2, 3)],
        disliked=(SOURCE, "512", INVERSE),
    )
    picture = _best(
        [name for name, shape in shapes.items() if len(shape) == 4 and shape[1] == 3],
        disliked=(SOURCE, DRIVING),
    )
    to_crop = arrays[matrices].numpy()
    if _is_called(INVERSE, matrices):
        to_crop = np.stack([invert(matrix) for matrix in to_crop])
    sources, drivings = arrays[source_name].numpy(), arrays[driving_name].numpy()
    if source_name == driving_name:  # of one video, whose first face is the source
        sources, drivings = sources[:1], drivings[-len(to_crop) :]
    drawn = []
    for frame in range(len(to_crop)):
        source, driving = (
            bfm.Coefficients.split(each[min(frame, len(each) - 1)]) for each in (sources, drivings)
        )
        drawn.append(_rendered(model, source, driving, **camera))
    rgb, is_face = (np.stack(each) for each in zip(*drawn, strict=True))
    size_px = arrays[picture].shape[-1]
    return {picture: place_renders(rgb, is_face, to_crop, size_px=size_px)}


def _best(names: list[str], *, liked: tuple[str, ...] = (), disliked: tuple[str, ...] = ()) -> str:
    # The first name that has most of what is liked in it and least of what is disliked.
    if not names:
        raise KeyError("coefficients, matrices or pictures")

    def rank(name: str) -> list[bool]:
        lacks = [not _is_called(each, name) for each in liked]
        return lacks + [_is_called(each, name) for each in disliked]

    return min(names, key=rank)


def _is_called(pattern: str, name: str) -> bool:
    return re.search(pattern, name, re.IGNORECASE) is not None


def _camera(arrays: Arrays) -> dict[str, Any]:
    return {
        "size_px": int(arrays.get("img_size", bfm.SIZE_PX)),
        "focal_px": float(arrays.get("focal", bfm.FOCAL_PX)),
    }


def _person(model: bfm.BfmModel, source: bfm.Coefficients) -> bfm.BfmSource:
    return bfm.make_source(
        model, identity=source.identity, texture=source.texture, lighting=source.lighting
    )


def _rendered(
    model: bfm.BfmModel, source: bfm.Coefficients, driving: bfm.Coefficients, **camera: Any
) -> tuple[Any, Any]:
    return bfm.render(
        model,
        _person(model, source),
        expression=driving.expression,
        rotation=driving.rotation,
        translation=driving.translation,
        **camera,
    )


def _face_model(arrays: Arrays) -> bfm.BfmModel:
    found = {
        key.removeprefix(FACE_MODEL): np.asarray(array)
        for key, array in arrays.items()
        if key.startswith(FACE_MODEL)
    }
    return bfm.BfmModel.from_arrays(found) if found else stand_in()


def _walk(
    denoiser: Denoiser, arrays: Arrays, noise: Tensor, condition: Tensor, tokens: Tensor
) -> Tensor:
    # The release's sampling; the latents [steps, B, F, C, h, w] after each step.
    guidance = float(arrays["guidance"])
    steps = denoise(
        lambda noisy, timestep: (
            predict(
                denoiser, noisy, timestep, condition=condition, tokens=tokens, guidance=guidance
            ).latents
        ),
        noise,
        lambda _draw: noise,
        steps=len(arrays["timesteps"]),
        sampling=Sampling(solver="euler", guidance=guidance),
        prediction="epsilon",
    )
    return torch.stack(list(steps))


def _timesteps(arrays: Arrays) -> Tensor:
    return arrays["timestep"].reshape(-1).float().expand(len(arrays["sample"]))


def _tokens(arrays: Arrays, frames: int) -> Tensor:
    # [B, L, D], one set a clip, or [B F, L, D], one a frame -> [B, F, L, D]
    tokens = arrays["encoder_hidden_states"]
    if len(tokens) == len(arrays["sample"]):
        return tokens[:, None].expand(-1, frames, -1, -1)
    return rearrange(tokens, "(b f) l d -> b f l d", f=frames)
