"""Weight normalization by outputs against numpy, and the fast linear layer against the plain one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import increment_version

from biggan.nn import data_dependent_weight_norm as weight_norm
from biggan.nn.data_dependent_weight_norm import WeightNormLayer, data_dependent_init, needs_data_dependent_init
from biggan.nn.initialization import initialize, normal_with_std

LAYERS = {
    "dense": (lambda **o: weight_norm.linear(6, 5, **o), (9, 6)),
    "conv": (lambda **o: weight_norm.conv2d(3, 5, 3, stride=2, padding=1, **o), (4, 3, 6, 6)),
    "deconv": (lambda **o: weight_norm.conv_transpose2d(3, 5, 5, **o), (4, 3, 4, 4)),
}


def made(name, generator, **options):
    make, shape = LAYERS[name]
    layer = make(**options)
    initialize(layer, normal_with_std(0.3), generator)
    with torch.no_grad():
        layer.scale.uniform_(0.5, 2.0, generator=generator)
        layer.bias.normal_(generator=generator)
    return layer, torch.randn(shape, generator=generator)


def test_dense_against_numpy(generator):
    layer, x = made("dense", generator)
    w = layer.weight.detach().numpy()
    expected = x.numpy() @ (layer.scale.numpy()[:, None] * w / np.sqrt((w**2).sum(1, keepdims=True) + 1e-6)).T
    assert np.allclose(layer(x).detach(), expected + layer.bias.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["conv", "deconv"])
def test_convolutions_have_the_weight_divided_by_its_length(name, generator):
    layer, x = made(name, generator)
    used = layer.weight / (layer.weight.flatten(1).square().sum(1) + 1e-6).sqrt()[:, None, None, None]
    used = layer.scale[:, None, None, None] * used
    if name == "conv":
        expected = nn.functional.conv2d(x, used, layer.bias, stride=2, padding=1)
    else:
        expected = nn.functional.conv_transpose2d(x, used.transpose(0, 1), layer.bias, 2, 2, 1)
        assert expected.shape == (4, 5, 8, 8)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("std", [1.0, 0.1])
def test_starts_with_mean_zero_and_a_given_deviation(name, std, generator):
    layer, x = made(name, generator, init_std=std)
    assert needs_data_dependent_init(layer)
    with data_dependent_init(layer):
        first = layer(x)
    dims = [0, *range(2, first.dim())]
    for y in (first, layer(x)):
        assert torch.allclose(y.mean(dims), torch.zeros(5), atol=1e-5)
        assert torch.allclose(y.var(dims, unbiased=False).sqrt(), torch.full((5,), std), rtol=1e-3)


def test_a_layer_may_skip_initialization_from_data(generator):
    layer, x = made("dense", generator, init_std=None)
    before = layer.scale.clone(), layer.bias.clone()
    with data_dependent_init(layer):
        layer(x)
    assert torch.equal(layer.scale, before[0])
    assert torch.equal(layer.bias, before[1])


def test_the_scale_is_a_parameter_only_if_learnable(generator):
    assert [name for name, _ in made("dense", generator)[0].named_parameters()] == ["weight", "bias"]
    assert "scale" in dict(made("dense", generator, learnable_scale=True)[0].named_parameters())


@pytest.mark.parametrize("learns", [False, True])
def test_the_fast_linear_layer_has_the_gradients_of_the_plain_one(learns, generator):
    layer, x = made("dense", generator, learnable_scale=learns)
    x.requires_grad_(True)
    inputs = [x, layer.weight, layer.bias, *([layer.scale] if learns else [])]
    outward = torch.randn(9, 5, generator=generator)
    fast = torch.autograd.grad(layer(x), inputs, outward)
    plain = torch.autograd.grad(WeightNormLayer.forward(layer, x), inputs, outward)
    for one, other in zip(fast, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    layer.weight.requires_grad_(False)
    assert torch.allclose(torch.autograd.grad(layer(x), x, outward)[0], plain[0], atol=1e-5)


def test_the_fast_linear_layer_notices_a_changed_weight(generator):
    layer, x = made("dense", generator)
    layer(x)
    optimizer = torch.optim.Adam([layer.weight], lr=0.1, fused=True)
    layer(x).square().sum().backward()
    optimizer.step()
    increment_version([layer.weight])  # as training/step does: a fused step does not
    assert torch.allclose(layer(x), WeightNormLayer.forward(layer, x), atol=1e-5)
    with torch.no_grad():
        layer.weight.add_(1.0)
    assert torch.allclose(layer(x), WeightNormLayer.forward(layer, x), atol=1e-5)


def test_second_derivatives_of_the_fast_linear_layer(generator):
    """For penalties on gradients."""
    first, x = made("dense", generator)
    second = weight_norm.linear(5, 4)
    initialize(second, normal_with_std(0.3), generator)
    x.requires_grad_(True)
    inputs = [first.weight, second.weight, first.bias]
    grads = []
    for forward in (type(first).forward, WeightNormLayer.forward):
        out = forward(second, forward(first, x).tanh()).sum()
        (gradient,) = torch.autograd.grad(out, x, create_graph=True)
        grads.append(torch.autograd.grad(gradient.square().sum(), inputs))
    for one, other in zip(*grads, strict=True):
        assert one.abs().sum() > 0
        assert torch.allclose(one, other, atol=1e-5)
