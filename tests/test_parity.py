"""The parts of the released model, number by number."""

from pathlib import Path

import numpy as np
import pytest

from tests.narrow import NARROW, OUTPUTS, compute, inputs
from tests.parity import KINDS, SD15, Parts, check, kind_of, tolerance_of
from tests.recipe import GOLDEN, needs_golden

QUICK = ["mia", "mia_transformer", "motion_module", "d3dfr", "clip_preprocess", "vae"]
QUICK += ["scheduler", "render", "align"]


@pytest.fixture(scope="module")
def narrow() -> Parts:
    return Parts(NARROW)


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    with np.load(OUTPUTS) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_part_still_computes_what_it_computed_when_the_full_one_agreed(
    kind: str, narrow: Parts, outputs: dict[str, np.ndarray]
) -> None:
    found = compute(kind, narrow)
    wanted = {name.partition("/")[2] for name in outputs if name.startswith(f"{kind}/")}
    assert found.keys() == wanted
    for name, array in found.items():
        stored = outputs[f"{kind}/{name}"]
        np.testing.assert_allclose(array, stored, atol=tolerance_of(kind, name), rtol=0)


@needs_golden
@pytest.mark.parametrize("name", QUICK)
def test_a_full_part_agrees_with_the_released_implementation(name: str) -> None:
    result = check(GOLDEN / f"{name}.npz", Parts(SD15))
    assert result["ok"], result


def test_the_longest_kind_that_begins_a_name_is_its_kind() -> None:
    assert kind_of(Path("mia_mean_7.npz")) == "mia_mean"
    assert kind_of(Path("mia3.npz")) == "mia"
    assert kind_of(Path("unet2d_image.npz")) == "unet2d_image"
    assert kind_of(Path("unet_b.npz")) == "unet"
    assert kind_of(Path("notes.npz")) is None


@pytest.mark.parametrize("wrong", ["value", "shape", "nan"])
def test_a_number_that_is_not_near_enough_fails(wrong: str, narrow: Parts, tmp_path: Path) -> None:
    kind = "mia_transformer"
    arrays = {name: array.numpy() for name, array in (inputs(kind) | compute(kind, narrow)).items()}
    path, out = tmp_path / f"{kind}.npz", arrays["out"]
    np.savez(path, **arrays)
    assert check(path, narrow)["ok"]
    spoilt = {
        "value": out + np.float32(1e-3) * (out == out.max()),
        "shape": out[:1],
        "nan": np.where(out == out.max(), np.nan, out),
    }[wrong]
    np.savez(path, **(arrays | {"out": spoilt}))
    result = check(path, narrow)
    assert not result["ok"]
    assert result["array"] == "out"


def test_a_file_without_what_its_kind_needs_fails_and_says_so(
    narrow: Parts, tmp_path: Path
) -> None:
    path = tmp_path / "mia_transformer.npz"
    np.savez(path, y=np.zeros(3))
    result = check(path, narrow)
    assert not result["ok"]
    assert "'x'" in result["error"]
