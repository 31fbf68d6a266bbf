"""Writes docs/demo.webp: the built-in portraits perform the scripted motion side by side.

python docs/demo.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from mimaface import ClipRequest, animate, encode_source, load
from mimaface.evaluation.scripted import scripted_motion
from mimaface.photo import built_in_portraits

FPS: Final = 15
FRAMES: Final = 90


def main() -> None:
    """Animate and write."""
    model, script = load("tiny", device="cpu"), scripted_motion(FRAMES, fps=FPS)
    rows = []
    for photo in built_in_portraits():
        appearance, ica, pictures = encode_source(model, photo), None, []
        for frame in range(FRAMES):
            request = ClipRequest(
                appearance=appearance,
                motion=script[frame : frame + 1],
                ica=ica,
                steps=model.default_steps,
            )
            [clip] = animate(model, [request])
            ica = clip.ica
            pictures.append(clip.pixels[0])
        rows.append(pictures)
    first, *rest = (Image.fromarray(np.hstack(pair)) for pair in zip(*rows, strict=True))
    first.save(
        Path(__file__).with_name("demo.webp"),
        save_all=True,
        append_images=rest,
        duration=1000 // FPS,
        loop=0,
        quality=70,
    )


if __name__ == "__main__":
    main()
