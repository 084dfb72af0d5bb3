"""What the papers varied, as one config for every residual family: BigGAN, BigGAN-deep, SA-GAN, SN-GAN.

A family subclasses `ResNetConfig` with its own defaults and its table of layers (models/biggan, models/biggan_deep); how
each choice becomes layers is in models/layer_factory. Sources: BigGAN appendices B, H and I."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge
from torch import nn

from biggan.nn.initialization import InitializerName
from biggan.nn.layers import Interpolation
from biggan.nn.residual_blocks import LayerFactory
from biggan.runtime.constraints import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Remedy, check_fields
from biggan.runtime.errors import ConfigError

SKIP_Z_CHUNK = 20  # size of one piece of z in the skip connections from z (appendix B)

BASE_RESOLUTION = 4  # the generator starts at 4x4 pixels

KernelSize = Literal[3, 5, 7]


class Stage(NamedTuple):
    """The blocks that work at one resolution: (inputs, outputs, whether it resamples) of each, and attention after them."""

    resolution: int
    """Height and width after the stage."""
    blocks: tuple[tuple[int, int, bool], ...]
    attention: bool

    @property
    def outputs(self) -> int:
        return self.blocks[-1][1]


@dataclass(frozen=True, kw_only=True)
class ResNetGeneratorConfig:
    """What the papers varied in the generator."""

    kernel_size: KernelSize = 3
    """Of the 3x3 convolutions of its blocks, when they are not 3x3."""
    dilation: PositiveInt = 1
    """Spacing of the taps of those kernels."""
    upsampling: Interpolation = "nearest"
    """How an image is enlarged between resolutions."""
    reparametrization: Literal["spectral", "weight-norm", "plain"] = "spectral"
    """Of every weight: spectral normalization (SA-GAN, BigGAN), weight normalization, or none (SN-GAN)."""
    norm: Literal["batch", "virtual", "none"] = "batch"
    """virtual: with the statistics of a fixed reference batch and the example itself. none: the conditional gains and
    biases act on the activations as they are."""
    reference_batch_size: PositiveInt = 100
    """Images in the reference batch of virtual batch norm."""
    attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the family's own."""
    output_channels: Annotated[int, Ge(3), Remedy("three make the image")] | None = 3
    """Outputs of the last convolution, of which the first 3 are the image; None: the width."""


@dataclass(frozen=True, kw_only=True)
class ResNetDiscriminatorConfig:
    """What the papers varied in the discriminator. Its weights are always spectrally normalized."""

    width: PositiveInt | None = None
    """Base channel count; None: the generator's."""
    kernel_size: KernelSize = 3
    """Of the 3x3 convolutions of its blocks, when they are not 3x3."""
    dilation: PositiveInt = 1
    """Spacing of the taps of those kernels."""
    norm: Literal["none", "batch", "conditional-batch"] = "none"
    """Statistics are those of the batch at hand: generated and real together in D's step, generated alone in G's."""
    head: Literal["projection", "classes"] = "projection"
    """projection: one logit, conditional on the class; classes: class logits, and a real/fake logit from them, as
    semi-supervised learning needs it; D then ignores the class."""
    dropout: Fraction = 0.0
    """Share of its last features dropped in training; 0: none."""
    attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the family's own."""
    minibatch_kernels: PositiveInt | None = None
    """Features of minibatch discrimination beside the last features; None: none."""
    minibatch_kernel_dim: PositiveInt = 5
    """Dimensions of each of those features."""


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Both networks of one model."""

    family: str
    resolution: int = 128
    """Height and width of an image in pixels: 32, 64, 128, 256 or 512."""
    num_classes: PositiveInt | None = None
    """None: found in the data."""
    width: PositiveInt = 96
    """Base channel count "ch" of the generator."""
    class_embedding: Literal["shared", "shared-with-discriminator", "per-class"] = "shared"
    """What conditions the generator's norms: maps of one class embedding (its table may be D's too), or a table in each."""
    embedding_dim: PositiveInt = 128
    """Size of the shared class embedding."""
    latent_injection: Literal["input", "chunks", "whole"] = "chunks"
    """Where z enters: the first layer only; that and each stage in its own chunk (skip-z); or whole, with the class,
    everywhere."""
    latent_dim: PositiveInt | None = None
    """Size of z; None: 20 per chunk (80, 100, 120, 140, 160 for 32 to 512 px), else 128."""
    conditioning: Literal["linear", "mlp"] = "linear"
    """Maps from the condition to gains and biases: linear, or with one hidden layer."""
    extra_blocks: NonNegativeInt = 0
    """Further residual blocks after each one that doubles or halves the size (before it in deep generators)."""
    initialization: InitializerName = "orthogonal"
    """Of every weight: orthogonal (BigGAN), normal N(0, 0.02), glorot (SA-GAN), glorot-residual (SN-GAN)."""
    norm_epsilon: PositiveFloat = 1e-4
    """Added to the variance in batch normalization."""
    spectral_norm_epsilon: PositiveFloat = 1e-4
    """Shortest length that a vector of the power iteration is divided by."""
    generator: ResNetGeneratorConfig = ResNetGeneratorConfig()
    discriminator: ResNetDiscriminatorConfig = ResNetDiscriminatorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sizes that the family has layers for."""
        raise NotImplementedError

    def generator_stages(self) -> list[Stage]:
        """Stages from 4x4 pixels to the image."""
        raise NotImplementedError

    def discriminator_stages(self) -> list[Stage]:
        """Stages from the image to 4x4 pixels (8x8 for 32 px)."""
        raise NotImplementedError

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        """A residual block of the family."""
        raise NotImplementedError

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        """A residual block of the family; `first` is true for the one that sees the image."""
        raise NotImplementedError

    @property
    def stem(self) -> int | None:
        """Outputs of a convolution in front of D's blocks; None: there is none."""
        return None

    @property
    def gives_classes(self) -> bool:
        """Whether D gives class logits."""
        return self.discriminator.head == "classes"

    @property
    def z_dim(self) -> int:
        """Effective size of z."""
        if self.latent_dim is not None:
            return self.latent_dim
        return SKIP_Z_CHUNK * (len(self.generator_stages()) + 1) if self.latent_injection == "chunks" else 128

    @property
    def discriminator_width(self) -> int:
        """Effective base channel count of the discriminator."""
        return self.width if self.discriminator.width is None else self.discriminator.width

    @property
    def output_channels(self) -> int:
        """Effective number of outputs of the generator's last convolution."""
        return self.width if self.generator.output_channels is None else self.generator.output_channels

    def check(self) -> None:
        """Raises ConfigError where the family has no such network."""
        check_fields(self, "model")
        check_fields(self.generator, "model.generator")
        check_fields(self.discriminator, "model.discriminator")
        if self.resolution not in self.resolutions:
            sizes = ", ".join(map(str, self.resolutions))
            raise ConfigError(f"model.resolution={self.resolution}: the family {self.family!r} has {sizes}")
        if self.output_channels < 3:
            raise ConfigError(f"model.width={self.width} must be at least 3 with model.generator.output_channels=None")
        chunks = len(self.generator_stages()) + 1
        if self.latent_injection == "chunks" and self.z_dim % chunks:
            near = max(1, round(self.z_dim / chunks)) * chunks
            raise ConfigError(f"model.latent_dim={self.z_dim} is not divisible by the {chunks} chunks of skip-z: use {near}")
        if self.class_embedding == "per-class" and (self.latent_injection != "input" or self.conditioning != "linear"):
            raise ConfigError(
                "model.class_embedding=per-class: its tables take no z and need no maps, but "
                f"model.latent_injection={self.latent_injection} and model.conditioning={self.conditioning}: "
                "use --model.latent-injection input and --model.conditioning linear"
            )
        check_attention("model.generator.attention", self.generator.attention, self.generator_stages())
        check_attention("model.discriminator.attention", self.discriminator.attention, self.discriminator_stages())


def check_attention(name: str, wanted: tuple[int, ...] | None, stages: list[Stage]) -> None:
    """Raises ConfigError for a resolution that the network does not pass through, or too narrow for attention there."""
    passed = sorted({stage.resolution for stage in stages})
    for resolution in wanted or ():
        if resolution not in passed:
            raise ConfigError(f"{name}={resolution}: the network passes through {passed}")
    for stage in stages:
        if stage.attention and stage.outputs < 8:
            text = f"attention needs 8 channels there, this width gives {stage.outputs}"
            raise ConfigError(f"{name}={stage.resolution}: {text}")


def or_default(wanted: tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """The resolutions asked for; None: the family's own."""
    return default if wanted is None else wanted
