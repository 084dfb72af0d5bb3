"""The 128 px ImageNet networks of "Improved Techniques for Training GANs" (Salimans et al. 2016): a generator with virtual
batch normalization and noise channels at every resolution, a discriminator with minibatch discrimination and K + 1 class
logits.

Source: section 6.4 and the published code (docs/papers/improved_gan.md, "ImageNet configuration"). The noise of all stages
is part of z, so that z alone determines an image.

DEVIATION from the published code: D's layers are weight-normalized with data-dependent initialization, as in the other
networks of the paper, instead of batch-normalized with the statistics of the real images for half of the channels and of the
generated images for the other half, because a batch of generated images alone does not have both. Minibatch discrimination
compares real with real and generated with generated images, as the paper's text says (the code compares each image with
both), and sums over images.

Shapes: N batch, Z latent, C channels, K classes, H W pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from biggan.models.improved_gan import LEAKY_RELU_SLOPE
from biggan.models.improved_gan_config import ImprovedDiscriminatorConfig, ImprovedGANConfig, ImprovedGeneratorConfig
from biggan.models.layer_factory import generator_normalization
from biggan.nn import data_dependent_weight_norm as weight_norm
from biggan.nn.batch_norm import AffineNorm
from biggan.nn.embeddings import NoClassEmbedding
from biggan.nn.heads import DiscriminatorOutput, KPlusOneClassHead
from biggan.nn.initialization import Initializer, normal_with_std
from biggan.nn.layers import Linear, TransposedConv2d
from biggan.nn.minibatch_discrimination import build_minibatch_discrimination
from biggan.nn.noise import GaussianNoise, NormalTable
from biggan.nn.reparametrization import Identity
from biggan.nn.virtual_batch_norm import build_reference_batch
from biggan.runtime.constraints import LayerSize, NonNegativeFloat, PositiveFloat

INPUT_LATENT_DIM = 8192  # size of the part of z that enters the first layer

# Channels and noise channels at 4x4, 8x8, ... 128x128.
STAGES = ((512, 64), (256, 64), (128, 32), (64, 16), (64, 8), (64, 8))

NOISE_DIMS = [noise * (4 << index) ** 2 for index, (_, noise) in enumerate(STAGES)]  # size of each stage's part of z

OUTPUT_BIAS = -0.45  # initial bias of the last layer


@dataclass(frozen=True, kw_only=True)
class ImageNetGeneratorConfig(ImprovedGeneratorConfig):
    """Norm of the ImageNet generator."""

    norm: Literal["batch", "virtual"] = "virtual"
    reference_batch_size: LayerSize = 64


@dataclass(frozen=True, kw_only=True)
class ImageNetDiscriminatorConfig(ImprovedDiscriminatorConfig):
    """Input noise and minibatch discrimination of the ImageNet discriminator."""

    input_noise: NonNegativeFloat = 0.1
    minibatch_kernels: LayerSize | None = 300
    minibatch_kernel_dim: LayerSize = 50


@dataclass(frozen=True, kw_only=True)
class ImprovedImageNetConfig(ImprovedGANConfig):
    """Generator and discriminator for ImageNet at 128 px."""

    family: Literal["improved-imagenet"] = "improved-imagenet"
    resolution: Literal[128] = 128
    latent_dim: Literal[201728] = 201728
    """Size of z: 8192 numbers for the first layer, followed by the noise of all stages."""
    norm_epsilon: PositiveFloat = 1e-5
    generator: ImageNetGeneratorConfig = ImageNetGeneratorConfig()
    discriminator: ImageNetDiscriminatorConfig = ImageNetDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return normal_with_std(0.02), normal_with_std(0.02)


class Generator(nn.Module):
    """Unconditional generator: z (N, Z) -> images (N, 3, 128, 128) in [-1, 1], float32. The class is ignored."""

    def __init__(self, config: ImprovedImageNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = NoClassEmbedding()
        self.reference = build_reference_batch(config.generator, config.z_dim)
        self.linear = Linear(INPUT_LATENT_DIM, 16 * STAGES[0][0], reparametrization=Identity, bias=False)
        self.norms = nn.ModuleList(
            AffineNorm(channels, normalize=generator_normalization(config, channels)) for channels, _ in STAGES
        )
        self.blocks = nn.ModuleList(
            TransposedConv2d(channels + noise, next_channels, 5, reparametrization=Identity, bias=False)
            for (channels, noise), (next_channels, _) in pairwise(STAGES)
        )
        self.output = OutputConv(sum(STAGES[-1]))

    def embed(self, y_N: Tensor) -> Tensor:
        """Empty class embeddings: (N,) int64 -> (N, 0)."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents (N, Z) and empty class embeddings (N, 0) -> images (N, 3, 128, 128) in [-1, 1]."""
        z, _ = self.reference.prepend_reference(z_NZ, e_NE, self.embed)
        inputs, *noises = z.split([INPUT_LATENT_DIM, *NOISE_DIMS], dim=1)
        x = self.linear(inputs).unflatten(1, (-1, 4, 4))  # (N, 512, 4, 4)
        for index, (norm, noise) in enumerate(zip(self.norms, noises, strict=True)):
            x = torch.relu(norm(x))  # (N, C, H, W)
            x = torch.cat([x, noise.unflatten(1, (-1, *x.shape[2:])).to(x.dtype)], dim=1)  # (N, C + noise, H, W)
            if index < len(self.blocks):
                x = self.blocks[index](x)  # (N, C', 2H, 2W)
        x = self.output(self.reference.drop_reference(x))  # (N, 3, 128, 128)
        return torch.tanh(x.float())  # (N, 3, 128, 128)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, 128, 128)


class OutputConv(nn.Conv2d):
    """5x5 convolution to 3 channels: (N, I, H, W) -> (N, 3, H, W)."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 3, 5, padding=2)

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Draw the weight from a normal distribution with standard deviation 0.075; set the bias to OUTPUT_BIAS. Mutates the
        layer; ignores `initializer`."""
        normal_with_std(0.075)(self.weight, rng)
        nn.init.constant_(self.bias, OUTPUT_BIAS)


class Discriminator(nn.Module):
    """Images (N, 3, 128, 128) in [-1, 1] -> DiscriminatorOutput with K + 1 class logits, the last of which is for generated
    images. The class of an image is no input."""

    def __init__(self, config: ImprovedImageNetConfig) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes must be known before networks are built"
        self.config = config
        self.noise = GaussianNoise(config.discriminator.input_noise, NormalTable())
        activation, blocks, inputs = nn.LeakyReLU(LEAKY_RELU_SLOPE), [], 3
        for outputs, stride in ((64, 2), (128, 2), (256, 2), (256, 1), (256, 1), (512, 2), (512, 2)):
            blocks.append(nn.Sequential(weight_norm.conv2d(inputs, outputs, 3, stride=stride, padding=1), activation))
            inputs = outputs
        blocks.append(nn.Sequential(nn.Flatten(), weight_norm.linear(8192, 2560), activation))
        self.blocks = nn.ModuleList(blocks)
        self.minibatch, kernels = build_minibatch_discrimination(
            2560, config.discriminator.minibatch_kernels, config.discriminator.minibatch_kernel_dim
        )
        self.head = KPlusOneClassHead(
            weight_norm.linear(2560 + kernels, config.num_classes + 1, init_std=0.1, learnable_scale=True)
        )

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        """The batch consists of `groups` equal groups, such as real and generated images; minibatch discrimination compares
        images within their group only."""
        x = self.noise(x)  # (N, 3, 128, 128)
        for block in self.blocks:
            x = block(x)  # (N, C, H, W), at last (N, 2560)
        similarities = self.minibatch(x, groups)  # (N, kernels)
        return self.head(x, torch.cat([x, similarities.to(x.dtype)], dim=1))
