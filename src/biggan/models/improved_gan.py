"""The networks of "Improved Techniques for Training GANs" (Salimans et al. 2016): perceptrons for MNIST, convolutions for
CIFAR-10 and SVHN.

Source: section 5 and the published code's tables (docs/papers/improved_gan.md, "Network and training tables"). They know no
class of what they draw: labels are looked at by nobody. D gives K class logits l; its score is log Z, Z = sum exp l, so that
D(x) = Z / (Z + 1) is the logistic function of the score (section 5). Departures of the published code from the paper (two
hidden layers in MNIST's G instead of five; narrower SVHN nets) are followed.

Shapes: N batch, Z latent, F features, K classes, R resolution.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from biggan.models.improved_gan_config import ConvConfig, ImprovedGANConfig, MLPConfig
from biggan.nn import weight_norm
from biggan.nn.batch_norm import AffineNorm, BatchNorm, BiasOnlyNorm, FeatureNorm
from biggan.nn.embeddings import NoClassEmbedding
from biggan.nn.heads import ClassHead, DiscriminatorOutput
from biggan.nn.initialization import initialize
from biggan.nn.layers import Linear, TransposedConv2d
from biggan.nn.minibatch_discrimination import build_minibatch_discrimination
from biggan.nn.noise import GaussianNoise, NormalTable
from biggan.nn.reparametrization import Identity
from biggan.nn.virtual_batch_norm import VirtualBatchNorm, build_reference_batch

SLOPE = 0.2  # of the leaky ReLU

BASE_RESOLUTION = 4  # convolutional generators start at 4x4 pixels


class Generator(nn.Module):
    """z (N, Z) -> images (N, 3, R, R) in [-1, 1], float32: `blocks` one after the other, then `finish`, which makes images
    of what they give. Classes are ignored."""

    def __init__(self, config: ImprovedGANConfig, blocks: list[nn.Module], finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.finish = config, finish
        self.embedding = NoClassEmbedding()
        self.blocks = nn.ModuleList(blocks)
        self.reference = build_reference_batch(config.generator, config.z_dim)

    def embed(self, y_N: Tensor) -> Tensor:
        """Nothing of a class: (N,) int64 -> (N, 0)."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents -> images (N, 3, R, R) in [-1, 1]."""
        x, _ = self.reference.prepend_reference(z_NZ, e_NE, self.embed)
        for block in self.blocks:
            x = block(x)
        return self.finish(self.reference.drop_reference(x.float()))  # (N, 3, R, R)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, R, R)


class Discriminator(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] -> DiscriminatorOutput: `blocks` one after the other, to features (N, F); noise;
    perhaps minibatch features; class logits. Classes of images are ignored."""

    def __init__(
        self, config: ImprovedGANConfig, blocks: list[nn.Module], features: int, noise: nn.Module, std: float
    ) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes is found before networks are built"
        self.config, self.noise = config, noise
        self.blocks = nn.ModuleList(blocks)
        self.minibatch, kernels = build_minibatch_discrimination(
            features, config.discriminator.minibatch_kernels, config.discriminator.minibatch_kernel_dim
        )
        last = weight_norm.linear(features + kernels, config.num_classes, init_std=std, learnable_scale=True)
        self.head = ClassHead(last)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        """The batch consists of `groups` equal groups, which minibatch features keep apart."""
        for block in self.blocks:
            x = block(x)
        near = self.minibatch(x, groups)  # (N, kernels)
        return self.head(x, torch.cat([self.noise(x), near.to(x.dtype)], dim=1))


class GrayscaleRows(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] -> rows (N, R R) in [0, 1], the mean of their channels."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1).flatten(1) + 1) / 2  # (N, R R)


def grayscale_images(x: Tensor, resolution: int) -> Tensor:
    """Rows (N, R R) of logits -> images (N, 3, R, R) in [-1, 1], all channels alike."""
    return (2 * torch.sigmoid(x) - 1).view(-1, 1, resolution, resolution).expand(-1, 3, -1, -1)


def mlp_generator(config: MLPConfig) -> Generator:
    """For MNIST: softplus and batch norm."""
    blocks: list[nn.Module] = []
    sizes = (config.z_dim, *config.generator.hidden)
    for inputs, outputs in pairwise(sizes):
        linear = Linear(inputs, outputs, reparametrization=Identity, bias=False)
        blocks.append(nn.Sequential(linear, FeatureNorm(norm_of(config, outputs)), nn.Softplus()))  # (N, outputs)
    blocks.append(weight_norm.linear(sizes[-1], config.resolution**2, init_std=None, learnable_scale=True))  # (N, R R)
    return Generator(config, blocks, partial(grayscale_images, resolution=config.resolution))


def mlp_discriminator(config: MLPConfig) -> Discriminator:
    """For MNIST: ReLU, and noise before every layer; the features are those before the last noise."""
    table = NormalTable()
    noise = GaussianNoise(config.discriminator.input_noise, table)
    blocks: list[nn.Module] = [GrayscaleRows()]  # (N, R R)
    sizes = (config.resolution**2, *config.discriminator.hidden)
    for inputs, outputs in pairwise(sizes):
        blocks.append(nn.Sequential(noise, weight_norm.linear(inputs, outputs), nn.ReLU()))  # (N, outputs)
        noise = GaussianNoise(config.discriminator.noise, table)
    return Discriminator(config, blocks, sizes[-1], noise, 1.0)


def conv_generator(config: ConvConfig) -> Generator:
    """For CIFAR-10 and SVHN: ReLU and batch norm."""
    wide = config.generator.width
    first = Linear(config.z_dim, wide * BASE_RESOLUTION**2, reparametrization=Identity, bias=False)
    rows = FeatureNorm(norm_of(config, wide * BASE_RESOLUTION**2))  # each number of the 4x4 map has its own statistics
    blocks: list[nn.Module] = [
        nn.Sequential(first, rows, nn.ReLU(), nn.Unflatten(1, (wide, BASE_RESOLUTION, BASE_RESOLUTION)))
    ]
    for inputs, outputs in ((wide, wide // 2), (wide // 2, wide // 4)):
        up = TransposedConv2d(inputs, outputs, 5, reparametrization=Identity, bias=False)
        blocks.append(nn.Sequential(up, norm_of(config, outputs), nn.ReLU()))  # (N, C, 2H, 2W)
    blocks.append(weight_norm.conv_transpose2d(wide // 4, 3, 5, init_std=0.1, learnable_scale=True))  # (N, 3, 32, 32)
    return Generator(config, blocks, torch.tanh)


def conv_discriminator(config: ConvConfig) -> Discriminator:
    """For CIFAR-10 and SVHN: leaky ReLU, dropout, and a mean over pixels, which gives the features."""
    width, leaky = config.discriminator.width, nn.LeakyReLU(SLOPE)
    noise = GaussianNoise(config.discriminator.input_noise, NormalTable())
    blocks: list[nn.Module] = [nn.Sequential(nn.Dropout(config.discriminator.input_dropout), noise)]
    for inputs, outputs, kernel, stride, padding in (
        (3, width, 3, 1, 1),
        (width, width, 3, 1, 1),
        (width, width, 3, 2, 1),  # 16x16
        (width, 2 * width, 3, 1, 1),
        (2 * width, 2 * width, 3, 1, 1),
        (2 * width, 2 * width, 3, 2, 1),  # 8x8
        (2 * width, 2 * width, 3, 1, 0),  # 6x6
        (2 * width, 2 * width, 1, 1, 0),
        (2 * width, 2 * width, 1, 1, 0),
    ):
        blocks.append(nn.Sequential(weight_norm.conv2d(inputs, outputs, kernel, stride=stride, padding=padding), leaky))
        if stride == 2:
            blocks.append(nn.Dropout(config.discriminator.dropout))
    blocks.append(GlobalAveragePool())
    return Discriminator(config, blocks, 2 * width, nn.Identity(), 0.1)


class GlobalAveragePool(nn.Module):
    """(N, C, H, W) -> (N, C), float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), dtype=torch.float32)  # (N, C)


def norm_of(config: ImprovedGANConfig, channels: int) -> nn.Module:
    """A norm of the generator: batch norm with a bias and no gain, as published, or virtual batch norm with both."""
    if config.generator.norm == "batch":
        return BiasOnlyNorm(channels, normalize=BatchNorm(channels, epsilon=config.norm_epsilon))
    return AffineNorm(
        channels, normalize=VirtualBatchNorm(config.generator.reference_batch_size, epsilon=config.norm_epsilon)
    )


FAMILIES = {
    "improved-mlp": (mlp_generator, mlp_discriminator),
    "improved-conv": (conv_generator, conv_discriminator),
}


def build(config: ImprovedGANConfig, generator: torch.Generator) -> tuple[Generator, Discriminator]:
    """Both networks with freshly drawn weights, in training mode, float32 on the CPU; layers that start from data have not
    seen any."""
    make_generator, make_discriminator = FAMILIES[config.family]
    networks = make_generator(config), make_discriminator(config)
    for network, initializer in zip(networks, config.initializers, strict=True):
        initialize(network, initializer, generator)
    return networks
