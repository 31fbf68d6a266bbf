"""The parts of the released model, number by number."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mimaface.alignment import invert
from tests.narrow import OUTPUTS, compute, inputs, narrow_parts, tolerance
from tests.parity import KINDS, SD15, Outputs, Parts, check, difference_of, kind_of, main
from tests.recipe import GOLDEN, needs_golden

QUICK = ["mia", "mia_transformer", "motion_module", "d3dfr", "clip_preprocess", "vae"]
QUICK += ["scheduler", "render", "align"]


@pytest.fixture(scope="module")
def narrow() -> Parts:
    return narrow_parts()


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    with np.load(OUTPUTS) as stored:
        return {name: stored[name] for name in stored.files}


def too_far(found: Outputs, kind: str, outputs: dict[str, np.ndarray]) -> list[str]:
    """Return the names of outputs that are not near enough what is stored."""
    wanted = {
        name.removeprefix(f"{kind}/"): stored
        for name, stored in outputs.items()
        if name.startswith(f"{kind}/")
    }
    assert found.keys() == wanted.keys()
    return [
        name
        for name, stored in wanted.items()
        if difference_of(found[name], torch.from_numpy(stored)) > tolerance(stored)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_part_still_computes_what_it_computed_when_the_full_one_agreed(
    kind: str, narrow: Parts, outputs: dict[str, np.ndarray]
) -> None:
    assert too_far(compute(kind, narrow), kind, outputs) == []


def changed(array: Tensor) -> Tensor:
    """Return numbers or pictures that are slightly others."""
    noise = np.random.default_rng(0).standard_normal(tuple(array.shape))
    values = array.numpy().astype(float)
    if array.dtype == torch.uint8:
        return torch.from_numpy((values + 2 * noise).round().clip(0, 255).astype(np.uint8))
    spread = values.std() if values.size > 1 else np.abs(values)
    return torch.from_numpy(np.asarray(values + 0.01 * spread * noise)).to(array.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slight_change_of_any_input_is_seen_in_the_outputs_of_a_narrow_part(
    kind: str, narrow: Parts, outputs: dict[str, np.ndarray]
) -> None:
    given = inputs(kind)
    read = {
        name: array
        for name, array in given.items()
        if isinstance(array, Tensor)
        and (array.is_floating_point() or array.dtype == torch.uint8)
        and array.any()
    }
    assert read
    for name, array in read.items():
        found = compute(kind, narrow, **{name: changed(array)})
        assert too_far(found, kind, outputs), f"nothing depends on {name}"


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


def write(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


@pytest.mark.parametrize("wrong", ["value", "shape", "nan"])
def test_a_number_that_is_not_near_enough_fails(wrong: str, narrow: Parts, tmp_path: Path) -> None:
    kind = "mia_transformer"
    arrays = inputs(kind) | compute(kind, narrow)
    path, out = tmp_path / f"{kind}.npz", arrays["out"].numpy()
    assert check(write(path, arrays), narrow)["ok"]
    spoilt = {
        "value": out + np.float32(1e-3) * (out == out.max()),
        "shape": out[:1],
        "nan": np.where(out == out.max(), np.nan, out),
    }[wrong]
    result = check(write(path, arrays | {"out": spoilt}), narrow)
    assert not result["ok"]
    assert result["array"] == "out"
    assert (result["difference"] is None) == (wrong != "value"), "JSON has no infinity"


def test_a_file_without_what_its_kind_needs_fails_and_says_so(
    narrow: Parts, tmp_path: Path
) -> None:
    result = check(write(tmp_path / "mia_transformer.npz", {"y": np.zeros(3)}), narrow)
    assert not result["ok"]
    assert "'x'" in result["error"]


def write_files(folder: Path) -> None:
    """Write a good file, then one of each way to be bad."""
    good = write(folder / "align.npz", inputs("align") | compute("align", narrow_parts()))
    (folder / "align_cut.npz").write_bytes(good.read_bytes()[:-200])
    (folder / "align_folder.npz").mkdir()
    (folder / "align_text.npz").write_text("no arrays")
    (folder / "align_empty.npz").touch()
    with (folder / "align_single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    write(folder / "align_text_for_numbers.npz", {"pts5": np.array("five")})
    write(folder / "align_widths.npz", {"pts5": np.zeros((2, 3, 7))})
    write(folder / "align_nan.npz", inputs("align") | {"inverse": np.full((2, 2, 3), np.nan)})
    write(folder / "scheduler.npz", {"train_t": np.array([1000]), "x0": 0, "noise": 0})


def test_every_file_has_its_line_whatever_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path)
    (tmp_path / "notes.npz").touch()  # of no kind
    assert main([str(tmp_path)]) == 1
    results = {each["name"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert results.keys() == {path.stem for path in tmp_path.iterdir()} - {"notes"}
    assert results.pop("align")["ok"]
    assert results["align_nan"]["difference"] is None
    assert all(each.get("error") for name, each in results.items() if name != "align_nan")
    assert not any(each["ok"] for each in results.values())


def test_the_command_works_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "align.npz", inputs("align") | compute("align", narrow_parts()))
    tool = Path(__file__).with_name("parity.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tool), "."])
    # As in a program that has read nothing of the tests yet, and does not know where they are.
    root = str(tool.parents[1])
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", root)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tool), run_name="__main__")
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.parametrize(
    ("source", "driving", "is_source_first"),
    [
        ("source_coeffs", "driving_coeffs", True),
        ("coeffs.SRC", "coeffs.Target", False),
        ("coeffs_ref", "dri", False),
        ("coeffs", "tgt_coeffs", False),
        ("src", "coeffs", False),
        ("coeffs", "others", True),  # nothing in the names: by their order
    ],
)
def test_the_names_or_else_the_order_say_which_face_drives(
    source: str, driving: str, is_source_first: bool, narrow: Parts
) -> None:
    given = inputs("reenact")
    wanted = compute("reenact", narrow)
    pair = [(source, given.pop("coeffs_source")), (driving, given.pop("coeffs_driving"))]
    renamed = dict(pair if is_source_first else reversed(pair))
    found = KINDS["reenact"][0](given | renamed, narrow)
    assert difference_of(found["image"], wanted["image"]) == 0


def test_one_video_of_coefficients_begins_with_the_source(narrow: Parts) -> None:
    given = inputs("reenact")
    wanted = compute("reenact", narrow)
    rows = torch.cat([given.pop("coeffs_source"), given.pop("coeffs_driving")])
    found = KINDS["reenact"][0](given | {"coeffs": rows}, narrow)
    assert difference_of(found["image"], wanted["image"]) == 0


def test_matrices_out_of_the_crop_are_inverted(narrow: Parts) -> None:
    given = inputs("reenact")
    wanted = compute("reenact", narrow)
    matrices = given.pop("warp256").numpy()
    inverse = torch.from_numpy(np.stack([invert(matrix) for matrix in matrices]))
    found = KINDS["reenact"][0](given | {"Inverse": inverse}, narrow)
    assert difference_of(found["image"], wanted["image"]) < 1e-4


@pytest.mark.parametrize("kind", ["render", "reenact"])
def test_the_camera_is_the_release_s_where_the_file_has_none(kind: str, narrow: Parts) -> None:
    size = {"img_size": torch.tensor(256), "focal": torch.tensor(1160.0)}
    wanted = compute(kind, narrow, **size)
    given = {name: array for name, array in inputs(kind).items() if name not in size}
    for name, array in KINDS[kind][0](given, narrow).items():
        assert difference_of(array, wanted[name]) == 0
