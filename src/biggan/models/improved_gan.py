"""The MNIST, CIFAR-10 and SVHN networks of "Improved Techniques for Training GANs" (Salimans et al. 2016): MLPs for
MNIST, convolutional networks for CIFAR-10 and SVHN.

Source: section 5 and the published code (docs/papers/improved_gan.md, "Network and training tables"). Where the published
code differs from the paper (two hidden layers in the MNIST generator instead of five; narrower SVHN networks), the code is
followed. The networks are unconditional: neither has the class as input. The discriminator outputs K class logits l; its
real/fake logit is log Z with Z = sum exp l, so that D(x) = Z / (Z + 1) is its sigmoid (section 5).

Shapes: N batch, Z latent, F features, K classes, R resolution.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from biggan.models.improved_gan_config import ConvConfig, ImprovedGANConfig, MLPConfig
from biggan.models.layer_factory import generator_normalization
from biggan.models.resnet_config import BASE_RESOLUTION
from biggan.nn import data_dependent_weight_norm as weight_norm
from biggan.nn.batch_norm import AffineNorm, BiasOnlyNorm, FeatureNorm
from biggan.nn.embeddings import NoClassEmbedding
from biggan.nn.heads import ClassHead, DiscriminatorOutput
from biggan.nn.layers import Linear, TransposedConv2d
from biggan.nn.minibatch_discrimination import build_minibatch_discrimination
from biggan.nn.noise import GaussianNoise, NormalTable
from biggan.nn.reparametrization import Identity
from biggan.nn.virtual_batch_norm import build_reference_batch

LEAKY_RELU_SLOPE = 0.2


class Generator(nn.Module):
    """Unconditional generator: z (N, Z) -> images (N, 3, R, R) in [-1, 1], float32. The class is ignored.

    `blocks` are applied in sequence; `to_images` maps the output of the last to images."""

    def __init__(self, config: ImprovedGANConfig, blocks: list[nn.Module], to_images: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.to_images = config, to_images
        self.embedding = NoClassEmbedding()
        self.blocks = nn.ModuleList(blocks)
        self.reference = build_reference_batch(config.generator, config.z_dim)

    def embed(self, y_N: Tensor) -> Tensor:
        """Empty class embeddings: (N,) int64 -> (N, 0)."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents (N, Z) and empty class embeddings (N, 0) -> images (N, 3, R, R) in [-1, 1]."""
        x, _ = self.reference.prepend_reference(z_NZ, e_NE, self.embed)
        for block in self.blocks:
            x = block(x)  # (N, F) or (N, C, H, W)
        return self.to_images(self.reference.drop_reference(x.float()))  # (N, 3, R, R)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, R, R)


class Discriminator(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] -> DiscriminatorOutput with K class logits. The class of an image is no input.

    `blocks` are applied in sequence and give `features` features. `noise` is applied to the features before the last layer,
    which also gets minibatch features if the config has them. `init_std`: standard deviation of the class logits after
    data-dependent initialization."""

    def __init__(
        self, config: ImprovedGANConfig, blocks: list[nn.Module], features: int, noise: nn.Module, init_std: float
    ) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes must be known before networks are built"
        self.config, self.noise = config, noise
        self.blocks = nn.ModuleList(blocks)
        self.minibatch, kernels = build_minibatch_discrimination(
            features, config.discriminator.minibatch_kernels, config.discriminator.minibatch_kernel_dim
        )
        linear = weight_norm.linear(features + kernels, config.num_classes, init_std=init_std, learnable_scale=True)
        self.head = ClassHead(linear)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        """The batch consists of `groups` equal groups, such as real and generated images; minibatch discrimination compares
        images within their group only."""
        for block in self.blocks:
            x = block(x)  # (N, C, H, W) or (N, F), at last (N, F)
        similarities = self.minibatch(x, groups)  # (N, kernels)
        return self.head(x, torch.cat([self.noise(x), similarities.to(x.dtype)], dim=1))


class FlattenGrayscale(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] -> flattened gray values (N, R R) in [0, 1], the mean of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1).flatten(1) + 1) / 2  # (N, R R)


def logits_to_grayscale(x: Tensor, resolution: int) -> Tensor:
    """Logits (N, R R) -> images (N, 3, R, R) in [-1, 1] with three equal channels."""
    return (2 * torch.sigmoid(x) - 1).view(-1, 1, resolution, resolution).expand(-1, 3, -1, -1)


def mlp_generator(config: MLPConfig) -> Generator:
    """MNIST generator: an MLP with softplus and batch normalization."""
    blocks: list[nn.Module] = []
    sizes = (config.z_dim, *config.generator.hidden)
    for inputs, outputs in pairwise(sizes):
        linear = Linear(inputs, outputs, reparametrization=Identity, bias=False)
        blocks.append(nn.Sequential(linear, FeatureNorm(build_norm(config, outputs)), nn.Softplus()))  # (N, outputs)
    blocks.append(weight_norm.linear(sizes[-1], config.resolution**2, init_std=None, learnable_scale=True))  # (N, R R)
    return Generator(config, blocks, partial(logits_to_grayscale, resolution=config.resolution))


def mlp_discriminator(config: MLPConfig) -> Discriminator:
    """MNIST discriminator: an MLP with ReLU and Gaussian noise before every layer. The features are the output of the
    last hidden layer, without noise."""
    table = NormalTable()
    noise = GaussianNoise(config.discriminator.input_noise, table)
    blocks: list[nn.Module] = [FlattenGrayscale()]  # (N, R R)
    sizes = (config.resolution**2, *config.discriminator.hidden)
    for inputs, outputs in pairwise(sizes):
        blocks.append(nn.Sequential(noise, weight_norm.linear(inputs, outputs), nn.ReLU()))  # (N, outputs)
        noise = GaussianNoise(config.discriminator.noise, table)
    return Discriminator(config, blocks, sizes[-1], noise, 1.0)


def conv_generator(config: ConvConfig) -> Generator:
    """CIFAR-10 and SVHN generator: transposed convolutions with ReLU and batch normalization."""
    width = config.generator.width
    linear = Linear(config.z_dim, width * BASE_RESOLUTION**2, reparametrization=Identity, bias=False)
    norm = FeatureNorm(build_norm(config, width * BASE_RESOLUTION**2))  # separate statistics for each of the 4x4 pixels
    blocks: list[nn.Module] = [
        nn.Sequential(linear, norm, nn.ReLU(), nn.Unflatten(1, (width, BASE_RESOLUTION, BASE_RESOLUTION)))
    ]
    for inputs, outputs in ((width, width // 2), (width // 2, width // 4)):
        up = TransposedConv2d(inputs, outputs, 5, reparametrization=Identity, bias=False)
        blocks.append(nn.Sequential(up, build_norm(config, outputs), nn.ReLU()))  # (N, C, 2H, 2W)
    blocks.append(weight_norm.conv_transpose2d(width // 4, 3, 5, init_std=0.1, learnable_scale=True))  # (N, 3, 32, 32)
    return Generator(config, blocks, torch.tanh)


def conv_discriminator(config: ConvConfig) -> Discriminator:
    """CIFAR-10 and SVHN discriminator: convolutions with leaky ReLU and dropout. Features: global average pooling."""
    width, activation = config.discriminator.width, nn.LeakyReLU(LEAKY_RELU_SLOPE)
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
        conv = weight_norm.conv2d(inputs, outputs, kernel, stride=stride, padding=padding)
        blocks.append(nn.Sequential(conv, activation))
        if stride == 2:
            blocks.append(nn.Dropout(config.discriminator.dropout))
    blocks.append(GlobalAveragePool())
    return Discriminator(config, blocks, 2 * width, nn.Identity(), 0.1)


class GlobalAveragePool(nn.Module):
    """Mean over pixels: (N, C, H, W) -> (N, C), float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), dtype=torch.float32)  # (N, C)


def build_norm(config: ImprovedGANConfig, channels: int) -> nn.Module:
    """A norm of the generator: batch normalization with bias and without gain, as published, or virtual batch normalization
    with both."""
    norm = BiasOnlyNorm if config.generator.norm == "batch" else AffineNorm
    return norm(channels, normalize=generator_normalization(config, channels))
