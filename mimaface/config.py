"""The models by name, each as one complete literal, and their form as JSON for weight files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mimaface.types import EXPRESSION

AttentionKernel = Literal["sdpa", "xformers"]
Decoder = Literal["kl", "taesd"]
ICAForm = Literal["overlap", "hold"]
Prediction = Literal["epsilon", "sample"]

RELEASED_STEPS: Final = 25  # guided, of Euler's method: how the official model samples
TRAIN_TIMESTEPS: Final = 1000  # noise levels in training, the last one all but pure noise


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a source is cropped, in head units.

    Attributes:
        side: of the square crop.
        drop: how far the middle of the crop lies below that of the face detector's box.
    """

    side: float
    drop: float


HEAD_AND_SHOULDERS: Final = Framing(side=4.6, drop=0.2)
FACE: Final = Framing(side=2.3, drop=0.0)  # the face takes 352 of 512 pixels, as in the release


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Shape of the UNet. Tuples have one entry per level, the finest first.

    Attributes:
        widths: channels.
        layers: resnets per level on the way down; there is one more on the way up.
        attention: whether the level attends to its own cells and to the context tokens.
        motion: whether the level attends over the frames of a clip.
        heads: of every attention.
        norm: GroupNorm; or BatchNorm, which only scales and shifts at inference and mostly folds
            into the layer beside it.
        norm_groups: groups of a GroupNorm.
        most_frames: frames of a clip that the temporal positions can tell apart.
        residual: whether it says how to move the parts of the condition's render, and what to add
            (`mimaface.correction`): detail that the render has is kept without being learnt.
    """

    widths: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    motion: tuple[bool, ...]
    heads: int
    norm: Literal["group", "batch"]
    norm_groups: int = 32
    most_frames: int = 32
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("attention", "motion"):
            levels = len(getattr(self, name))
            if levels != len(self.widths):
                raise ValueError(
                    f"{name} must have {len(self.widths)} levels, as widths has, found {levels}"
                )
        for name in ("heads", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for width in self.widths:
            if width % self.heads or width % self.norm_groups:
                raise ValueError(
                    f"widths must divide by {self.heads} heads and {self.norm_groups} groups, "
                    f"found {width}"
                )


@dataclass(frozen=True, kw_only=True)
class MIAConfig:
    """Shape of the motion-identity modulation.

    Attributes:
        form: what the official checkpoints hold, or what the paper describes (`mimaface.mia`).
        width: D of the context tokens.
        layers: transformer blocks (released), cross-attentions to the motion (paper).
        heads: of each attention.
        expression: values of an expression.
    """

    form: Literal["released", "paper"]
    width: int
    layers: int
    heads: int
    expression: int


@dataclass(frozen=True, kw_only=True)
class ClipEncoderConfig:
    """CLIP's vision tower and CurricularFace: the source as the official weights see it.

    Attributes:
        width, layers, heads, patch_px, image_px: of the vision tower, which makes a class token
            and one for each patch; its feed-forward layers are four times wider.
        identity_widths, identity_depths: of the four stages of CurricularFace.
        identity_crop_px: side of the aligned picture. The official weights were trained with 512,
            which shows CurricularFace a half-size face in a corner; 256 shows it as it was meant.
        regressor_width: of D3DFR's first stage.
    """

    width: int
    layers: int
    heads: int
    patch_px: int
    image_px: int
    identity_widths: tuple[int, ...]
    identity_depths: tuple[int, ...]
    identity_crop_px: Literal[256, 512]
    regressor_width: int

    @property
    def identity_features(self) -> int:
        """Length of the identity embedding: the last stage on 7x7 cells, flattened."""
        return self.identity_widths[-1] * 49


@dataclass(frozen=True, kw_only=True)
class PatchEncoderConfig:
    """The small source encoder: convolutions down to a grid of patches, then a transformer.

    Attributes:
        channels: of the convolutions before the last one; each halves the picture.
        width: D' of the tokens.
        grid: patches along a side, so that there are 1 + grid^2 tokens.
        layers: of the transformer.
        heads: of each attention.
    """

    channels: tuple[int, ...]
    width: int
    grid: int
    layers: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """How pictures become latents.

    Attributes:
        kind: Stable Diffusion's KL autoencoder, its tiny stand-in TAESD, or pixels rearranged.
        channels: C.
        factor: pixels per latent cell.
        widths: channels of each level, the finest first; none for rearranged pixels.
        layers: resnets of a level of the KL autoencoder.
    """

    kind: Literal["kl", "taesd", "unshuffle"]
    channels: int
    factor: int
    widths: tuple[int, ...] = ()
    layers: int = 0

    def __post_init__(self) -> None:
        if self.kind == "unshuffle" and self.channels != 3 * self.factor**2:
            raise ValueError(
                f"{self.factor}x{self.factor} pixels rearranged are {3 * self.factor**2} channels, "
                f"found {self.channels}"
            )
        if self.kind != "unshuffle" and self.factor != 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} levels do not make a factor of {self.factor}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a number of denoising steps is walked (`mimaface.schedule`).

    Attributes:
        solver: Euler on the probability flow from pure noise, as the release samples; a latent
            consistency step; or the clean sample, noised again to the next level.
        first_timestep: where the few-step walks start; Euler's starts at the last one.
        guidance: scale of classifier-free guidance; 1 runs the network once per step, not twice.
        is_noisy: whether noise is drawn. Where one picture is right, as beside a render, a walk
            without any starts at the middle of all starts, and pictures do not flicker.
    """

    solver: Literal["euler", "consistency", "clean"]
    first_timestep: int = TRAIN_TIMESTEPS - 1
    guidance: float = 1.0
    is_noisy: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.first_timestep < TRAIN_TIMESTEPS:
            raise ValueError(
                f"first_timestep must be 0 to {TRAIN_TIMESTEPS - 1}, found {self.first_timestep}"
            )


def trailing_timesteps(steps: int, *, first: int = TRAIN_TIMESTEPS - 1) -> NDArray[np.float32]:
    """Return evenly spaced timesteps [steps] from `first` down, none of them wasted at 0."""
    if not 1 <= steps <= first + 1:
        raise ValueError(f"steps must be 1 to {first + 1}, found {steps}")
    spacing = (first + 1) / steps
    return (np.round(np.arange(steps, 0, -1) * spacing) - 1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's shape.

    Attributes:
        size_px: side of the square avatar.
        framing: how the source is cropped. The official weights expect the face alone.
        new_frames: N, frames a clip adds.
        carried_frames: K, frames a clip takes over from the previous one.
        ica: how they are given to the next clip. `overlap`: in their own places, before the new
            frames, and made again with them. `hold`: the last one in the place of every new frame.
        condition: the source moved as a textured mesh, or the official face model's render.
        prediction: what the network says, the noise or the clean sample.
        samplings: how each number of denoising steps is walked, best first.
        most_px: side of the largest picture that the networks work on. What they change is added
            to the finer render of a larger avatar, so they must be residual; None sets no limit.
        crop_px: side of the square of that picture, around eyes and mouth, that the networks see
            (`mimaface.face_crop`); None lets them see all of it.
    """

    name: str
    size_px: int
    framing: Framing
    new_frames: int
    carried_frames: int
    ica: ICAForm
    condition: Literal["mesh", "bfm"]
    prediction: Prediction
    samplings: Mapping[int, Sampling]
    denoiser: DenoiserConfig
    mia: MIAConfig
    encoder: ClipEncoderConfig | PatchEncoderConfig
    autoencoder: AutoencoderConfig
    most_px: int | None = None
    crop_px: int | None = None

    def __post_init__(self) -> None:
        for name in ("size_px", "most_px"):
            side = getattr(self, name)
            if side is not None and (side < 64 or side % 64):
                raise ValueError(f"{name} must be a multiple of 64, found {side}")
        if self.most_px is not None and not self.denoiser.residual:
            raise ValueError(
                "only what a residual denoiser changes can be added to a larger render, "
                f"found most_px {self.most_px} of one that is not"
            )
        if self.crop_px is not None:
            if self.crop_px < 32 or self.crop_px % 32:
                raise ValueError(f"crop_px must be a multiple of 32, found {self.crop_px}")
            if not self.denoiser.residual or self.ica != "hold":
                raise ValueError(
                    "only a residual denoiser that holds one carried frame can see a square of "
                    f"the picture, found crop_px {self.crop_px}"
                )
        if self.new_frames < 1:
            raise ValueError(f"new_frames must be at least 1, found {self.new_frames}")
        if self.carried_frames < 1:
            raise ValueError(f"carried_frames must be at least 1, found {self.carried_frames}")
        if self.ica == "hold" and self.carried_frames != 1:
            raise ValueError(f"hold carries one frame, found carried_frames {self.carried_frames}")
        frames, most_frames = self.new_frames + self.overlap_frames, self.denoiser.most_frames
        if frames > most_frames:
            raise ValueError(f"a clip may have at most {most_frames} frames, found {frames}")
        if (self.mia.form == "released") != isinstance(self.encoder, ClipEncoderConfig):
            raise ValueError(
                "the released MIA reads CLIP tokens, the paper's reads patch tokens, "
                f"found {self.mia.form} with {type(self.encoder).__name__}"
            )
        if (self.mia.form == "released") != (self.condition == "bfm"):
            raise ValueError(
                "the released MIA reads the face model's coefficients, the paper's the mesh's "
                f"motion, found {self.mia.form} with {self.condition}"
            )
        if self.denoiser.residual and self.prediction != "sample":
            raise ValueError(
                "a residual denoiser corrects the clean render, so it predicts the sample, "
                f"found prediction {self.prediction!r}"
            )
        if self.denoiser.residual and self.autoencoder.kind != "unshuffle":
            raise ValueError(
                "a residual denoiser moves pixels, so its latents must be pixels rearranged, "
                f"found autoencoder {self.autoencoder.kind!r}"
            )
        for steps, sampling in self.samplings.items():
            if sampling.solver == "euler" and self.prediction != "epsilon":
                raise ValueError(
                    f"euler walks on predicted noise, found prediction {self.prediction!r} "
                    f"with {steps} steps of euler"
                )

    @property
    def working_px(self) -> int:
        """Side of the avatar at the size that the networks work on."""
        return self.size_px if self.most_px is None else min(self.size_px, self.most_px)

    @property
    def source_px(self) -> int:
        """Side of the source image that the encoder sees."""
        return self.most_px or self.size_px

    @property
    def square_px(self) -> int:
        """Side of the part of these pictures that the networks see."""
        return self.working_px if self.crop_px is None else min(self.crop_px, self.working_px)

    @property
    def overlap_frames(self) -> int:
        """Frames that a later clip makes again beside its new ones."""
        return self.carried_frames if self.ica == "overlap" else 0


def to_json(config: ModelConfig) -> str:
    """Return the configuration as JSON, for the metadata of a weight file."""
    return json.dumps(asdict(config))


def from_json(text: str) -> ModelConfig:
    """Invert `to_json`.

    Raises:
        ValueError: it is not the configuration of a model.
    """
    try:
        config: ModelConfig = _revive(ModelConfig, json.loads(text))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not the configuration of a model: {error}") from error
    return config


def _revive(kind: Any, value: Any) -> Any:
    # What JSON made of a value of this type, made into that type again.
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _revive(hints[name], each) for name, each in value.items()})  # type: ignore[operator]
    if kind == int | None:
        return value
    if isinstance(kind, UnionType):
        names = [{field.name for field in fields(each)} for each in get_args(kind)]
        return _revive(get_args(kind)[names.index(set(value))], value)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"must be one of {get_args(kind)}, found {value!r}")
    if get_origin(kind) is tuple:
        return tuple(_revive(get_args(kind)[0], each) for each in value)
    if get_origin(kind) is Mapping:
        key_kind, value_kind = get_args(kind)
        return {key_kind(key): _revive(value_kind, each) for key, each in value.items()}
    return value


# Of Stable Diffusion 1.5, on the same latents.
AUTOENCODERS: Final = {
    "kl": AutoencoderConfig(kind="kl", channels=4, factor=8, widths=(128, 256, 512, 512), layers=2),
    "taesd": AutoencoderConfig(kind="taesd", channels=4, factor=8, widths=(64,) * 4),
}
CONFIGS: Final[Mapping[str, ModelConfig]] = {
    "tiny": ModelConfig(
        name="tiny",
        size_px=256,
        framing=HEAD_AND_SHOULDERS,
        new_frames=1,
        carried_frames=1,
        ica="hold",
        condition="mesh",
        prediction="sample",
        samplings={
            4: Sampling(solver="clean", is_noisy=False),
            2: Sampling(solver="clean", first_timestep=749, is_noisy=False),
            1: Sampling(solver="clean", first_timestep=499, is_noisy=False),
        },
        denoiser=DenoiserConfig(
            widths=(32, 64, 96, 128),
            layers=1,
            attention=(False, False, True, True),
            motion=(False, False, True, True),
            heads=4,
            norm="batch",
            norm_groups=8,
            most_frames=16,
            residual=True,
        ),
        mia=MIAConfig(form="paper", width=128, layers=2, heads=4, expression=EXPRESSION),
        encoder=PatchEncoderConfig(channels=(24, 48, 96), width=128, grid=8, layers=2, heads=4),
        autoencoder=AutoencoderConfig(kind="unshuffle", channels=48, factor=4),
        most_px=256,
        crop_px=96,
    ),
    "sd15": ModelConfig(
        name="sd15",
        size_px=512,
        framing=FACE,
        new_frames=7,
        carried_frames=3,
        ica="overlap",
        condition="bfm",
        prediction="epsilon",
        samplings={
            RELEASED_STEPS: Sampling(solver="euler", guidance=5.0),
            4: Sampling(solver="consistency"),
            2: Sampling(solver="consistency", first_timestep=749),
            1: Sampling(solver="consistency", first_timestep=499),
        },
        denoiser=DenoiserConfig(
            widths=(320, 640, 1280, 1280),
            layers=2,
            attention=(True, True, True, False),
            motion=(True, True, True, True),
            heads=8,
            norm="group",
        ),
        mia=MIAConfig(form="released", width=768, layers=3, heads=1, expression=64),
        encoder=ClipEncoderConfig(
            width=1024,
            layers=24,
            heads=16,
            patch_px=14,
            image_px=224,
            identity_widths=(64, 128, 256, 512),
            identity_depths=(3, 13, 30, 3),
            identity_crop_px=512,
            regressor_width=64,
        ),
        autoencoder=AUTOENCODERS["kl"],
        most_px=None,
        crop_px=None,
    ),
}
