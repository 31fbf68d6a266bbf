"""Weight files: what is written is read, and nothing else is."""

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mimaface.config import CONFIGS, ModelConfig, to_json
from mimaface.errors import UnwritableMediaError, WeightsError
from mimaface.model import load
from mimaface.weight_notes import CONFIG_KEY
from mimaface.weights import randomize, read, save
from tests.narrow import NARROW

SMALL = replace(
    CONFIGS["tiny"],
    denoiser=replace(CONFIGS["tiny"].denoiser, widths=(8, 8, 16, 16), norm_groups=8),
)


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["tiny", "sd15"])
def test_what_is_saved_is_read_again(config: ModelConfig, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    written = randomize(config, seed=3)
    save(written, path)
    found = read(path)
    assert found.config == config
    read_again = found.state_dict()
    for name, tensor in written.state_dict().items():
        torch.testing.assert_close(read_again[name], tensor, atol=0, rtol=0)
    if written.face_model is None:
        assert found.face_model is None
    else:
        assert found.face_model is not None
        for name, array in vars(written.face_model).items():
            np.testing.assert_array_equal(getattr(found.face_model, name), array)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_random_weights_depend_on_the_seed_and_disturb_no_other_draw() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, same, other = (randomize(SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    name = "denoiser.unet.conv_in.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there are no weights at .*gone"):
        read(tmp_path / "gone.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read(path)


@pytest.mark.parametrize("metadata", [None, {CONFIG_KEY: "{}"}, {CONFIG_KEY: "[1"}])
def test_a_file_of_another_project_is_refused(
    metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match="'mimaface convert'"):
        read(path)


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(randomize(NARROW), path)
    state = load_file(path)
    for name in ("mia.norm.bias", "face_model.triangles"):
        del state[name]
    state["extra"] = torch.zeros(1)
    state["mia.norm.weight"] = torch.zeros(3)
    save_file(state, path, metadata={CONFIG_KEY: to_json(NARROW)})
    with pytest.raises(WeightsError) as raised:
        read(path)
    for part in (
        "lacks mia.norm.bias",
        "has no place for extra",
        "mia.norm.weight (3,) instead of (32,)",
        "lacks of the face model triangles",
    ):
        assert part in str(raised.value)


def test_a_face_model_whose_indices_lead_nowhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(randomize(NARROW), path)
    state = load_file(path)
    state["face_model.triangles"][0, 0] = 10**6
    save_file(state, path, metadata={CONFIG_KEY: to_json(NARROW)})
    with pytest.raises(WeightsError, match="damaged face model: triangles must be 0 to"):
        read(path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(randomize(SMALL), path)
    assert load("tiny", weights=path).steps == (4, 2, 1, 0)
    with pytest.raises(WeightsError, match="holds the model tiny, not sd15"):
        load("sd15", weights=path)


def test_the_tiny_model_fits_its_file_and_is_read_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    written = randomize(CONFIGS["tiny"])
    save(written, path, dtype=torch.float16)
    assert path.stat().st_size < 16 * 2**20
    found = read(path).state_dict()
    for name, tensor in written.state_dict().items():
        rounded = tensor.half().float() if tensor.is_floating_point() else tensor
        torch.testing.assert_close(found[name], rounded, atol=0, rtol=0)


def test_the_face_model_keeps_its_precision(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    written = randomize(NARROW)
    save(written, path, dtype=torch.bfloat16)
    stored = load_file(path)
    assert stored["mia.norm.bias"].dtype == torch.bfloat16
    found = read(path)
    assert found.mia.norm.bias.dtype == torch.float32
    assert found.face_model is not None
    assert written.face_model is not None
    for name, array in vars(written.face_model).items():
        np.testing.assert_array_equal(getattr(found.face_model, name), array)


def test_weights_too_large_for_a_precision_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    generator = randomize(SMALL)
    generator.state_dict()["denoiser.unet.conv_in.bias"][0] = 1e6
    with pytest.raises(WeightsError, match=r"unet\.conv_in\.bias in float16: choose bfloat16"):
        save(generator, path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    save(generator, path, dtype=torch.bfloat16)


def test_a_disk_without_room_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    generator = randomize(SMALL)
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        with pytest.raises(UnwritableMediaError, match=r"weights\.safetensors cannot be written"):
            save(generator, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(UnwritableMediaError, match="create it first"):
        save(randomize(SMALL), tmp_path / "gone" / "weights.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "taesd"}, "decoder is for untrained weights"),
        ({"weights": "random", "attention": "xformers", "device": "cpu"}, "for GPUs only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("tiny", **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no GPU"):
        load("tiny", weights="random", device="cuda")
