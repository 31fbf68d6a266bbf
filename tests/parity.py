"""Number by number against the released implementation: python tests/parity.py DIR.

Every .npz file in DIR holds inputs and outputs of one part of the release, computed with weights
that follow from their names (`tests/recipe.py`); its kind is the beginning of its name. The parts
are built and filled through the project's own loaders. One JSON line a file; status 1 if one
fails. `tests/narrow.py` has narrow parts with inputs and outputs of our own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from mimaface import bfm
from mimaface.alignment import align_256, crop_512, invert, square_box, warp_affine
from mimaface.autoencoder import KL, KL_SCALE
from mimaface.condition import place_render
from mimaface.config import CONFIGS, ClipEncoderConfig, ModelConfig, Sampling
from mimaface.d3dfr import CoefficientRegressor
from mimaface.denoiser import Denoiser, predict
from mimaface.ica import carry
from mimaface.identity import CurricularFace, crop_112
from mimaface.mia import ReleasedMIA
from mimaface.official import AUTOENCODER_NAMES, CLIP_NAMES, MIA_NAMES, REGRESSOR_NAMES, UNET_NAMES
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
from mimaface.training.losses import denoising_loss, min_snr_weights
from tests import recipe

Arrays = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
Built = TypeVar("Built")

SD15: Final = CONFIGS["sd15"]
assert isinstance(SD15.encoder, ClipEncoderConfig)


class Parts:
    """The networks of a model with the recipe's weights, each built when it is first asked for."""

    def __init__(self, config: ModelConfig) -> None:
        """Build the parts of this shape."""
        assert isinstance(config.encoder, ClipEncoderConfig)
        self.config, self.encoder = config, config.encoder

    @cached_property
    def denoiser(self) -> Denoiser:
        """The UNet with its motion modules."""
        built = self._on_meta(lambda: self._denoiser(self.config))
        recipe.load(built, to_official=recipe.UNET, from_official=UNET_NAMES)
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
        recipe.load(module, to_official=names, from_official=back)
        return module

    @cached_property
    def mia(self) -> ReleasedMIA:
        """The released modulation."""
        shape = self.config.mia
        built = ReleasedMIA(
            width=shape.width,
            layers=shape.layers,
            heads=shape.heads,
            expression=shape.expression,
            source_width=self.encoder.width,
            identity_features=self.encoder.identity_features,
        )
        recipe.load(built, to_official=recipe.MIA, from_official=MIA_NAMES)
        return built

    @cached_property
    def clip(self) -> nn.Module:
        """CLIP's vision tower."""
        shape = self.encoder
        encoder = self._on_meta(
            lambda: ClipIdentityEncoder(
                width=shape.width,
                layers=shape.layers,
                heads=shape.heads,
                image_px=shape.image_px,
                patch_px=shape.patch_px,
            )
        )
        recipe.load(encoder.clip, to_official=recipe.CLIP, from_official=CLIP_NAMES)
        clip: nn.Module = encoder.clip
        return clip

    @cached_property
    def autoencoder(self) -> KL:
        """Stable Diffusion's autoencoder."""
        built = KL(widths=self.config.autoencoder.widths, layers=self.config.autoencoder.layers)
        recipe.load(built, to_official=recipe.AUTOENCODER, from_official=AUTOENCODER_NAMES)
        return built

    def identity(self, *, bnstats: bool) -> CurricularFace:
        """CurricularFace, with statistics of a new module or drawn ones."""
        built = CurricularFace(
            widths=self.encoder.identity_widths, depths=self.encoder.identity_depths
        )
        recipe.load(built, bnstats=bnstats)
        return built

    def regressor(self, *, bnstats: bool) -> CoefficientRegressor:
        """D3DFR's network."""
        built = CoefficientRegressor(width=self.encoder.regressor_width)
        recipe.load(
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
        )
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
    if "det_box" in arrays:
        boxes = arrays["det_box"].numpy()
        found["square_box4"] = [square_box(box) for box in boxes]
        found["crop512"] = [crop_512(box) for box in boxes]
    outputs = {name: torch.from_numpy(np.stack(each)) for name, each in found.items()}
    if "warp_im" in arrays:
        height, width = arrays["warp_out"].shape[-2:]
        warped = warp_affine(arrays["warp_im"], arrays["warp_M"], (height, width))
        outputs["warp_out"] = warped
    return outputs


def render(arrays: Arrays, _parts: Parts) -> Outputs:
    """The face model's shape, skin, light and render, one frame at a time."""
    model, rows = _face_model(arrays), bfm.Coefficients.split(arrays["coeffs"].numpy())
    camera = {"size_px": int(arrays["img_size"]), "focal_px": float(arrays["focal"])}
    found: dict[str, list[Any]] = defaultdict(list)
    for frame in range(len(rows.identity)):
        one = bfm.Coefficients(**{name: row[frame] for name, row in vars(rows).items()})
        points = bfm.shape(model, one.identity, one.expression)
        rotation = bfm.row_rotation(one.rotation)
        normals = bfm.vertex_normals(model, points)
        rigid = points @ rotation + one.translation
        skin = bfm.skin(model, one.texture)
        found["vertices"].append(points)
        found["rotation"].append(rotation)
        found["vertices_rigid"].append(rigid)
        found["normals"].append(normals)
        found["normals_rotated"].append(normals @ rotation)
        found["texture"].append(skin)
        found["color"].append(bfm.lit(skin, normals @ rotation, one.lighting))
        found["lms_proj"].append(bfm.project(rigid[model.keypoints], **camera)[:, :2])
        rgb, is_face = _rendered(model, one, one, **camera)
        found["rendered"].append(np.dstack([rgb, is_face]))
    # How much of a pixel is covered is not drawn, only whether it is.
    alpha = arrays["rendered"][..., 3]
    alpha.copy_(alpha > 0)
    return {name: torch.from_numpy(np.stack(each)) for name, each in found.items()}


def reenact(arrays: Arrays, _parts: Parts) -> Outputs:
    """The condition: the source's identity, skin and light in the driver's expression and pose.

    Arrays are known by their shapes: coefficients [F, 257] or [F, 261], those of the source with
    an s in their name, matrices [F, 2, 3] into the crop, pictures [F, 3, H, W].
    """
    model = _face_model(arrays)
    rows = [name for name, array in arrays.items() if array.shape[1:] in ((257,), (261,))]
    [source_name] = [name for name in rows if "s" in name.removeprefix("coeffs")]
    [driving_name] = [name for name in rows if name != source_name]
    [matrices] = [name for name, array in arrays.items() if array.shape[1:] == (2, 3)]
    [picture] = [name for name, a in arrays.items() if a.ndim == 4 and a.shape[1] == 3]
    camera = {"size_px": int(arrays["img_size"]), "focal_px": float(arrays["focal"])}
    images = []
    for frame, to_crop in enumerate(arrays[matrices].numpy()):
        source, driving = (
            bfm.Coefficients.split(array[min(frame, len(array) - 1)].numpy())
            for array in (arrays[source_name], arrays[driving_name])
        )
        drawn = _rendered(model, source, driving, **camera)
        images.append(place_render(*drawn, to_crop, size_px=arrays[picture].shape[-1]))
    return {picture: torch.cat(images)}


def _rendered(
    model: bfm.BfmModel, source: bfm.Coefficients, driving: bfm.Coefficients, **camera: Any
) -> tuple[Any, Any]:
    person = bfm.make_source(
        model, identity=source.identity, texture=source.texture, lighting=source.lighting
    )
    return bfm.render(
        person,
        expression=driving.expression,
        rotation=driving.rotation,
        translation=driving.translation,
        **camera,
    )


def _face_model(arrays: Arrays) -> bfm.BfmModel:
    prefix = "model."
    if not any(key.startswith(prefix) for key in arrays):
        return bfm.stand_in()
    return bfm.BfmModel.from_arrays(
        {key.removeprefix(prefix): np.asarray(a) for key, a in arrays.items() if prefix in key}
    )


def _walk(
    denoiser: Denoiser, arrays: Arrays, noise: Tensor, condition: Tensor, tokens: Tensor
) -> Tensor:
    # The release's sampling; the latents [steps, B, F, C, h, w] after each step.
    guidance = float(arrays["guidance"])
    steps = denoise(
        lambda noisy, timestep: predict(
            denoiser, noisy, timestep, condition=condition, tokens=tokens, guidance=guidance
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


# By the beginning of a file's name: what computes it, and the largest difference that is allowed,
# of all its arrays or array by array.
KINDS: Final[Mapping[str, tuple[Callable[[Arrays, Parts], Outputs], float | dict[str, float]]]] = {
    "mia": (mia, 5e-5),
    "mia_mean": (mia_mean, 5e-5),
    "mia_transformer": (mia_transformer, 5e-5),
    "motion_module": (motion_module, 5e-5),
    "unet": (unet, 5e-5),
    "unet2d_image": (unet2d_image, 5e-5),
    "denoise": (denoise_clips, 2e-3),
    "denoise_image": (denoise_image, 2e-3),
    "train_loss": (train_loss, 5e-5),
    "d3dfr": (d3dfr, 1e-6),
    "curricular": (curricular, {"bnstats": 5e-4, "": 2e-3}),
    "clip": (clip, 1e-4),
    "clip_preprocess": (clip_preprocess, 1e-6),
    "vae": (vae, {"decoded": 5e-5, "": 1e-6}),
    "scheduler": (scheduler, 1e-5),
    "render": (render, {"rendered": 0.255, "color": 0.255, "texture": 0.255, "": 1e-3}),
    "reenact": (reenact, 1e-3),
    "align": (align, {"warp_out": 1e-4, "": 5e-4}),
}


def kind_of(path: Path) -> str | None:
    """Return the kind of a file, None if it is none that is known."""
    kinds = [kind for kind in KINDS if path.name.startswith(kind)]
    return max(kinds, key=len, default=None)


def check(path: Path, parts: Parts) -> dict[str, Any]:
    """Compute what a file holds; return its name, the worst array and whether all are near."""
    kind = kind_of(path)
    assert kind is not None, f"{path.name} is of no known kind"
    compute, _ = KINDS[kind]
    result: dict[str, Any] = {"name": path.stem}
    arrays = load_arrays(path)
    try:
        with torch.inference_mode():
            found = compute(arrays, parts)
    except (KeyError, ValueError) as error:
        return result | {"ok": False, "error": f"the file is not as its kind should be: {error}"}
    compared = found.keys() & arrays.keys()
    if not compared:
        return result | {"ok": False, "error": f"the file has none of {sorted(found)}"}
    worst = {"difference": 0.0, "tolerance": 0.0, "ratio": -1.0, "array": ""}
    for name in sorted(compared):
        difference = _difference(found[name], arrays[name])
        tolerance = tolerance_of(kind, name)
        # Never a NaN: it is as far away as can be.
        if difference / tolerance > worst["ratio"]:
            worst = {
                "difference": difference,
                "tolerance": tolerance,
                "ratio": difference / tolerance,
                "array": name,
            }
    is_ok = worst.pop("ratio") <= 1
    return result | worst | {"arrays": len(compared), "ok": is_ok}


def load_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file; its texts stay as they are."""
    with np.load(path) as file:
        return {
            name: str(array) if array.dtype.kind == "U" else torch.from_numpy(array)
            for name in file.files
            for array in [file[name]]
        }


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    difference = float((found.double() - wanted.double()).abs().max())
    return float("inf") if np.isnan(difference) else difference


def tolerance_of(kind: str, name: str) -> float:
    """Return the largest difference that is allowed in an array of a kind."""
    tolerances = KINDS[kind][1]
    if isinstance(tolerances, float):
        return tolerances
    return next(tolerance for part, tolerance in tolerances.items() if part in name)


def main(arguments: list[str] | None = None) -> int:
    """Check a folder; return 1 if a file is not near enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds the .npz files")
    args = parser.parse_args(arguments)
    files = [path for path in args.folder.glob("*.npz") if kind_of(path)]
    if not files:
        parser.error(f"{args.folder} holds no .npz file of a known kind")
    kinds = list(KINDS)
    parts, is_ok = Parts(SD15), True
    for path in sorted(files, key=lambda path: (kinds.index(kind_of(path)), path.name)):
        result = check(path, parts)
        is_ok &= result["ok"]
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
