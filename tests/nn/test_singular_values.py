"""Leading singular values against torch's SVD in float64: both searches, warm starts, every layer of a 128 px model."""

import pytest
import torch

from biggan.analysis.spectra import SpectrumTracker, weight_matrices
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.nn import singular_values
from biggan.nn.singular_values import leading_singular_triplets, warm_start


def truth(weight):
    return torch.linalg.svd(weight.double(), full_matrices=False)


@pytest.mark.parametrize("shape", [(1, 30), (30, 2), (200, 90), (300, 700), (900, 280)])
def test_values_and_vectors(shape, generator):
    weight = torch.randn(shape, generator=generator)
    left, values, right = truth(weight)
    triplets = leading_singular_triplets(weight, 3)
    count = min(3, *shape)
    assert torch.allclose(triplets.values.double(), values[:count], rtol=1e-5)
    cosines = torch.stack(
        [(triplets.left.double() * left[:, :count]).sum(0), (triplets.right.double() * right[:count].T).sum(0)]
    )
    assert (cosines[0] * cosines[1] > 0.999).all()


def test_a_warm_start_needs_fewer_products(generator, monkeypatch):
    weight = torch.randn(400, 900, generator=generator)
    products = []
    monkeypatch.setattr(
        singular_values, "orthonormalize", lambda v, b, o=singular_values.orthonormalize: products.append(1) or o(v, b)
    )
    triplets = leading_singular_triplets(weight)
    cold = len(products)
    moved = weight + 1e-3 * torch.randn(400, 900, generator=generator)
    again = leading_singular_triplets(moved, start=warm_start(triplets))
    assert len(products) - cold < 0.8 * cold
    assert torch.allclose(again.values.double(), truth(moved)[1][:3], rtol=1e-5)


@pytest.mark.parametrize("first", [3.3, 30.0, 1000.0])
def test_a_first_value_far_above_the_others(first, generator):
    """As at collapse: the second and third are exact too."""
    left, right = (torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64)).Q for _ in "uv")
    values = torch.cat([torch.tensor([first]), torch.linspace(3, 0.1, 399)]).double()
    triplets = leading_singular_triplets((left * values @ right.T).float())
    assert torch.allclose(triplets.values.double(), values[:3], rtol=1e-5)


def test_degenerate_matrices(generator):
    assert torch.allclose(leading_singular_triplets(torch.eye(300)).values, torch.ones(3), rtol=1e-5)
    assert leading_singular_triplets(torch.zeros(4, 9)).values.tolist() == [0, 0, 0]
    low = torch.randn(300, 1, generator=generator) @ torch.randn(1, 500, generator=generator)
    assert torch.allclose(leading_singular_triplets(low).values[0], torch.linalg.matrix_norm(low, 2), rtol=1e-5)


def test_every_layer_of_a_128_px_model(generator):
    """Width 20: sides on both sides of the limit between the two searches."""
    networks = dict(
        zip("GD", registry.build_networks(BigGANConfig(resolution=128, num_classes=10, width=20), generator), strict=True)
    )
    with torch.no_grad():
        for network in networks.values():
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)  # not orthogonal any more
    values = SpectrumTracker().measure(networks)
    sides = set()
    for name, weight in weight_matrices(networks):
        exact = torch.linalg.svdvals(weight.double())[:3]
        values_of_layer = torch.tensor([values[f"sigma{i}/{name}"] for i in range(len(exact))])
        assert torch.allclose(values_of_layer.double(), exact, rtol=1e-5), name
        assert values[f"frobenius/{name}"] == pytest.approx(weight.double().norm().item(), rel=1e-5)
        sides.add(min(weight.shape) > singular_values.MAX_DENSE_SIZE)
    assert sides == {True, False}
