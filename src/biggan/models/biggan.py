"""The BigGAN generator and discriminator (Brock, Donahue, Simonyan 2019, section 3 and appendix B).

Layer tables: spec 4a, which fits the paper's parameter counts (70.4M and 88.0M at 128 px); the tables printed in the paper
do not (spec 4b). Single-device mathematics: nothing here knows ranks, precision or optimisers.

Shapes: N batch, Z latent, E class embedding, K classes, F features, R resolution.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.errors import ConfigError
from biggan.nn.attention import SelfAttention
from biggan.nn.blocks import DiscriminatorBlock, GeneratorBlock
from biggan.nn.heads import ProjectionHead, Verdict
from biggan.nn.init import INITIALIZERS, Initializer, InitializerName, initialize
from biggan.nn.norm import BatchNorm
from biggan.nn.spectral import SpectralConv2d, SpectralLinear

CHUNK = 20  # size of one piece of z in the skip connections from z (appendix B)
BOTTOM = 4  # the generator starts at 4x4 pixels


class Layout(NamedTuple):
    """One row of spec 4a; widths in units of the base width, block outputs in order."""

    first: int  # width of the generator's 4x4 input
    generator: tuple[int, ...]  # each block doubles the size
    generator_attention: tuple[int, ...]  # after the block that arrives at this resolution
    discriminator: tuple[int, ...]
    downsampled: int  # that many blocks halve the size, the rest keep it
    discriminator_attention: tuple[int, ...]


# The spec gives no attention for 32 and 64 px. At 64 px we attend at 32x32, half the output size, as 128 px does.
LAYOUTS: dict[int, Layout] = {
    32: Layout(4, (4, 4, 4), (), (4, 4, 4, 4), 2, ()),
    64: Layout(16, (16, 8, 4, 2), (32,), (1, 2, 4, 8, 16), 4, (32,)),
    128: Layout(16, (16, 8, 4, 2, 1), (64,), (1, 2, 4, 8, 16, 16), 5, (64,)),
    256: Layout(16, (16, 8, 8, 4, 2, 1), (128,), (1, 2, 4, 8, 8, 16, 16), 6, (64,)),
    512: Layout(16, (16, 8, 8, 4, 2, 1, 1), (64,), (1, 1, 2, 4, 8, 8, 16, 16), 7, (64,)),
}


@dataclass(frozen=True, kw_only=True)
class BigGANConfig:
    """Both networks of one BigGAN."""

    family: Literal["biggan"] = "biggan"
    resolution: int = 128
    """Height and width of an image in pixels: 32, 64, 128, 256 or 512."""
    num_classes: int | None = None
    """None: found in the data."""
    width: int = 96
    """Base channel count "ch" of the generator."""
    discriminator_width: int | None = None
    """Base channel count of the discriminator; None: the same as the generator's."""
    skip_z: bool = True
    """Give each block its own chunk of 20 latents besides the class embedding; else z enters at the first layer only."""
    latent_dim: int | None = None
    """Size of z; None: 20 per chunk with skip_z (80, 100, 120, 140, 160 for 32 to 512 px), 128 without."""
    embedding_dim: int = 128
    """Size of the class embedding that all blocks of the generator share."""
    generator_attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the paper's."""
    discriminator_attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the paper's."""
    initialization: InitializerName = "orthogonal"
    norm_epsilon: float = 1e-4
    """Added to the variance in batch normalisation."""
    spectral_epsilon: float = 1e-4
    """Shortest length that a vector of the power iteration is divided by."""

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.resolution]

    @property
    def z_dim(self) -> int:
        """Size of z as it is used."""
        if self.latent_dim is not None:
            return self.latent_dim
        return CHUNK * (len(self.layout.generator) + 1) if self.skip_z else 128

    @property
    def d_width(self) -> int:
        """Base channel count of the discriminator as it is used."""
        return self.width if self.discriminator_width is None else self.discriminator_width

    def check(self) -> None:
        """Raises ConfigError where the family has no such network."""
        if self.resolution not in LAYOUTS:
            sizes = ", ".join(map(str, LAYOUTS))
            raise ConfigError(f"model.resolution={self.resolution}: the family {self.family!r} has {sizes}")
        for name in ("width", "discriminator_width", "embedding_dim", "latent_dim", "num_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name}={value} must be at least 1")
        for name in ("norm_epsilon", "spectral_epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be above 0")
        chunks = len(self.layout.generator) + 1
        if self.skip_z and self.z_dim % chunks:
            near = max(1, round(self.z_dim / chunks)) * chunks
            raise ConfigError(f"model.latent_dim={self.z_dim} is not divisible by the {chunks} chunks of skip-z: use {near}")
        places = {
            "generator_attention": (generator_attention(self), self.width),
            "discriminator_attention": (discriminator_attention(self), self.d_width),
        }
        for name, (wanted, width) in places.items():
            for resolution, channels in wanted.items():
                if channels < 8:
                    raise ConfigError(
                        f"model.{name}={resolution}: attention needs 8 channels there, width {width} gives {channels}"
                    )


def generator_attention(config: BigGANConfig) -> dict[int, int]:
    """{resolution: channels} of the generator's attention layers."""
    sizes = [BOTTOM * 2 ** (i + 1) for i in range(len(config.layout.generator))]
    channels = dict(zip(sizes, (width * config.width for width in config.layout.generator), strict=True))
    wanted = config.layout.generator_attention if config.generator_attention is None else config.generator_attention
    return chosen("generator_attention", wanted, channels)


def discriminator_attention(config: BigGANConfig) -> dict[int, int]:
    """{resolution: channels} of the discriminator's attention layers."""
    layout = config.layout
    halvings = range(1, layout.downsampled + 1)
    channels = {config.resolution >> i: layout.discriminator[i - 1] * config.d_width for i in halvings}
    wanted = layout.discriminator_attention if config.discriminator_attention is None else config.discriminator_attention
    return chosen("discriminator_attention", wanted, channels)


def chosen(name: str, wanted: tuple[int, ...], channels: dict[int, int]) -> dict[int, int]:
    """The wanted entries of `channels`. Raises ConfigError for a resolution that the network does not pass through."""
    for resolution in wanted:
        if resolution not in channels:
            raise ConfigError(f"model.{name}={resolution}: the network passes through {sorted(channels)}")
    return {resolution: channels[resolution] for resolution in wanted}


class Generator(nn.Module):
    """z (N, Z) and classes (N,) -> images (N, 3, R, R) in [-1, 1], float32."""

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        assert config.num_classes is not None, "num_classes is found before networks are built"
        layout, width = config.layout, config.width
        blocks = len(layout.generator)
        self.chunk = config.z_dim // (blocks + 1) if config.skip_z else None
        condition = config.embedding_dim + (self.chunk or 0)
        first = layout.first * width

        # No spectral normalisation on the shared embedding: it cripples G (spec section 2).
        self.embedding = SharedEmbedding(config.num_classes, config.embedding_dim)
        self.linear = SpectralLinear(self.chunk or config.z_dim, BOTTOM**2 * first, epsilon=config.spectral_epsilon)
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        epsilons = {"norm_epsilon": config.norm_epsilon, "epsilon": config.spectral_epsilon}
        inputs = first
        for outputs in (multiple * width for multiple in layout.generator):
            self.blocks.append(GeneratorBlock(inputs, outputs, condition, **epsilons))
            inputs = outputs
        for resolution, channels in generator_attention(config).items():
            self.attention[str(resolution)] = SelfAttention(channels, epsilon=config.spectral_epsilon)
        self.output_norm = BatchNorm(inputs, epsilon=config.norm_epsilon)
        self.output_conv = SpectralConv2d(inputs, 3, 3, epsilon=config.spectral_epsilon)

    def embed(self, y_N: Tensor) -> Tensor:
        """Class numbers (N,) int64 -> class embeddings (N, E). Blends of classes are blends of these."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents and class embeddings -> images (N, 3, R, R) in [-1, 1]."""
        if self.chunk is None:
            first, conditions = z_NZ, [e_NE] * len(self.blocks)
        else:
            first, *chunks = z_NZ.split(self.chunk, dim=1)  # blocks + 1 pieces of (N, 20)
            conditions = [torch.cat([e_NE, chunk], dim=1) for chunk in chunks]  # each (N, E + 20)
        x = self.linear(first)  # (N, 4 4 16ch)
        x = x.unflatten(1, (-1, BOTTOM, BOTTOM))  # (N, 16ch, 4, 4)
        x = x.contiguous(memory_format=memory_format_of(self.output_conv.weight))
        for block, condition in zip(self.blocks, conditions, strict=True):
            x = block(x, condition)  # (N, C, 2H, 2W)
            if str(x.shape[-1]) in self.attention:
                x = self.attention[str(x.shape[-1])](x)  # (N, C, H, W)
        x = F.relu(self.output_norm(x))  # (N, ch, R, R)
        x = self.output_conv(x)  # (N, 3, R, R)
        return torch.tanh(x.float())  # (N, 3, R, R)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, R, R)


class SharedEmbedding(nn.Module):
    """One table of class vectors for all conditional layers: (N,) int64 -> (N, E)."""

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension))

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the table anew; mutates the layer."""
        initializer(self.weight, generator)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.weight)  # (N, E)


class Discriminator(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] and classes (N,) -> Verdict."""

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        assert config.num_classes is not None, "num_classes is found before networks are built"
        layout, width = config.layout, config.d_width
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        inputs = 3
        for index, outputs in enumerate(multiple * width for multiple in layout.discriminator):
            self.blocks.append(
                DiscriminatorBlock(
                    inputs,
                    outputs,
                    downsample=index < layout.downsampled,
                    preactivation=index > 0,
                    epsilon=config.spectral_epsilon,
                )
            )
            inputs = outputs
        for resolution, channels in discriminator_attention(config).items():
            self.attention[str(resolution)] = SelfAttention(channels, epsilon=config.spectral_epsilon)
        self.head = ProjectionHead(inputs, config.num_classes, epsilon=config.spectral_epsilon)

    def forward(self, x: Tensor, y_N: Tensor) -> Verdict:
        for index, block in enumerate(self.blocks):
            x = block(x)  # (N, C, H/2, W/2) or (N, C, H, W)
            if index < self.config.layout.downsampled and str(x.shape[-1]) in self.attention:
                x = self.attention[str(x.shape[-1])](x)  # (N, C, H, W)
        return self.head(x, y_N)


def memory_format_of(weight: Tensor) -> torch.memory_format:
    """The layout in which the caller has put the convolution weights, and so wants the activations."""
    channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def build(config: BigGANConfig, generator: torch.Generator) -> tuple[Generator, Discriminator]:
    """Both networks with freshly drawn weights, in training mode, float32 on the CPU."""
    networks = Generator(config), Discriminator(config)
    for network in networks:
        initialize(network, INITIALIZERS[config.initialization], generator)
    return networks
