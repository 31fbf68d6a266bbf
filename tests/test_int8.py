"""The embedded model's networks as graphs: what they say in int8, and when they are used."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mimaface.animate import animate, encode_source
from mimaface.config import CONFIGS, from_json
from mimaface.errors import WeightsError
from mimaface.evaluation.scripted import scripted_motion
from mimaface.int8 import FRAME_SUFFIX, SOURCE_SUFFIX, WEIGHTS_KEY, Int8Networks, sha256
from mimaface.model import Precision, load
from mimaface.training.export import compare, ship
from mimaface.types import ClipRequest
from mimaface.weight_notes import CONFIG_KEY
from mimaface.weights import randomize, read, save
from tests.statistics import with_statistics

# Levels of 255, over a roll-out. Untrained weights change every pixel, by 4 levels on average.
MEAN_APART, MOST_APART = 0.4, 12
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mean of untrained weights with its graphs beside it, as training would leave them."""
    folder = tmp_path_factory.mktemp("shipped")
    paths = [folder / f"{seed}.safetensors" for seed in SEEDS]
    for seed, path in zip(SEEDS, paths, strict=True):
        save(with_statistics(randomize(CONFIGS["tiny"], seed=seed)), path)
    ship(paths, folder / "tiny.safetensors", frames=2)
    return folder / "tiny.safetensors"


def test_pixels_are_near_those_of_the_denoiser(shipped: Path) -> None:
    model = load("tiny", weights=shipped, device="cpu", precision="float32")
    difference = compare(model.generator, Int8Networks(shipped, threads=1), frames=2, steps=1)
    assert 0 < difference.mean < MEAN_APART
    assert difference.most <= MOST_APART


def test_rows_of_a_batch_are_computed_alone(shipped: Path, portraits: list[Path]) -> None:
    model = load("tiny", weights=shipped, device="cpu", precision="int8")
    requests = [
        ClipRequest(appearance=encode_source(model, photo), motion=scripted_motion(1), steps=2)
        for photo in portraits[:2]
    ]
    for clip, request in zip(animate(model, requests), requests, strict=True):
        [alone] = animate(model, [request])
        assert np.abs(clip.pixels.astype(int) - alone.pixels).max() <= 1


@pytest.mark.parametrize("suffix", [FRAME_SUFFIX, SOURCE_SUFFIX])
def test_the_graphs_name_their_model(suffix: str, shipped: Path) -> None:
    props = onnx.load(shipped.with_suffix(suffix)).metadata_props
    [config] = [each.value for each in props if each.key == CONFIG_KEY]
    assert from_json(config) == CONFIGS["tiny"]


@pytest.mark.parametrize(
    ("size_px", "precision", "used"),
    [
        (256, "auto", "int8"),
        (512, "auto", "int8"),
        (512, "int8", "int8"),
        (64, "auto", "float32"),
        (256, "bfloat16", "bfloat16"),
    ],
)
def test_a_cpu_uses_the_graph_where_it_fits(
    size_px: int, precision: Precision, used: str, shipped: Path
) -> None:
    model = load("tiny", size_px=size_px, weights=shipped, device="cpu", precision=precision)
    assert model.precision == used


def test_int8_of_another_size_or_of_no_training_is_refused(shipped: Path) -> None:
    with pytest.raises(ValueError, match=r"works on 96 pixels.* avatar of 64"):
        load("tiny", size_px=64, weights=shipped, device="cpu", precision="int8")
    with pytest.raises(ValueError, match="choose float32"):
        load("tiny", weights="random", device="cpu", precision="int8")


def test_a_graph_that_cannot_be_used_is_named(shipped: Path, tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    shutil.copy(shipped, weights)
    assert load("tiny", weights=weights, device="cpu").precision == "float32"
    with pytest.raises(WeightsError, match=r"no graph .*: make it with python -m"):
        load("tiny", weights=weights, device="cpu", precision="int8")
    weights.with_suffix(FRAME_SUFFIX).write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="cannot be read as ONNX"):
        load("tiny", weights=weights, device="cpu")
    shutil.copy(shipped.with_suffix(FRAME_SUFFIX), tmp_path)
    with pytest.raises(WeightsError, match=r"no graph at .*source\.onnx: make it with python -m"):
        load("tiny", weights=weights, device="cpu")
    shutil.copy(shipped.with_suffix(SOURCE_SUFFIX), tmp_path)
    load("tiny", weights=weights, device="cpu")
    graph = onnx.load(weights.with_suffix(FRAME_SUFFIX))
    del graph.graph.input[-1], graph.graph.node[:], graph.graph.initializer[:]
    graph.graph.node.append(onnx.helper.make_node("Identity", ["guess"], ["correction"]))
    onnx.helper.set_model_props(graph, {WEIGHTS_KEY: sha256(weights)})
    onnx.save(graph, weights.with_suffix(FRAME_SUFFIX))
    with pytest.raises(WeightsError, match=r"frame\.onnx is of another version: make it with"):
        load("tiny", weights=weights, device="cpu")
    shutil.copy(shipped.with_suffix(FRAME_SUFFIX), tmp_path)
    save(randomize(CONFIGS["tiny"], seed=1), weights)
    with pytest.raises(WeightsError, match=r"tiny\.frame\.onnx was not made from"):
        load("tiny", weights=weights, device="cpu")


def test_the_mean_of_several_weights_is_shipped(shipped: Path) -> None:
    one, other, mean = (
        read(path).denoiser.unet.conv_in.weight.float()
        for path in (*(shipped.with_stem(str(seed)) for seed in SEEDS), shipped)
    )
    torch.testing.assert_close(mean, (one + other) / 2, atol=1e-3, rtol=0)


def test_weights_of_other_networks_are_not_shipped(tmp_path: Path) -> None:
    tiny = CONFIGS["tiny"]
    other = replace(
        tiny, denoiser=replace(tiny.denoiser, residual=False), most_px=None, crop_px=None
    )
    save(randomize(other), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="another denoiser than the model tiny has now"):
        ship([tmp_path / "other.safetensors"], tmp_path / "tiny.safetensors")


def test_the_weights_of_the_package_are_the_default(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimaface.model.ASSETS", shipped.parent)
    model = load("tiny", device="cpu")
    assert (model.precision, model.default_steps) == ("int8", 1)
    assert load("sd15", device="cpu").steps == (0,)
    mesh = load("tiny", weights="none")
    assert (mesh.precision, mesh.default_steps) == (None, 0)


def test_without_weights_in_the_package_the_mesh_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimaface.model.ASSETS", tmp_path)
    assert load("tiny").steps == (0,)


def test_a_driver_of_a_gpu_alone_is_no_gpu(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimaface.model.GPU_DRIVERS", (tmp_path,))
    used = "bfloat16" if torch.cuda.is_available() else "int8"
    assert load("tiny", weights=shipped).precision == used
