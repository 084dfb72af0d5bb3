"""Orthogonal regularisation: loss against loops, gradient against its closed form, extent against the spec."""

import pytest
import torch

from biggan import models
from biggan.errors import ConfigError
from biggan.models.biggan import BigGANConfig
from biggan.nn.layers import Weighted
from biggan.regularizers import Context, Orthogonal, RegularizationConfig, off_diagonal_energy

CONTEXT = Context(1, None, None)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_energy_against_loops(shape, generator):
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = sum((weight[i] @ weight[j]) ** 2 for i in range(shape[0]) for j in range(shape[0]) if i != j)
    assert off_diagonal_energy(weight).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_gradient_is_four_times_the_masked_gram_times_w(shape, generator):
    """Spec section 7: the gradient of || WW' * (1 - I) ||^2 is 4 (WW' * (1 - I)) W."""
    weight = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    off_diagonal_energy(weight).backward()
    w = weight.detach()
    gram = w @ w.T
    assert torch.allclose(weight.grad, 4 * (gram - torch.diag(gram.diag())) @ w)


def test_sum_over_the_generator_against_autograd_of_the_printed_formula(generator):
    g, _ = models.build(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    Orthogonal(1e-4).penalty(g, CONTEXT).backward()
    got = {name: parameter.grad for name, parameter in g.named_parameters()}
    g.zero_grad()
    total = 0.0
    for name, parameter in g.named_parameters():
        if parameter.dim() >= 2 and name != "embedding.weight":
            rows = parameter.flatten(1)
            gram = rows @ rows.T
            total = total + (gram * (1 - torch.eye(len(rows)))).square().sum()
    (1e-4 * total).backward()
    for name, parameter in g.named_parameters():
        if parameter.grad is None:
            assert got[name] is None, f"{name} is not to be regularised"
        else:
            assert torch.allclose(got[name], parameter.grad, atol=1e-6), name


def test_an_orthogonal_network_costs_nothing(generator):
    g, _ = models.build(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    tall = sum(layer.weight.shape[0] > layer.weight[0].numel() for layer in g.modules() if isinstance(layer, Weighted))
    wide = [
        off_diagonal_energy(layer.weight.flatten(1)).item()
        for layer in g.modules()
        if isinstance(layer, Weighted) and layer.weight.shape[0] <= layer.weight[0].numel()
    ]
    assert max(wide) < 1e-4
    assert tall, "more filters than inputs cannot all be orthogonal: the test looks at the others"


def test_strength_must_make_sense():
    with pytest.raises(ConfigError, match="None for off"):
        RegularizationConfig(generator_orthogonal=0.0).check()
    assert RegularizationConfig(generator_orthogonal=None).for_generator() == ()
