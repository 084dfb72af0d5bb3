"""Config of the residual families: BigGAN, BigGAN-deep, SA-GAN, SN-GAN. Its fields are the options that the papers varied.

A family subclasses `ResNetConfig` with its defaults and layer table (models/biggan, models/biggan_deep);
models/layer_factory builds the layers. Sources: BigGAN appendices B, H and I."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Le
from torch import nn

from biggan.nn.initialization import INITIALIZERS, Initializer, InitializerName
from biggan.nn.layers import Interpolation
from biggan.nn.residual_blocks import LayerFactory
from biggan.runtime.constraints import BlockCount, Dilation, Epsilon, Fraction, LayerSize, Remedy, check_fields
from biggan.runtime.errors import ConfigError

SKIP_Z_CHUNK = 20  # size of one chunk of z with skip-z (appendix B)

BASE_RESOLUTION = 4  # the generator starts at 4x4 pixels

KernelSize = Literal[3, 5, 7]


class Stage(NamedTuple):
    """Consecutive residual blocks, at most one of which resamples, and optional self-attention after them."""

    resolution: int
    """Height and width in pixels of the output."""
    blocks: tuple[tuple[int, int, bool], ...]
    """(input channels, output channels, whether it resamples) of each block."""
    attention: bool
    """Whether a self-attention layer follows the blocks."""

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.blocks[-1][1]


@dataclass(frozen=True, kw_only=True)
class ResNetGeneratorConfig:
    """Generator options of the papers."""

    kernel_size: KernelSize = 3
    """Kernel size in pixels of all convolutions except the 1x1 ones."""
    dilation: Dilation = 1
    """Dilation in pixels of all convolutions except the 1x1 ones; 1: none."""
    upsampling: Interpolation = "nearest"
    """Interpolation with which feature maps are upsampled between resolutions."""
    reparametrization: Literal["spectral", "weight-norm", "plain"] = "spectral"
    """Reparametrization of the weights of convolutions and linear layers: spectral normalization (SA-GAN, BigGAN), weight
    normalization, or none (SN-GAN)."""
    norm: Literal["batch", "virtual", "none"] = "batch"
    """Normalization of activations: batch normalization; virtual batch normalization, with the statistics of a fixed
    reference batch and of the image itself; or none, with conditional gains and biases only."""
    reference_batch_size: LayerSize = 100
    """Number of images in the reference batch of virtual batch normalization."""
    attention: tuple[int, ...] | None = None
    """Resolutions in pixels with self-attention; None: those of the family."""
    output_channels: Annotated[int, Ge(3), Le(1 << 20), Remedy("the first three are the image")] | None = 3
    """Output channels of the last convolution, of which the first 3 are the image; None: the base width."""


@dataclass(frozen=True, kw_only=True)
class ResNetDiscriminatorConfig:
    """Discriminator options of the papers. All its weights are spectrally normalized."""

    width: LayerSize | None = None
    """Base number of channels; None: that of the generator."""
    kernel_size: KernelSize = 3
    """Kernel size in pixels of all convolutions except the 1x1 ones."""
    dilation: Dilation = 1
    """Dilation in pixels of all convolutions except the 1x1 ones; 1: none."""
    norm: Literal["none", "batch", "conditional-batch"] = "none"
    """Normalization of activations: none, batch normalization, or class-conditional batch normalization. Batch statistics
    are over real and generated images together in the discriminator's step, over generated ones alone in the generator's."""
    head: Literal["projection", "classes"] = "projection"
    """projection: a real/fake logit that is conditional on the class. classes: class logits and a real/fake logit computed
    from them, for semi-supervised learning; the class of an image is then no input."""
    dropout: Fraction = 0.0
    """Fraction of the last features that is set to zero in training; 0: no dropout."""
    attention: tuple[int, ...] | None = None
    """Resolutions in pixels with self-attention; None: those of the family."""
    minibatch_kernels: LayerSize | None = None
    """Number of minibatch discrimination features that are added to the last features; None: none."""
    minibatch_kernel_dim: LayerSize = 5
    """Dimensions of each minibatch discrimination kernel."""


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Generator and discriminator of a residual family."""

    family: str
    """Name of the model family."""
    resolution: int = 128
    """Height and width of an image in pixels: 32, 64, 128, 256 or 512."""
    num_classes: LayerSize | None = None
    """Number of classes; None: that of the dataset."""
    width: LayerSize = 96
    """Base number of channels of the generator, "ch" in the paper."""
    class_embedding: Literal["shared", "shared-with-discriminator", "per-class"] = "shared"
    """Class information of the generator's norms: one embedding shared by all norms; one that the discriminator uses too,
    through a projection; or a separate gain and bias per class in each norm."""
    embedding_dim: LayerSize = 128
    """Size of the shared class embedding."""
    latent_injection: Literal["input", "chunks", "whole"] = "chunks"
    """Where z enters the generator. input: the first layer only. chunks: the first layer and each stage get a chunk of z
    (skip-z). whole: the first layer and each block get all of z, concatenated with the class embedding."""
    latent_dim: LayerSize | None = None
    """Size of z; None: 20 per chunk with skip-z (80, 100, 120, 140, 160 for 32, 64, 128, 256, 512 px), else 128."""
    conditioning: Literal["linear", "mlp"] = "linear"
    """Map from the condition to the gain and bias of a norm: a linear layer, or an MLP with one hidden layer."""
    extra_blocks: BlockCount = 0
    """Number of additional residual blocks after each block that resamples (before it in BigGAN-deep generators)."""
    initialization: InitializerName = "orthogonal"
    """Initialization of all weights: orthogonal (BigGAN), normal with standard deviation 0.02, glorot (SA-GAN), or
    glorot-residual (glorot with gain sqrt(2) for kernels larger than 1x1; SN-GAN)."""
    norm_epsilon: Epsilon = 1e-4
    """Constant that is added to the variance in batch normalization."""
    spectral_norm_epsilon: Epsilon = 1e-4
    """Lower bound of the norm by which the vectors of the power iteration are divided."""
    generator: ResNetGeneratorConfig = ResNetGeneratorConfig()
    discriminator: ResNetDiscriminatorConfig = ResNetDiscriminatorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions in pixels for which the family has a layer table."""
        raise NotImplementedError

    def generator_stages(self) -> list[Stage]:
        """Stages of the generator, from 4x4 pixels to the image."""
        raise NotImplementedError

    def discriminator_stages(self) -> list[Stage]:
        """Stages of the discriminator, from the image to 4x4 pixels (8x8 for 32 px)."""
        raise NotImplementedError

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        """A generator block of the family; `up`: doubles the resolution."""
        raise NotImplementedError

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        """A discriminator block of the family; `down`: halves the resolution, `first`: its input is the image."""
        raise NotImplementedError

    @property
    def stem_channels(self) -> int | None:
        """Output channels of the convolution before the discriminator's blocks; None: no such convolution."""
        return None

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        """Initializers of the weights of generator and discriminator."""
        return INITIALIZERS[self.initialization], INITIALIZERS[self.initialization]

    @property
    def has_class_logits(self) -> bool:
        """Whether the discriminator outputs class logits."""
        return self.discriminator.head == "classes"

    @property
    def has_class_input(self) -> bool:
        """Whether the generator is conditional on a class."""
        return True

    @property
    def z_dim(self) -> int:
        """Effective size of z."""
        if self.latent_dim is not None:
            return self.latent_dim
        return SKIP_Z_CHUNK * (len(self.generator_stages()) + 1) if self.latent_injection == "chunks" else 128

    @property
    def discriminator_width(self) -> int:
        """Effective base number of channels of the discriminator."""
        return self.width if self.discriminator.width is None else self.discriminator.width

    @property
    def output_channels(self) -> int:
        """Effective number of output channels of the generator's last convolution."""
        return self.width if self.generator.output_channels is None else self.generator.output_channels

    def check(self) -> None:
        """Raises ConfigError if the family has no such network."""
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
                "model.class_embedding=per-class: gains and biases per class depend on no z and need no map, but "
                f"model.latent_injection={self.latent_injection} and model.conditioning={self.conditioning}: "
                "use --model.latent-injection input and --model.conditioning linear"
            )
        check_attention("model.generator.attention", self.generator.attention, self.generator_stages())
        check_attention("model.discriminator.attention", self.discriminator.attention, self.discriminator_stages())


def check_attention(name: str, resolutions: tuple[int, ...] | None, stages: list[Stage]) -> None:
    """Raises ConfigError if no stage has one of the resolutions, or if a stage has too few channels for its attention.
    `name`: the config field that the message names."""
    available = sorted({stage.resolution for stage in stages})
    for resolution in resolutions or ():
        if resolution not in available:
            raise ConfigError(f"{name}={resolution}: the network passes through {available}")
    for stage in stages:
        if stage.attention and stage.outputs < 8:
            problem = f"attention needs 8 channels there, this width gives {stage.outputs}"
            raise ConfigError(f"{name}={stage.resolution}: {problem}")


def or_default(resolutions: tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """The resolutions with attention from the config, or the family's default if it has None."""
    return default if resolutions is None else resolutions
