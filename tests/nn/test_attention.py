"""Attention against the sums of the released SA-GAN written out."""

from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from biggan.nn.attention import SelfAttention, attend
from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.layers import Conv2d
from biggan.nn.spectral_norm import SpectralNorm
from biggan.profiling.flops import Attention


def test_against_explicit_sums(generator):
    layer = SelfAttention(16, conv=partial(Conv2d, reparametrization=partial(SpectralNorm, epsilon=1e-4)))
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    layer.eval()
    x = torch.randn(2, 16, 4, 4, generator=generator)
    assert torch.equal(layer(x), x)  # gamma starts at 0
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    theta, phi, g = layer.theta(x), F.max_pool2d(layer.phi(x), 2), F.max_pool2d(layer.g(x), 2)
    attended = torch.zeros(2, 8, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                weights = torch.softmax((theta[n, :, i, j, None] * phi[n].flatten(1)).sum(0), 0)
                attended[n, :, i, j] = (weights * g[n].flatten(1)).sum(1)
    assert torch.allclose(layer(x), x + 0.7 * layer.o(attended), atol=1e-5)


def test_zero_padding_changes_nothing(generator):
    """Against the definition, in float64, values and gradients; and the products that are counted are those of it."""
    shapes = ((2, 1, 64, 4), (2, 1, 16, 4), (2, 1, 16, 16))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, value = tensors
    weights = torch.randn(2, 1, 64, 16, generator=generator, dtype=torch.float64)
    expected = torch.softmax(query @ key.transpose(2, 3), dim=3) @ value
    result = attend(*tensors)
    assert torch.allclose(result, expected, atol=1e-12)
    grads = [torch.autograd.grad((output * weights).sum(), tensors) for output in (result, expected)]
    assert all(torch.allclose(grad, expected_grad, atol=1e-10) for grad, expected_grad in zip(*grads, strict=True))
    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        Attention.apply(*(torch.empty(shape, requires_grad=True) for shape in shapes)).sum().backward()
    assert counted.get_total_flops() == 3 * 2 * 2 * 64 * 16 * (4 + 16)
