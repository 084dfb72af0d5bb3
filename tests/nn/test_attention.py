"""Attention against the sums of the released SA-GAN written out."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from biggan.nn.attention import SelfAttention, attend, flatten_pixels
from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.layers import Conv2d
from biggan.nn.spectral_norm import SpectralNorm
from biggan.training.flops import Attention


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


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [8, 16, 64])
def test_the_matrix_of_all_pixels_is_never_stored(generator, monkeypatch, memory_format, channels):
    """In both memory formats torch's kernel without the attention matrix runs, which refuses tensors whose last dimension is
    not next to itself in memory; output and gradients are those of the definition."""
    layer = SelfAttention(channels, conv=partial(Conv2d, reparametrization=partial(SpectralNorm, epsilon=1e-4)))
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    layer.eval()
    torch.nn.init.constant_(layer.gamma, 0.7)
    layer.to(memory_format=memory_format)
    x = torch.randn(2, channels, 6, 6, generator=generator).to(memory_format=memory_format).requires_grad_(True)
    weights = torch.randn(2, channels, 6, 6, generator=generator)
    strides, kernel = [], F.scaled_dot_product_attention

    def watched(query, key, value, **options):
        strides.extend(tensor.stride(3) for tensor in (query, key, value))
        return kernel(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        result = layer(x)
        (gradient,) = torch.autograd.grad((result * weights).sum(), x)
    assert strides == [1, 1, 1]
    layer.attend = lambda query, key, value: torch.softmax(query @ key.transpose(2, 3), dim=3) @ value
    expected = layer(x)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    assert torch.allclose(result, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-4)


def test_channels_last_tensors_are_not_copied(generator):
    x = torch.randn(2, 16, 6, 6, generator=generator).to(memory_format=torch.channels_last)
    value = flatten_pixels(F.max_pool2d(x, 2))
    assert value.contiguous() is value
