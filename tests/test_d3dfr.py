"""The regressor of face model coefficients."""

import torch
from torch import Tensor

from mimaface.d3dfr import CoefficientRegressor
from tests.recipe import load


def narrow() -> CoefficientRegressor:
    network = CoefficientRegressor(width=4, depths=(1, 2, 1, 1), heads=(5, 3, 1))
    load(network, bnstats=True)
    return network


def noise(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def test_coefficients_of_all_heads_stand_in_a_row() -> None:
    network, aligned = narrow(), noise(2, 3, 64, 64)
    coefficients = network(aligned)
    assert coefficients.shape == (2, 9)
    network.get_parameter("heads.1.bias").data.add_(1)
    change = (network(aligned) - coefficients)[0]
    torch.testing.assert_close(change, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 0.0]))


def test_two_faces_are_read_as_if_alone() -> None:
    network, faces = narrow(), noise(2, 3, 64, 64)
    alone = torch.cat([network(face[None]) for face in faces])
    torch.testing.assert_close(network(faces), alone, atol=1e-5, rtol=0)


def test_the_same_face_gives_the_same_coefficients() -> None:
    faces = noise(1, 3, 64, 64)
    torch.testing.assert_close(narrow()(faces), narrow()(faces), atol=0, rtol=0)
