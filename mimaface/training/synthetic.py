"""Make the package's assets from the ICT face model.

python -m mimaface.training.synthetic --face-model PATH --output mimaface/assets
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from mimaface.training.canonical import canonical_face
from mimaface.training.face_model import FaceModel
from mimaface.training.hair import HairStyle
from mimaface.training.person import Look
from mimaface.training.portrait import render_portrait

LOOKS = {
    "ada": Look(
        seed=4,
        build=1.7,
        variation=0.35,
        eye_size=0.14,
        shoulders=0.9,
        skin=(236, 186, 162),
        lips=(204, 92, 92),
        freckles=0.8,
        iris=(96, 130, 100),
        hair=HairStyle(cut="bob", colour=(112, 64, 38), parting_cm=-2.2, lash_cm=0.4),
        clothes=(52, 92, 104),
        background=((208, 216, 212), (128, 152, 160)),
        expression={"mouthSmile": 0.5, "cheekSquint": 0.25, "eyeSquint": 0.1, "eyeBlink": 0.06},
    ),
    "noor": Look(
        seed=5,
        build=-0.5,
        variation=0.35,
        eye_size=0.15,
        skin=(202, 141, 114),
        lips=(172, 100, 86),
        iris=(92, 56, 32),
        hair=HairStyle(cut="quiff", colour=(40, 28, 24), lash_cm=0.2),
        clothes=(196, 150, 84),
        background=((196, 190, 178), (122, 112, 108)),
        rotation=(0.0, -0.08, 0.0),
        expression={"mouthSmile": 0.5, "cheekSquint": 0.2, "eyeWide": 0.2},
    ),
}


def main() -> None:
    """Write canonical_face.npz and the portraits; takes two or three minutes."""
    parser = argparse.ArgumentParser(
        description="Make the package's assets from the ICT face model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--face-model", type=Path, required=True, help="ict_face_model_light.npz")
    parser.add_argument("--output", type=Path, default=Path("mimaface/assets"), help="folder")
    arguments = parser.parse_args()

    model = FaceModel.load(arguments.face_model)
    portraits = arguments.output / "portraits"
    portraits.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output / "canonical_face.npz", **canonical_face(model))
    for name, look in LOOKS.items():
        pixels = render_portrait(model, look).pixels
        Image.fromarray(pixels).save(portraits / f"{name}.jpg", quality=92, subsampling=0)


if __name__ == "__main__":
    main()
