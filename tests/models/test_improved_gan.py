"""The networks of Salimans et al. 2016 against docs/papers/improved_gan.md, "Network and training tables" and "ImageNet
configuration": layers, parameter counts, images, outputs of D."""

from itertools import pairwise

import pytest
import torch
from conftest import model_config
from torch import nn

from biggan.models import registry
from biggan.models.improved_gan_config import ConvConfig, MLPConfig
from biggan.models.improved_gan_imagenet import NOISE_DIMS, ImprovedImageNetConfig
from biggan.nn.data_dependent_weight_norm import WeightNormLayer, data_dependent_init
from biggan.nn.noise import GaussianNoise
from biggan.runtime.errors import ConfigError


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_sizes_of_the_perceptrons():
    g, d = registry.build_networks(MLPConfig(num_classes=10), torch.Generator())
    sizes = [784, 1000, 500, 250, 250, 250]
    hidden = sum(a * b + b for a, b in pairwise(sizes))  # weights and biases; scales are fixed
    assert count_parameters(d) == hidden + 250 * 10 + 2 * 10
    assert count_parameters(g) == 100 * 500 + 500 + 500 * 500 + 500 + 500 * 784 + 2 * 784
    noises = [m.std for block in [*d.blocks, d.noise] for m in block.modules() if isinstance(m, GaussianNoise)]
    assert noises == [0.3, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("width", "kernels"), [(96, None), (64, None), (96, 100)])
def test_the_sizes_of_the_convolutions(width, kernels):
    g, d = registry.build_networks(
        model_config(ConvConfig, num_classes=10, discriminator__width=width, discriminator__minibatch_kernels=kernels),
        torch.Generator(),
    )
    layers = [(3, width, 3), (width, width, 3), (width, width, 3), (width, 2 * width, 3)]
    layers += [(2 * width, 2 * width, 3)] * 3 + [(2 * width, 2 * width, 1)] * 2
    expected = sum(i * o * k * k + o for i, o, k in layers)
    expected += (2 * width + (kernels or 0)) * 10 + 2 * 10
    if kernels:
        expected += 2 * width * kernels * 5 + kernels * 5 + kernels
    assert count_parameters(d) == expected
    assert count_parameters(g) == 100 * 8192 + 8192 + 25 * (512 * 256 + 256 * 128 + 128 * 3) + 256 + 128 + 2 * 3


def test_the_sizes_for_imagenet():
    assert NOISE_DIMS == [1024, 4096, 8192, 16384, 32768, 131072]
    config = ImprovedImageNetConfig(num_classes=1000)
    assert config.z_dim == 8192 + sum(NOISE_DIMS)
    with torch.device("meta"):
        g, d = (
            registry.FAMILIES["improved-imagenet"].generator(config),
            registry.FAMILIES["improved-imagenet"].discriminator(config),
        )
    widths = [512, 256, 128, 64, 64, 64]
    ups = zip([576, 320, 160, 80, 72], widths[1:], strict=True)
    assert count_parameters(g) == 8192 * 8192 + 2 * sum(widths) + 25 * sum(i * o for i, o in ups) + 25 * 72 * 3 + 3
    convs = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 256), (256, 512), (512, 512)]
    expected = sum(9 * i * o + o for i, o in convs) + 8192 * 2560 + 2560
    expected += 2560 * 300 * 50 + 300 * 50 + 300 + 2860 * 1001 + 2 * 1001
    assert count_parameters(d) == expected


SMALL = {
    "mlp": model_config(
        MLPConfig,
        num_classes=3,
        generator__hidden=(20, 20),
        discriminator__hidden=(30, 20),
        discriminator__minibatch_kernels=4,
    ),
    "conv": model_config(
        ConvConfig, num_classes=3, discriminator__width=8, generator__width=16, discriminator__minibatch_kernels=4
    ),
    "conv, no minibatch": model_config(ConvConfig, num_classes=3, discriminator__width=8, generator__width=16),
}


@pytest.mark.parametrize("name", SMALL)
def test_images_and_discriminator_outputs(name, generator):
    config = SMALL[name]
    config.check()
    g, d = registry.build_networks(config, generator)
    z, y = torch.rand(6, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    for network, x in ((g, z), (d, torch.rand(6, 3, config.resolution, config.resolution, generator=generator))):
        with data_dependent_init(network):
            network(x, y)
    image = g(z, y)
    assert image.shape == (6, 3, config.resolution, config.resolution)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1
    output = d(image, y, 2)
    assert output.class_logits.shape == (6, 3)
    assert torch.allclose(output.logits, output.class_logits.exp().sum(1).log(), atol=1e-5)
    output.logits.sum().backward()
    assert all(parameter.grad is not None for network in (g, d) for parameter in network.parameters())
    assert torch.equal(d.eval()(image, y).logits, d(image, 2 - y).logits), "labels are ignored"
    assert torch.equal(g.eval()(z, y), g(z, 2 - y))


def test_perceptrons_ignore_the_order_of_pixels(generator):
    """The same function of permuted pixels, with the first layer's columns permuted alike."""
    config = SMALL["mlp"]
    _, d = registry.build_networks(config, generator)
    d.eval()
    x = torch.rand(5, 1, 28, 28, generator=generator).expand(-1, 3, -1, -1) * 2 - 1
    order = torch.randperm(784, generator=generator)
    before = d(x, torch.zeros(5)).logits
    first = next(m for m in d.modules() if isinstance(m, WeightNormLayer))
    with torch.no_grad():
        first.weight.copy_(first.weight[:, order])
    moved = x.flatten(2)[:, :, order].view_as(x)
    assert torch.allclose(d(moved, torch.zeros(5)).logits, before, atol=1e-5)


def test_mnist_images_are_gray(generator):
    g, _ = registry.build_networks(MLPConfig(num_classes=10), generator)
    image = g(torch.rand(3, 100, generator=generator), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])


@pytest.mark.parametrize(
    "bad",
    [
        {"discriminator__input_noise": -1.0},
        {"discriminator__minibatch_kernels": 0},
        {"discriminator__hidden": ()},
        {"norm_epsilon": 0.0},
        {"latent_dim": 0},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=next(iter(bad)).replace("__", ".")):
        model_config(MLPConfig, **bad).check()
    with pytest.raises(ConfigError, match="dropout"):
        model_config(ConvConfig, discriminator__dropout=1.0).check()
