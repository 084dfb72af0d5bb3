"""Spectral normalisation against SVD; resampling convolutions against resampling, then convolving."""

import pytest
import torch
import torch.nn.functional as F

from biggan.nn.init import INITIALIZERS, initialize
from biggan.nn.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear

LAYERS = {
    "linear": lambda: SpectralLinear(12, 20, epsilon=1e-4),
    "embedding": lambda: SpectralEmbedding(20, 12, epsilon=1e-4),
    "conv": lambda: SpectralConv2d(6, 10, 3, epsilon=1e-4),
    "conv up": lambda: SpectralConv2d(6, 10, 3, resample="up", epsilon=1e-4),
    "conv down": lambda: SpectralConv2d(6, 10, 3, resample="down", epsilon=1e-4),
}


def layer_of(kind, generator):
    layer = LAYERS[kind]()
    initialize(layer, INITIALIZERS["normal"], generator)
    return layer


@pytest.mark.parametrize("kind", LAYERS)
def test_sigma_is_the_largest_singular_value(kind, generator):
    layer = layer_of(kind, generator)
    for _ in range(300):
        normalized = layer.normalized_weight()
    singular_values = torch.linalg.svdvals(normalized.detach().flatten(1))
    assert singular_values[0] == pytest.approx(1, abs=1e-4)


def test_vectors_move_in_training_and_never_in_evaluation(generator):
    layer = layer_of("conv", generator)
    before = layer.left_vector.clone()
    layer.eval()
    layer(torch.ones(1, 6, 4, 4))
    assert torch.equal(layer.left_vector, before)
    layer.train()
    layer(torch.ones(1, 6, 4, 4))
    assert not torch.equal(layer.left_vector, before)


def test_one_power_iteration_per_forward(generator):
    layer = layer_of("linear", generator)
    weight, vector = layer.weight.detach(), layer.left_vector.clone()
    layer(torch.ones(1, 12))
    expected = weight @ (weight.T @ vector.T)
    assert torch.allclose(layer.left_vector.T, expected / expected.norm(), atol=1e-6)


def test_gradient_takes_the_vectors_as_constants(generator):
    layer = layer_of("linear", generator)
    for _ in range(300):
        layer.normalized_weight()
    layer.eval()
    direction = torch.randn(20, 12, generator=generator)
    (layer.normalized_weight() * direction).sum().backward()
    left, values, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    outer, sigma = torch.outer(left[:, 0], right[0]), values[0]
    expected = direction / sigma - (direction * layer.weight.detach()).sum() / sigma**2 * outer  # Miyato 2018, equation 12
    assert torch.allclose(layer.weight.grad, expected, atol=1e-2)


def test_sigma_stays_float32_under_autocast(generator):
    layer = layer_of("linear", generator)
    layer.eval()
    plain = layer.normalized_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.normalized_weight(), plain)


def test_up_equals_nearest_then_convolution(generator):
    layer = layer_of("conv up", generator).eval()
    x = torch.randn(2, 6, 5, 5, generator=generator)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), layer.normalized_weight(), layer.bias, padding=1)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_down_equals_convolution_then_average(generator):
    layer = layer_of("conv down", generator).eval()
    x = torch.randn(2, 6, 6, 6, generator=generator)
    expected = F.avg_pool2d(F.conv2d(x, layer.normalized_weight(), layer.bias, padding=1), 2)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_orthogonal_initialisation(generator):
    layer = LAYERS["conv"]()
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    rows = layer.weight.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(10), atol=1e-5)
    assert not layer.bias.detach().any()
