"""What is left of a picture that goes through latents and back."""

from __future__ import annotations

import numpy as np

from mimaface.photo import built_in_portraits
from mimaface.training.latents import kept, portrait, principal_components, through


def test_more_components_keep_more_and_all_keep_everything() -> None:
    pictures = [portrait(path) for path in built_in_portraits()]
    mean, basis = principal_components(pictures)
    np.testing.assert_allclose(basis @ basis.T, np.eye(192), atol=1e-4)
    few, more, everything = (
        kept(pictures, [through(each, mean, basis[:count]) for each in pictures])
        for count in (4, 32, 192)
    )
    assert few["psnr"] is not None
    assert more["psnr"] is not None
    assert 20 < few["psnr"] < more["psnr"] - 3
    assert few["sharpness"] is not None
    assert more["sharpness"] is not None
    assert few["sharpness"] < more["sharpness"] < 1
    assert everything == {"psnr": None, "sharpness": 1.0}
