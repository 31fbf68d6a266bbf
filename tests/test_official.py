"""The release's checkpoints: every tensor lands, and what does not is named."""

import shutil
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from mimaface.autoencoder import KL
from mimaface.config import AUTOENCODERS
from mimaface.errors import WeightsError
from mimaface.hub import OFFICIAL
from mimaface.official import (
    AUTOENCODER_NAMES,
    CLIP_NAMES,
    MIA_NAMES,
    REGRESSOR_NAMES,
    UNET_NAMES,
    find_official,
    is_of_video_stage,
    read_official,
    read_state,
    rename,
)
from mimaface.stand_in_face import stand_in
from mimaface.weights import on_meta
from tests import recipe
from tests.hub_stand_in import forbidden
from tests.narrow import NARROW, SD15
from tests.recipe import needs_golden, official_shapes
from tests.release import save_legacy, with_old_names, write_release

PARTS = {
    "denoiser": (recipe.UNET, UNET_NAMES),
    "mia": (recipe.MIA, MIA_NAMES),
    "encoder.clip": (recipe.CLIP, CLIP_NAMES),
    "encoder.identity": ((), ()),
    "regressor": (recipe.REGRESSOR, REGRESSOR_NAMES),
    "autoencoder": (recipe.AUTOENCODER, AUTOENCODER_NAMES),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder)
    return folder


@pytest.fixture
def release(written: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@cache
def sd15() -> nn.Module:
    """Return the official model's shapes, which take seconds to build."""
    return on_meta(SD15)


@needs_golden
@pytest.mark.parametrize(
    ("part", "checkpoints", "count"),
    [
        ("denoiser", ("pretrained_unet", "3dunet.pth.used"), 686 + 562),
        ("mia", ("mim.pth",), 54),
        ("encoder.clip", ("vision_encoder",), 391),
        ("encoder.identity", ("CurricularFace_Backbone.pth",), 672),
        ("regressor", ("netG_epoch_25.pth",), 334),
        ("autoencoder", ("vae",), 248),
    ],
)
def test_every_tensor_of_the_release_lands_and_none_is_lacking(
    part: str, checkpoints: tuple[str, ...], count: int
) -> None:
    module = sd15().get_submodule(part)
    files = [official_shapes(checkpoint) for checkpoint in checkpoints]
    assert sum(len(file) for file in files) == count
    landed = {
        name: tuple(tensor.shape)
        for file in files
        for name, tensor in rename(
            {key: torch.empty(shape, device="meta") for key, shape in file.items()}, PARTS[part][1]
        ).items()
    }
    assert landed == {name: tuple(each.shape) for name, each in module.state_dict().items()}


@pytest.mark.parametrize("part", PARTS)
def test_official_names_lead_back_to_ours(part: str) -> None:
    to_official, from_official = PARTS[part]
    state = sd15().get_submodule(part).state_dict()
    assert rename(rename(state, to_official), from_official).keys() == state.keys()


def test_both_temporal_positions_land_on_the_one() -> None:
    names = [
        f"up_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.{attention}"
        for attention in ("attention_blocks.0.pos_encoder.pe", "attention_blocks.1.pos_encoder.pe")
    ]
    landed = rename({name: torch.zeros(1) for name in names}, UNET_NAMES)
    assert list(landed) == ["unet.up_blocks.0.motion_modules.1.transformer_blocks.0.pos_embed.pe"]


def test_the_older_names_of_the_autoencoder_are_read() -> None:
    with torch.device("meta"):
        state = KL(widths=(32,) * 4, layers=1).state_dict()
    official = rename(state, recipe.AUTOENCODER)
    older = with_old_names(official)
    assert sum(name not in official for name in older) == 16
    assert rename(older, AUTOENCODER_NAMES).keys() == state.keys()


def test_a_release_of_any_width_is_read(release: Path) -> None:
    generator = read_official(release)
    assert generator.config == NARROW
    unet = read_state(release / "checkpoints" / "video" / "3dunet.pth")
    motion = "down_blocks.0.motion_modules.0"
    found = generator.denoiser.get_parameter(f"unet.{motion}.proj_in.weight")
    torch.testing.assert_close(
        found.data, unet[f"{motion}.temporal_transformer.proj_in.weight"], atol=0, rtol=0
    )
    assert generator.face_model is not None
    assert len(generator.face_model.mean_shape) == len(stand_in().mean_shape)
    assert not any(tensor.is_meta for tensor in generator.state_dict().values())


def test_the_quicker_decoder_is_read_on_request(release: Path) -> None:
    config = read_official(release, decoder="taesd").config
    assert config.autoencoder == AUTOENCODERS["taesd"]


def test_motion_modules_and_the_first_convolution_come_from_the_video_stage(release: Path) -> None:
    path = release / "checkpoints" / "video" / "3dunet.pth"
    changed = {name: torch.full_like(t, 0.5) for name, t in read_state(path).items()}
    save_legacy(changed, path)
    denoiser = read_official(release).denoiser.state_dict()
    for name, tensor in denoiser.items():
        is_changed = bool((tensor == 0.5).all())
        assert is_changed == is_of_video_stage(name.removeprefix("unet.")), name


def test_without_configurations_the_networks_are_the_release_s(release: Path) -> None:
    (release / "checkpoints" / "image" / "pretrained_unet" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"the UNet has of a wrong shape .*conv_in.weight"):
        read_official(release)


def test_all_missing_files_are_named_at_once(release: Path) -> None:
    video = release / "checkpoints" / "video"
    (video / "mim.pth").unlink()
    (video / "vision_encoder" / "model.safetensors").unlink()
    (release / "models" / "D3DFR" / "BFM09_model_info.mat").unlink()
    with pytest.raises(WeightsError) as raised:
        find_official(release)
    message = str(raised.value)
    assert "checkpoints/video/mim.pth" in message
    assert "model.safetensors or checkpoints/video/vision_encoder/pytorch_model.bin" in message
    assert "BFM09_model_info.mat" in message
    assert "'mimaface fetch'" in message


def test_all_tensors_that_do_not_fit_are_named_at_once(release: Path) -> None:
    mia = release / "checkpoints" / "video" / "mim.pth"
    state = read_state(mia)
    del state["layer_norm.bias"]
    state["extra"] = torch.zeros(2)
    save_legacy(state, mia)
    video = release / "checkpoints" / "video" / "3dunet.pth"
    save_legacy(read_state(video) | {"mid_block.motion": torch.zeros(1)}, video)
    regressor = release / "models" / "D3DFR" / "netG_epoch_25.pth"
    state = read_state(regressor)
    save_legacy(state | {"fianl_layers.0.bias": torch.zeros(81)}, regressor)
    with pytest.raises(WeightsError) as raised:
        read_official(release)
    message = str(raised.value)
    for part in (
        "mim.pth lacks norm.bias",
        "mim.pth has no place for extra",
        "3dunet.pth has no place for mid_block.motion",
        "netG_epoch_25.pth has of a wrong shape heads.0.bias (81,) instead of (80,)",
    ):
        assert part in message


def test_a_folder_that_cannot_be_searched_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be searched: File name too long"):
        find_official(tmp_path / ("long" * 100))
    with forbidden(tmp_path), pytest.raises(WeightsError, match="searched: Permission denied"):
        find_official(tmp_path)


def test_of_several_files_the_one_that_fetch_brings_is_read(release: Path) -> None:
    for file in OFFICIAL:
        for path in file.paths:
            (release / file.local(path)).parent.mkdir(parents=True, exist_ok=True)
            (release / file.local(path)).touch()
    found = set(vars(find_official(release)).values())
    for file in OFFICIAL:
        if len(file.paths) > 1:
            assert release / file.local(file.paths[0]) in found


@pytest.mark.filterwarnings("ignore")  # torch warns of some damage, too
@pytest.mark.parametrize("is_legacy", [True, False], ids=["legacy", "zip"])
def test_a_damaged_pickle_is_tensors_by_their_names_or_one_clear_error(
    is_legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "mim.pth"
    state = {f"layers.{index}.weight": torch.full((2, 3), index) for index in range(3)}
    torch.save(state, path, _use_new_zipfile_serialization=not is_legacy)
    whole = path.read_bytes()
    random = Random(0)
    messages = []
    for _ in range(200):
        flipped = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            flipped[random.randrange(len(whole))] = random.randrange(256)
        for damaged in (whole[: random.randrange(len(whole))], flipped):
            path.write_bytes(damaged)
            try:
                read = read_state(path)
            except WeightsError as error:
                messages.append(str(error))
            else:
                assert all(isinstance(name, str) for name in read)
                assert all(isinstance(tensor, torch.Tensor) for tensor in read.values())
    assert len(messages) > 200
    assert all(message.startswith(str(path)) for message in messages)
    assert all(message.isprintable() for message in messages)


@pytest.mark.parametrize(
    "stored", [torch.ones(2), {1: torch.ones(2)}, [torch.ones(2)], {"state_dict": [1]}, 3]
)
def test_tensors_without_names_are_refused(stored: object, tmp_path: Path) -> None:
    path = tmp_path / "mim.pth"
    torch.save(stored, path)
    with pytest.raises(WeightsError, match="something else than tensors by their names"):
        read_state(path)


def test_another_network_in_the_place_of_curricularface_is_named(release: Path) -> None:
    path = release / "models" / "ArcFace" / "CurricularFace_Backbone.pth"
    save_legacy({"conv1.weight": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"Backbone\.pth does not hold CurricularFace"):
        read_official(release)


def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mim.pth"
    torch.save({"name": "not a tensor"}, path)
    with pytest.raises(WeightsError, match="something else than tensors"):
        read_state(path)
    torch.save({"module": Path("/")}, path)
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        read_state(path)
    path.write_bytes(b"\x80\x02garbage")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        read_state(path)


def test_wrappers_around_the_tensors_are_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "v3.ckpt"
    torch.save({"state_dict": {"module.a.weight": torch.ones(2)}}, path)
    assert list(read_state(path)) == ["a.weight"]
