"""Resampling convolutions against resampling, then convolving; initialization against its definition; fixed weights."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.layers import Conv2d, Linear
from biggan.nn.reparametrization import Identity
from biggan.nn.spectral_norm import SpectralNorm

SPECTRAL_NORM = partial(SpectralNorm, epsilon=1e-4)


def conv(generator, kernel=3, reparametrization=SPECTRAL_NORM, **options):
    layer = Conv2d(6, 10, kernel, reparametrization=reparametrization, **options)
    initialize(layer, INITIALIZERS["normal"], generator)
    with torch.no_grad():
        layer.bias.normal_(generator=generator)
    return layer.eval()


def written_out(layer, x, kernel, dilation):
    padding = dilation * (kernel - 1) // 2
    return F.conv2d(x, layer.effective_weight(), layer.bias, padding=padding, dilation=dilation)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_up_equals_upsampling_then_convolution(kernel, dilation, interpolation, generator):
    layer = conv(generator, kernel, resample="up", dilation=dilation, interpolation=interpolation)
    x = torch.randn(2, 6, 8, 8, generator=generator)
    expected = written_out(layer, F.interpolate(x, scale_factor=2, mode=interpolation), kernel, dilation)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_down_equals_convolution_then_average(kernel, dilation, generator):
    layer = conv(generator, kernel, resample="down", dilation=dilation)
    x = torch.randn(2, 6, 8, 8, generator=generator)
    expected = F.avg_pool2d(written_out(layer, x, kernel, dilation if kernel > 1 else 1), 2)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_only_the_first_outputs_are_computed(generator):
    layer = conv(generator)
    x = torch.randn(2, 6, 8, 8, generator=generator)
    everything = layer(x)
    layer.computed_outputs = 3
    assert torch.allclose(layer(x), everything[:, :3], atol=1e-6)


def test_orthogonal_initialization(generator):
    layer = Conv2d(6, 10, 3, reparametrization=SPECTRAL_NORM)
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    rows = layer.weight.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(10), atol=1e-5)
    assert not layer.bias.detach().any()


@pytest.mark.parametrize(
    ("name", "kernel", "gain"),
    [("glorot", 3, 1), ("glorot", 1, 1), ("glorot-residual", 3, math.sqrt(2)), ("glorot-residual", 1, 1)],
)
def test_glorot_initialization(name, kernel, gain, generator):
    """Uniform within gain sqrt(6 / (fan in + fan out)): docs/papers/biggan.md, "SA-GAN" and "SN-GAN"."""
    layer = Conv2d(64, 96, kernel, reparametrization=Identity)
    initialize(layer, INITIALIZERS[name], generator)
    bound = gain * math.sqrt(6 / ((64 + 96) * kernel**2))
    largest = layer.weight.detach().abs().max().item()
    assert 0.99 * bound < largest <= bound
    assert layer.weight.detach().var().item() == pytest.approx(bound**2 / 3, rel=0.05)


def test_normal_initialization(generator):
    layer = Linear(100, 100, reparametrization=Identity)
    initialize(layer, INITIALIZERS["normal"], generator)
    assert layer.weight.detach().std().item() == pytest.approx(0.02, rel=0.05)
