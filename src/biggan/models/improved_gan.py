"""The networks of "Improved Techniques for Training GANs" (Salimans et al. 2016): perceptrons for MNIST, convolutions for
CIFAR-10 and SVHN.

Source: section 5 and the published code's tables (docs/papers/improved_gan.md, "Network and training tables"). They know no
class of what they draw: labels are looked at by nobody. D gives K class logits l; its score is log Z, Z = sum exp l, so that
D(x) = Z / (Z + 1) is the logistic function of the score (section 5). Departures of the published code from the paper (two
hidden layers in MNIST's G instead of five; narrower SVHN nets) are followed.

Shapes: N batch, Z latent, F features, K classes, R resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from biggan.nn import weight_norm
from biggan.nn.batch_norm import AffineNorm, BatchNorm, BiasOnlyNorm, FeatureNorm
from biggan.nn.embeddings import NoClassEmbedding
from biggan.nn.heads import ClassHead, DiscriminatorOutput
from biggan.nn.initialization import Initializer, glorot, initialize, normal_of
from biggan.nn.layers import Linear, TransposedConv2d
from biggan.nn.minibatch_discrimination import build_minibatch_discrimination
from biggan.nn.noise import GaussianNoise, NormalTable
from biggan.nn.reparametrization import Identity
from biggan.nn.virtual_batch_norm import VirtualBatchNorm, build_reference_batch
from biggan.runtime.errors import ConfigError

SLOPE = 0.2  # of the leaky ReLU

BASE_RESOLUTION = 4  # convolutional generators start at 4x4 pixels


@dataclass(frozen=True, kw_only=True)
class ImprovedConfig:
    """What both families share."""

    family: str
    resolution: int
    num_classes: int | None = None
    """None: found in the data."""
    latent_dim: int = 100
    """Size of z."""
    input_noise: float = 0.3
    """Deviation of the noise on D's images; 0: none."""
    minibatch_kernels: int | None = None
    """Features of minibatch discrimination; None: none."""
    minibatch_dimensions: int = 5
    """Of each of them."""
    generator_norm: Literal["batch", "virtual"] = "batch"
    """virtual: with the statistics of a fixed reference batch and the example itself."""
    reference_batch: int = 100
    """Images in that batch."""
    norm_epsilon: float = 1e-6

    def networks(self) -> tuple["Generator", "Discriminator"]:
        """Both, with weights not yet drawn."""
        raise NotImplementedError

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        """How the weights of both start."""
        raise NotImplementedError

    @property
    def gives_classes(self) -> bool:
        """Whether D gives class logits."""
        return True

    @property
    def z_dim(self) -> int:
        """Size of z as it is used."""
        return self.latent_dim

    def check(self) -> None:
        """Raises ConfigError where there is no such network."""
        for name in ("latent_dim", "num_classes", "minibatch_kernels", "minibatch_dimensions", "reference_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name}={value} must be at least 1")
        if not self.input_noise >= 0:
            raise ConfigError(f"model.input_noise={self.input_noise} must be at least 0")
        if not self.norm_epsilon > 0:
            raise ConfigError(f"model.norm_epsilon={self.norm_epsilon} must be above 0")


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ImprovedConfig):
    """Perceptrons that see an image as one row of grey values: nothing in them knows where a pixel is."""

    family: Literal["improved-mlp"] = "improved-mlp"
    resolution: int = 28
    """Height and width of an image in pixels."""
    generator_hidden: tuple[int, ...] = (500, 500)
    discriminator_hidden: tuple[int, ...] = (1000, 500, 250, 250, 250)
    noise: float = 0.5
    """Deviation of the noise after each hidden layer of D; 0: none."""

    def networks(self) -> tuple["Generator", "Discriminator"]:
        return mlp_generator(self), mlp_discriminator(self)

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return glorot, normal_of(0.1)

    def check(self) -> None:
        super().check()
        if not self.noise >= 0:
            raise ConfigError(f"model.noise={self.noise} must be at least 0")
        for name in ("generator_hidden", "discriminator_hidden"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise ConfigError(f"model.{name}={sizes} must be one size or more, each at least 1")
        if self.resolution < 1:
            raise ConfigError(f"model.resolution={self.resolution} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ConvConfig(ImprovedConfig):
    """Convolutions for 32 px."""

    family: Literal["improved-conv"] = "improved-conv"
    resolution: Literal[32] = 32
    width: int = 96
    """Channels of D's first three layers; the others have twice as many. 96 for CIFAR-10, 64 for SVHN."""
    generator_width: int = 512
    """Channels of G at 4x4 pixels, halved with each doubling of the size."""
    input_noise: float = 0.0
    input_dropout: float = 0.2
    """Share of D's input that is dropped."""
    dropout: float = 0.5
    """Share of D's activations dropped before each group of three layers but the first."""

    def networks(self) -> tuple["Generator", "Discriminator"]:
        return conv_generator(self), conv_discriminator(self)

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return normal_of(0.05), normal_of(0.05)

    def check(self) -> None:
        super().check()
        for name in ("width", "generator_width"):
            if getattr(self, name) < 4:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 4")
        for name in ("input_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 0 and below 1")


class Generator(nn.Module):
    """z (N, Z) -> images (N, 3, R, R) in [-1, 1], float32: `blocks` one after the other, then `finish`, which makes images
    of what they give. Classes are not looked at."""

    def __init__(self, config: ImprovedConfig, blocks: list[nn.Module], finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.finish = config, finish
        self.embedding = NoClassEmbedding()
        self.blocks = nn.ModuleList(blocks)
        self.reference = build_reference_batch(config)

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
    """Images (N, 3, R, R) in [-1, 1] -> Verdict: `blocks` one after the other, to features (N, F); noise; perhaps minibatch
    features; class logits. Classes of images are not looked at."""

    def __init__(self, config: ImprovedConfig, blocks: list[nn.Module], features: int, noise: nn.Module, std: float) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes is found before networks are built"
        self.config, self.noise = config, noise
        self.blocks = nn.ModuleList(blocks)
        self.minibatch, kernels = build_minibatch_discrimination(
            features, config.minibatch_kernels, config.minibatch_dimensions
        )
        last = weight_norm.linear(features + kernels, config.num_classes, init_std=std, learnable_scale=True)
        self.head = ClassHead(last)

    def forward(self, x: Tensor, y_N: Tensor, parts: int = 1) -> DiscriminatorOutput:
        """The batch consists of `parts` equal parts, which minibatch features keep apart."""
        for block in self.blocks:
            x = block(x)
        near = self.minibatch(x, parts)  # (N, kernels)
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
    sizes = (config.z_dim, *config.generator_hidden)
    for inputs, outputs in pairwise(sizes):
        linear = Linear(inputs, outputs, reparametrization=Identity, bias=False)
        blocks.append(nn.Sequential(linear, FeatureNorm(norm_of(config, outputs)), nn.Softplus()))  # (N, outputs)
    blocks.append(weight_norm.linear(sizes[-1], config.resolution**2, init_std=None, learnable_scale=True))  # (N, R R)
    return Generator(config, blocks, partial(grayscale_images, resolution=config.resolution))


def mlp_discriminator(config: MLPConfig) -> Discriminator:
    """For MNIST: ReLU, and noise before every layer; the features are those before the last noise."""
    table = NormalTable()
    noise = GaussianNoise(config.input_noise, table)
    blocks: list[nn.Module] = [GrayscaleRows()]  # (N, R R)
    sizes = (config.resolution**2, *config.discriminator_hidden)
    for inputs, outputs in pairwise(sizes):
        blocks.append(nn.Sequential(noise, weight_norm.linear(inputs, outputs), nn.ReLU()))  # (N, outputs)
        noise = GaussianNoise(config.noise, table)
    return Discriminator(config, blocks, sizes[-1], noise, 1.0)


def conv_generator(config: ConvConfig) -> Generator:
    """For CIFAR-10 and SVHN: ReLU and batch norm."""
    wide = config.generator_width
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
    width, leaky = config.width, nn.LeakyReLU(SLOPE)
    noise = GaussianNoise(config.input_noise, NormalTable())
    blocks: list[nn.Module] = [nn.Sequential(nn.Dropout(config.input_dropout), noise)]
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
            blocks.append(nn.Dropout(config.dropout))
    blocks.append(GlobalAveragePool())
    return Discriminator(config, blocks, 2 * width, nn.Identity(), 0.1)


class GlobalAveragePool(nn.Module):
    """(N, C, H, W) -> (N, C), float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), dtype=torch.float32)  # (N, C)


def norm_of(config: ImprovedConfig, channels: int) -> nn.Module:
    """A norm of the generator: batch norm with a bias and no gain, as published, or virtual batch norm with both."""
    if config.generator_norm == "batch":
        return BiasOnlyNorm(channels, normalize=BatchNorm(channels, epsilon=config.norm_epsilon))
    return AffineNorm(channels, normalize=VirtualBatchNorm(config.reference_batch, epsilon=config.norm_epsilon))


def build(config: ImprovedConfig, generator: torch.Generator) -> tuple[Generator, Discriminator]:
    """Both networks with freshly drawn weights, in training mode, float32 on the CPU; layers that start from data have not
    seen any."""
    networks = config.networks()
    for network, initializer in zip(networks, config.initializers, strict=True):
        initialize(network, initializer, generator)
    return networks
