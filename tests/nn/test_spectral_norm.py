"""Spectral normalization against SVD, weight normalization against its formula."""

from functools import partial

import pytest
import torch

from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.layers import Conv2d, Embedding, Linear
from biggan.nn.reparametrization import WeightNorm
from biggan.nn.spectral_norm import SpectralNorm

SPECTRAL_NORM = partial(SpectralNorm, epsilon=1e-4)
LAYERS = {
    "linear": lambda: Linear(12, 20, reparametrization=SPECTRAL_NORM),
    "embedding": lambda: Embedding(20, 12, reparametrization=SPECTRAL_NORM),
    "conv": lambda: Conv2d(6, 10, 3, reparametrization=SPECTRAL_NORM),
}


def build_layer(kind, generator):
    layer = LAYERS[kind]()
    initialize(layer, INITIALIZERS["normal"], generator)
    return layer


@pytest.mark.parametrize("kind", LAYERS)
def test_sigma_is_the_largest_singular_value(kind, generator):
    layer = build_layer(kind, generator)
    for _ in range(300):
        normalized = layer.effective_weight()
    singular_values = torch.linalg.svdvals(normalized.detach().flatten(1))
    assert singular_values[0] == pytest.approx(1, abs=1e-4)


def test_u_changes_in_training_and_never_in_evaluation(generator):
    layer = build_layer("conv", generator)
    before = layer.reparametrization.u.clone()
    layer.eval()
    layer(torch.ones(1, 6, 4, 4))
    assert torch.equal(layer.reparametrization.u, before)
    layer.train()
    layer(torch.ones(1, 6, 4, 4))
    assert not torch.equal(layer.reparametrization.u, before)


def test_one_power_iteration_per_forward(generator):
    layer = build_layer("linear", generator)
    weight, vector = layer.weight.detach(), layer.reparametrization.u.clone()
    layer(torch.ones(1, 12))
    expected = weight @ (weight.T @ vector.T)
    assert torch.allclose(layer.reparametrization.u.T, expected / expected.norm(), atol=1e-6)


def test_gradient_takes_the_vectors_as_constants(generator):
    layer = build_layer("linear", generator)
    for _ in range(300):
        layer.effective_weight()
    layer.eval()
    direction = torch.randn(20, 12, generator=generator)
    (layer.effective_weight() * direction).sum().backward()
    left, values, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    outer, sigma = torch.outer(left[:, 0], right[0]), values[0]
    expected = direction / sigma - (direction * layer.weight.detach()).sum() / sigma**2 * outer  # Miyato 2018, equation 12
    assert torch.allclose(layer.weight.grad, expected, atol=1e-2)


def test_sigma_stays_float32_under_autocast(generator):
    layer = build_layer("linear", generator)
    layer.eval()
    plain = layer.effective_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.effective_weight(), plain)


def test_weight_norm_separates_length_from_direction(generator):
    """Salimans & Kingma 2016, equation 2, and that the start changes nothing."""
    layer = Conv2d(6, 10, 3, reparametrization=WeightNorm)
    initialize(layer, INITIALIZERS["normal"], generator)
    weight = layer.weight.detach().clone()
    assert torch.allclose(layer.effective_weight(), weight, atol=1e-7)
    with torch.no_grad():
        layer.reparametrization.gain.mul_(3)
        layer.weight.mul_(7)
    assert torch.allclose(layer.effective_weight(), 3 * weight, atol=1e-6)
    for filter_, gain in zip(layer.effective_weight(), layer.reparametrization.gain, strict=True):
        assert filter_.norm().item() == pytest.approx(gain.item(), rel=1e-5)
