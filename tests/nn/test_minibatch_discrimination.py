"""Minibatch discrimination against the formula written out in numpy."""

import numpy as np
import pytest
import torch

from biggan.nn.data_dependent_weight_norm import data_dependent_init
from biggan.nn.initialization import initialize, normal_with_std
from biggan.nn.minibatch_discrimination import MinibatchDiscrimination, NoMinibatchFeatures

A, B, C = 6, 4, 3


@pytest.fixture
def layer(generator):
    layer = MinibatchDiscrimination(A, B, C)
    initialize(layer, normal_with_std(0.5), generator)
    with torch.no_grad():
        layer.log_scale.normal_(generator=generator)
    return layer


def by_hand(layer, features):
    """Section 3.2, one sum after the other, without the image itself."""
    theta = layer.weight.detach().numpy().reshape(B, C, A)
    tensor = theta / np.sqrt((theta**2).sum(2, keepdims=True)) * np.exp(layer.log_scale.detach().numpy())[:, :, None]
    m = np.einsum("na,bca->nbc", features.numpy(), tensor)
    out = np.zeros((len(m), B))
    for i in range(len(m)):
        for j in range(len(m)):
            if i != j:
                out[i] += np.exp(-np.abs(m[i] - m[j]).sum(1))
    return out + layer.bias.detach().numpy()


def test_against_numpy_each_group_for_itself(layer, generator):
    features = torch.randn(10, A, generator=generator)
    assert np.allclose(layer(features).detach(), by_hand(layer, features), atol=1e-5)
    apart = np.concatenate([by_hand(layer, features[:5]), by_hand(layer, features[5:])])
    assert np.allclose(layer(features, groups=2).detach(), apart, atol=1e-5)
    assert not np.allclose(layer(features).detach(), apart, atol=1e-2)


def test_follows_a_permutation_of_the_batch(layer, generator):
    features, order = torch.randn(7, A, generator=generator), torch.randperm(7, generator=generator)
    assert torch.allclose(layer(features)[order], layer(features[order]), atol=1e-6)


def test_an_image_alone_has_no_gradient_through_itself(layer, generator):
    one = torch.randn(1, A, generator=generator, requires_grad=True)
    out = layer(one)
    assert torch.equal(out, layer.bias[None])
    out.sum().backward()
    assert torch.equal(one.grad, torch.zeros(1, A))


def test_gradients_against_finite_differences(layer, generator):
    features = torch.randn(4, A, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(features)[:, 1].sum(), features)
    for place in ((0, 0), (2, 3)):
        moved = features.detach().clone()
        ends = []
        for step in (1e-2, -1e-2):
            moved[place] = features[place].item() + step
            ends.append(by_hand(layer, moved)[:, 1].sum())
        assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-3)


def test_two_ranks_are_one_batch(layer, generator):
    features = torch.randn(8, A, generator=generator)
    whole = layer(features)
    unit = layer.weight / layer.weight.norm(dim=1, keepdim=True)
    rows = features @ unit.T * layer.log_scale.exp().flatten()
    layer.gather = lambda projected: (rows, 4)  # the second of two ranks
    assert torch.allclose(layer(features[4:]), whole[4:], atol=1e-6)


def test_initialization_from_data(layer, generator):
    """docs/papers/improved_gan.md, "Minibatch discrimination": half the mean distance of the nearest other image becomes
    1, and the mean output 0."""
    torch.nn.init.zeros_(layer.log_scale)
    features = 5 * torch.randn(20, A, generator=generator)
    with data_dependent_init(layer):
        out = layer(features)
    assert torch.allclose(out.mean(0), torch.zeros(B), atol=1e-5)
    theta = layer.weight.detach().numpy().reshape(B, C, A)
    tensor = theta / np.sqrt((theta**2).sum(2, keepdims=True)) * np.exp(layer.log_scale.detach().numpy())[:, :, None]
    m = np.einsum("na,bca->nbc", features.numpy(), tensor)
    distance = np.abs(m[:, None] - m[None]).sum(3) + np.eye(20)[:, :, None] * 1e6
    assert np.allclose(distance.min(1).mean(0) / 2, 1, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 20])
def test_initialization_from_degenerate_data(layer, rows, generator):
    """One image, or every image twice: numbers, not NaN."""
    features = torch.randn(-(-rows // 2), A, generator=generator).repeat(2, 1)[:rows]
    with data_dependent_init(layer):
        layer(features)
    assert layer.bias.isfinite().all()
    assert layer.log_scale.isfinite().all()


def test_initialization(generator):
    """docs/papers/improved_gan.md, "Minibatch discrimination"."""
    layer = MinibatchDiscrimination(A, B, C)
    initialize(layer, normal_with_std(0.05), generator)
    assert torch.equal(layer.bias, torch.full((B,), -1.0))
    assert torch.equal(layer.log_scale, torch.zeros(B, C))


def test_none(generator):
    assert NoMinibatchFeatures()(torch.randn(3, A, generator=generator), 3).shape == (3, 0)
