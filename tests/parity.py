"""Number by number against the released implementation: python tests/parity.py DIR.

Every .npz file in DIR holds inputs and outputs of one part of the release, computed with weights
that follow from their names (`tests/recipe.py`); its kind is the beginning of its name. The parts
are built and filled through the project's own loaders (`tests/parity_kinds.py`). One JSON line a
file; status 1 if one fails. `tests/narrow.py` has narrow parts with inputs and outputs of our own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from tests import parity_kinds as kinds
from tests.parity_kinds import SD15, Arrays, Outputs, Parts

# By the beginning of a file's name: what computes it, and the largest difference that is allowed,
# of all its arrays or array by array.
KINDS: Final[Mapping[str, tuple[Callable[[Arrays, Parts], Outputs], float | dict[str, float]]]] = {
    "mia": (kinds.mia, 5e-5),
    "mia_mean": (kinds.mia_mean, 5e-5),
    "mia_transformer": (kinds.mia_transformer, 5e-5),
    "motion_module": (kinds.motion_module, 5e-5),
    "unet": (kinds.unet, 5e-5),
    "unet2d_image": (kinds.unet2d_image, 5e-5),
    "denoise": (kinds.denoise_clips, 2e-3),
    "denoise_image": (kinds.denoise_image, 2e-3),
    "train_loss": (kinds.train_loss, 5e-5),
    "d3dfr": (kinds.d3dfr, 1e-6),
    "curricular": (kinds.curricular, {"bnstats": 5e-4, "": 2e-3}),
    "clip": (kinds.clip, 1e-4),
    "clip_preprocess": (kinds.clip_preprocess, 1e-6),
    "vae": (kinds.vae, {"decoded": 5e-5, "": 1e-6}),
    "scheduler": (kinds.scheduler, 1e-5),
    "render": (kinds.render, {"rendered": 0.255, "color": 0.255, "texture": 0.255, "": 1e-3}),
    "reenact": (kinds.reenact, 1e-3),
    "align": (kinds.align, {"warp_out": 1e-4, "": 5e-4}),
}


def kind_of(path: Path) -> str | None:
    """Return the kind of a file, None if it is none that is known."""
    return max((kind for kind in KINDS if path.name.startswith(kind)), key=len, default=None)


def check(path: Path, parts: Parts) -> dict[str, Any]:
    """Compute what a file holds; return its name, the worst array and whether all are near.

    Whatever is wrong with a file is in the result, so that the files after it are checked too.
    """
    kind = kind_of(path)
    assert kind is not None, f"{path.name} is of no known kind"
    result: dict[str, Any] = {"name": path.stem, "ok": False}
    try:
        return result | _compare(kind, load_arrays(path), parts)
    except Exception as error:  # the outermost frame of a file
        reason = f"{type(error).__name__}: {error}".strip()
        return result | {"error": f"the file is not as its kind should be: {reason}"}


def _compare(kind: str, arrays: dict[str, Any], parts: Parts) -> dict[str, Any]:
    with torch.inference_mode():
        found = KINDS[kind][0](arrays, parts)
    compared = found.keys() & arrays.keys()
    if not compared:
        raise ValueError(f"it has none of {sorted(found)}")
    difference, tolerance, worst = max(
        (
            (difference_of(found[name], arrays[name]), tolerance_of(kind, name), name)
            for name in sorted(compared)
        ),
        key=lambda each: each[0] / each[1],
    )
    return {
        "difference": difference if np.isfinite(difference) else None,  # JSON has no infinity
        "tolerance": tolerance,
        "array": worst,
        "arrays": len(compared),
        "ok": difference <= tolerance,
    }


def load_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file; its texts stay as they are."""
    with path.open("rb") as opened, np.load(opened) as file:
        return {
            name: str(array) if array.dtype.kind == "U" else torch.from_numpy(array)
            for name in file.files
            for array in [file[name]]
        }


def difference_of(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two arrays; a NaN or another shape is infinitely far."""
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
    order = list(KINDS)
    parts, is_ok = Parts(SD15), True
    for path in sorted(files, key=lambda path: (order.index(kind_of(path)), path.name)):
        result = check(path, parts)
        is_ok &= result["ok"]
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        sys.stdout.flush()
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
