"""CurricularFace and the crop it looks at."""

import pytest
import torch
from torch import Tensor

from mimaface.identity import CurricularFace, crop_112
from tests.recipe import load

LEFT_EYE_256 = (92.5892, 103.3926)  # in the template of the aligned picture
LEFT_EYE_112 = (38.2946, 51.6963)  # in the template of the network's input


def narrow() -> CurricularFace:
    network = CurricularFace(widths=(4, 8, 8), depths=(1, 2, 1), input_px=16, embedding=6)
    load(network, bnstats=True)
    return network


def noise(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def with_a_dot(side_px: int, at: tuple[float, float]) -> Tensor:
    along = torch.arange(side_px)
    x, y = (torch.exp(-((along - place) ** 2) / 8) for place in at)
    return (2 * y[:, None] * x - 1).expand(1, 3, -1, -1)


def place_of_the_dot(image: Tensor) -> tuple[float, float]:
    weight = (image[0, 0] + 1) / (image[0, 0] + 1).sum()
    along = torch.arange(weight.shape[0], dtype=torch.float32)
    return float(weight.sum(0) @ along), float(weight.sum(1) @ along)


def test_features_and_embedding_have_the_promised_shapes() -> None:
    network = narrow()
    deep = network(noise(2, 3, 16, 16))
    assert deep.shape == (2, 8, 2, 2)
    assert network.embed(deep).shape == (2, 6)


def test_two_faces_are_read_as_if_alone() -> None:
    network, faces = narrow(), noise(2, 3, 16, 16)
    alone = torch.cat([network(face[None]) for face in faces])
    torch.testing.assert_close(network(faces), alone, atol=1e-5, rtol=0)


def test_the_same_face_gives_the_same_features() -> None:
    faces = noise(1, 3, 16, 16)
    torch.testing.assert_close(narrow()(faces), narrow()(faces), atol=0, rtol=0)


def test_only_a_stage_that_widens_has_weights_in_its_shortcut() -> None:
    shortcuts = {key.split(".")[1] for key in narrow().state_dict() if "shortcut" in key}
    assert shortcuts == {"1"}


def test_an_input_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        CurricularFace(input_px=100)
    with pytest.raises(ValueError, match="the same stages"):
        CurricularFace(widths=(4, 8), depths=(1, 1, 1))


def test_the_right_crop_puts_the_eye_where_the_network_expects_it() -> None:
    cropped = crop_112(with_a_dot(256, LEFT_EYE_256))
    assert cropped.shape == (1, 3, 112, 112)
    assert place_of_the_dot(cropped) == pytest.approx(LEFT_EYE_112, abs=0.5)


def test_the_official_weights_see_the_face_at_half_scale() -> None:
    x, y = place_of_the_dot(crop_112(with_a_dot(512, LEFT_EYE_256)))
    # The 16 columns left out are those of the half-sized picture: 8 too many for its face.
    assert (x, y) == pytest.approx((LEFT_EYE_112[0] / 2 - 4, LEFT_EYE_112[1] / 2), abs=0.5)


def test_a_picture_that_is_not_square_is_not_aligned() -> None:
    with pytest.raises(ValueError, match="square"):
        crop_112(torch.zeros(1, 3, 256, 512))
