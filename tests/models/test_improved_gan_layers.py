"""The networks of Salimans et al. 2016 against the same ones written out from docs/papers/improved_gan.md, "Network and
training tables" and "ImageNet configuration"."""

import pytest
import torch
import torch.nn.functional as F
from conftest import model_config
from torch import nn

from biggan.models import registry
from biggan.models.improved_gan_config import ConvConfig, MLPConfig
from biggan.models.improved_gan_imagenet import ImprovedImageNetConfig
from biggan.nn.batch_norm import AffineNorm, BiasOnlyNorm
from biggan.nn.data_dependent_weight_norm import WeightNormLayer
from biggan.nn.layers import Linear, TransposedConv2d
from biggan.nn.noise import GaussianNoise

CONV_STRIDES, CONV_PADDINGS = [1, 1, 2, 1, 1, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0]


def randomized(network, generator):
    """Biases and scales that are not what they start at."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, WeightNormLayer):
                module.scale.uniform_(0.5, 2.0, generator=generator)
                module.bias.normal_(std=0.3, generator=generator)
            if isinstance(module, (AffineNorm, BiasOnlyNorm)):
                module.bias.normal_(std=0.3, generator=generator)
    return network


def normed(layer):
    """scale * weight / ||weight||, epsilon 1e-6."""
    shape = (-1, *[1] * (layer.weight.dim() - 1))
    return layer.weight * (layer.scale / (layer.weight.flatten(1).square().sum(1) + 1e-6).sqrt()).view(shape)


def of_type(network, *types):
    return [module for module in network.modules() if isinstance(module, types)]


def batch_normed(x, bias, epsilon=1e-6):
    """Over all dimensions but the second, without a gain."""
    dims = [0, *range(2, x.dim())]
    centered = x - x.mean(dims, keepdim=True)
    y = centered / (centered.square().mean(dims, keepdim=True) + epsilon).sqrt()
    return y + bias.view(1, -1, *[1] * (x.dim() - 2))


def test_the_perceptron_discriminator(generator):
    d = randomized(registry.build_networks(MLPConfig(num_classes=10), generator)[1], generator).eval()
    pixels = torch.rand(4, 784, generator=generator)
    *hidden, last = of_type(d, WeightNormLayer)
    h = pixels
    for layer, width in zip(hidden, [1000, 500, 250, 250, 250], strict=True):
        h = (h @ normed(layer).T + layer.bias).clamp(min=0)
        assert h.shape == (4, width)
    expected = h @ normed(last).T + last.bias
    image = (2 * pixels - 1).view(4, 1, 28, 28).expand(-1, 3, -1, -1)
    assert torch.allclose(d(image, torch.zeros(4)).class_logits, expected, atol=1e-4)


def test_noise_comes_before_every_layer_of_the_perceptron(generator):
    """Features are without the last noise, logits with it."""
    d = registry.build_networks(
        model_config(MLPConfig, num_classes=10, discriminator__input_noise=0.0, discriminator__noise=0.0), generator
    )[1]
    d.noise.std = 0.5
    image = torch.rand(4, 3, 28, 28, generator=generator)
    noisy, still = d(image, torch.zeros(4)), d.eval()(image, torch.zeros(4))
    assert torch.allclose(noisy.features, still.features)
    assert not torch.allclose(noisy.class_logits, still.class_logits)


def test_the_perceptron_generator(generator):
    g = randomized(registry.build_networks(MLPConfig(num_classes=10), generator)[0], generator)
    z = torch.rand(8, 100, generator=generator)
    h, norms, (last,) = z, of_type(g, BiasOnlyNorm), of_type(g, WeightNormLayer)
    for layer, norm in zip(of_type(g, Linear), norms, strict=True):
        h = batch_normed(h @ layer.weight.T, norm.bias).exp().log1p()
        assert h.shape == (8, 500)
    expected = torch.sigmoid(h @ normed(last).T + last.bias)
    drawn = g(z, torch.zeros(8))
    assert torch.allclose((drawn[:, 0].flatten(1) + 1) / 2, expected, atol=1e-4)


def test_the_convolutional_discriminator(generator):
    config = ConvConfig(num_classes=10)
    d = randomized(registry.build_networks(config, generator)[1], generator).eval()
    x = image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    *convs, last = of_type(d, WeightNormLayer)
    sizes = []
    for layer, stride, padding in zip(convs, CONV_STRIDES, CONV_PADDINGS, strict=True):
        x = F.conv2d(x, normed(layer), layer.bias, stride, padding)
        x = torch.where(x > 0, x, 0.2 * x)
        sizes.append(x.shape[1:3])
    assert sizes == [(96, 32)] * 2 + [(96, 16)] + [(192, 16)] * 2 + [(192, 8)] + [(192, 6)] * 3
    expected = x.mean((2, 3)) @ normed(last).T + last.bias
    assert torch.allclose(d(image, torch.zeros(2)).class_logits, expected, atol=1e-4)


def test_dropout_and_noise_of_the_convolutions(generator):
    """0.2 of the input, 0.5 after the third and sixth convolution; in the minibatch preset input noise instead."""

    def order(config):
        kinds = of_type(registry.build_networks(config, generator)[1], WeightNormLayer, nn.Dropout, GaussianNoise)
        return [getattr(m, "p", None) or getattr(m, "std", None) or "conv" for m in kinds if is_active(m)]

    def is_active(module):
        return isinstance(module, WeightNormLayer) or (module.p if isinstance(module, nn.Dropout) else module.std) > 0

    groups = ["conv"] * 3 + [0.5] + ["conv"] * 3 + [0.5] + ["conv"] * 4
    assert order(ConvConfig(num_classes=10)) == [0.2, *groups]
    assert order(
        model_config(ConvConfig, num_classes=10, discriminator__input_dropout=0.0, discriminator__input_noise=0.2)
    ) == [0.2, *groups]


def test_the_convolutional_generator(generator):
    g = randomized(registry.build_networks(ConvConfig(num_classes=10), generator)[0], generator)
    z = torch.rand(8, 100, generator=generator)
    (linear,), ups, (last,) = of_type(g, Linear), of_type(g, TransposedConv2d), of_type(g, WeightNormLayer)
    norms = of_type(g, BiasOnlyNorm)
    x = batch_normed(z @ linear.weight.T, norms[0].bias).clamp(min=0).view(8, 512, 4, 4)
    for up, norm, channels in zip(ups, norms[1:], [256, 128], strict=True):
        x = F.conv_transpose2d(x, up.weight.transpose(0, 1), stride=2, padding=2, output_padding=1)
        x = batch_normed(x, norm.bias).clamp(min=0)
        assert x.shape[1] == channels
    x = F.conv_transpose2d(x, normed(last).transpose(0, 1), last.bias, stride=2, padding=2, output_padding=1)
    assert torch.allclose(g(z, torch.zeros(8)), x.tanh(), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "g_std", "d_std", "init_stds", "learnable"),
    [
        (MLPConfig(num_classes=10), None, 0.1, [None] + [1.0] * 6, [True] + [False] * 5 + [True]),
        (ConvConfig(num_classes=10), 0.05, 0.05, [0.1] + [1.0] * 9 + [0.1], [True] + [False] * 9 + [True]),
    ],
    ids=["mlp", "conv"],
)
def test_initialization(config, g_std, d_std, init_stds, learnable, generator):
    """Standard deviations of weights (None: Glorot) and of outputs on the first data (None: not set); learned scales."""
    g, d = registry.build_networks(config, generator)
    for network, std in ((g, g_std), (d, d_std)):
        for layer in of_type(network, WeightNormLayer, Linear, TransposedConv2d):
            expected = std or (2 / sum(layer.weight.shape)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
    layers = of_type(g, WeightNormLayer) + of_type(d, WeightNormLayer)
    assert [layer.init_std for layer in layers] == init_stds
    assert [isinstance(layer.scale, nn.Parameter) for layer in layers] == learnable


def test_the_generator_for_imagenet(generator):
    """Channels as in docs/papers/improved_gan.md, "ImageNet configuration"; every stage gets the noise that stands in z
    after that of the stage before."""
    config = model_config(ImprovedImageNetConfig, num_classes=3, generator__norm="batch", generator__reference_batch_size=1)
    g = registry.build_networks(config, generator)[0]
    assert torch.equal(g.output.bias, torch.full((3,), -0.45))
    assert g.output.weight.std().item() == pytest.approx(0.075, rel=0.1)
    assert g.linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    z = torch.rand(2, config.z_dim, generator=generator) * 2 - 1
    x, used, size = (z[:, :8192] @ g.linear.weight.T).view(2, 512, 4, 4), 8192, 4
    for index, (norm, channels) in enumerate(zip(g.norms, [64, 64, 32, 16, 8, 8], strict=True)):
        x = batch_normed(x, norm.bias, epsilon=1e-5).clamp(min=0)
        noise = z[:, used : used + channels * size**2].view(2, channels, size, size)
        x, used = torch.cat([x, noise], dim=1), used + channels * size**2
        if index < 5:
            x = F.conv_transpose2d(x, g.blocks[index].weight.transpose(0, 1), stride=2, padding=2, output_padding=1)
            size *= 2
    assert used == config.z_dim
    expected = F.conv2d(x, g.output.weight, g.output.bias, padding=2).tanh()
    with torch.no_grad():
        assert torch.allclose(g(z, torch.zeros(2)), expected, atol=1e-4)


def test_the_discriminator_for_imagenet(generator):
    """Its real/fake logit depends on the learned logit of the class "generated", the last."""
    config = model_config(ImprovedImageNetConfig, num_classes=3, discriminator__minibatch_kernels=None)
    with torch.device("meta"):
        d = registry.FAMILIES["improved-imagenet"].discriminator(config)
    d = d.to_empty(device="cpu").eval()
    for layer in of_type(d, WeightNormLayer):
        nn.init.normal_(layer.weight, std=0.02, generator=generator)
    randomized(d, generator)
    *convs, dense, last = of_type(d, WeightNormLayer)
    x = image = torch.rand(2, 3, 128, 128, generator=generator) * 2 - 1
    for layer, stride in zip(convs, [2, 2, 2, 1, 1, 2, 2], strict=True):
        x = F.conv2d(x, normed(layer), layer.bias, stride, 1)
        x = torch.where(x > 0, x, 0.2 * x)
    x = x.flatten(1) @ normed(dense).T + dense.bias
    x = torch.where(x > 0, x, 0.2 * x)
    logits = x @ normed(last).T + last.bias
    with torch.no_grad():
        output = d(image, torch.zeros(2))
    assert torch.allclose(output.class_logits, logits, atol=1e-4)
    assert torch.allclose(output.logits, logits[:, :3].exp().sum(1).log() - logits[:, 3], atol=1e-4)
