"""What the project promises about its own shape."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mimaface

ROOT = Path(__file__).parents[1]


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    [built] = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_library_only(wheel: list[str]) -> None:
    tops = {re.sub(r"-[\d.]+\.dist-info$", ".dist-info", name.split("/")[0]) for name in wheel}
    assert tops == {"mimaface", "mimaface.dist-info"}


def test_the_wheel_holds_the_assets_and_the_licence(wheel: list[str]) -> None:
    assert "mimaface/assets/canonical_face.npz" in wheel
    assert sum(name.startswith("mimaface/assets/portraits/") for name in wheel) >= 2
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_the_public_names_are_few_sorted_and_there() -> None:
    names = mimaface.__all__
    assert list(names) == sorted(names)
    assert 0 < len(names) <= 15
    assert all(hasattr(mimaface, name) for name in names)


def test_importing_the_library_loads_no_tracker_and_no_generator() -> None:
    loaded = python("-c", "import mimaface, sys; print(*sys.modules)").split()
    assert not {"mediapipe", "torch", "jax", "aiortc", "onnxruntime"} & set(loaded)


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", pin) for pin in pins)


def test_the_embedded_model_animates_without_torch_where_there_is_no_gpu() -> None:
    command = """
import sys
from mimaface import ClipRequest, animate, encode_source, load
from mimaface.evaluation.scripted import scripted_motion
from mimaface.photo import built_in_portraits

for weights in (None, "none"):
    model = load("tiny", device="cpu", weights=weights)
    appearance = encode_source(model, built_in_portraits()[0])
    for steps in model.steps:
        request = ClipRequest(appearance=appearance, motion=scripted_motion(2), steps=steps)
        animate(model, [request])
print(*sys.modules)
"""
    assert not {"torch", "diffusers", "transformers"} & set(python("-c", command).split())
