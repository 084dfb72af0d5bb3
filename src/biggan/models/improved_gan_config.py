"""The networks of "Improved Techniques for Training GANs" (Salimans et al. 2016) as configs: an MLP for MNIST,
convolutions for CIFAR-10 and SVHN. The networks themselves are in models/improved_gan."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from biggan.nn.initialization import Initializer, glorot, normal_with_std
from biggan.runtime.constraints import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Remedy,
    check_fields,
)

HiddenSizes = Annotated[tuple[PositiveInt, ...], MinLen(1), Remedy("give one size or more")]
AtLeastFour = Annotated[int, Ge(4)]


@dataclass(frozen=True, kw_only=True)
class ImprovedGeneratorConfig:
    """What all these generators have."""

    norm: Literal["batch", "virtual"] = "batch"
    """virtual: with the statistics of a fixed reference batch and the example itself."""
    reference_batch_size: PositiveInt = 100
    """Images in the reference batch of virtual batch norm."""


@dataclass(frozen=True, kw_only=True)
class ImprovedDiscriminatorConfig:
    """What all these discriminators have."""

    input_noise: NonNegativeFloat = 0.0
    """Standard deviation of the Gaussian noise on its images; 0: none."""
    minibatch_kernels: PositiveInt | None = None
    """Features of minibatch discrimination; None: none."""
    minibatch_kernel_dim: PositiveInt = 5
    """Dimensions of each of those features."""


@dataclass(frozen=True, kw_only=True)
class ImprovedGANConfig:
    """What these families share. Their discriminators give class logits; their generators know no classes."""

    family: str
    resolution: int
    num_classes: PositiveInt | None = None
    """None: found in the data."""
    latent_dim: PositiveInt = 100
    """Size of z."""
    norm_epsilon: PositiveFloat = 1e-6
    """Added to the variance in batch normalization."""
    generator: ImprovedGeneratorConfig = ImprovedGeneratorConfig()
    discriminator: ImprovedDiscriminatorConfig = ImprovedDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        """How the weights of generator and discriminator are drawn."""
        raise NotImplementedError

    @property
    def gives_classes(self) -> bool:
        """Whether D gives class logits."""
        return True

    @property
    def z_dim(self) -> int:
        """Effective size of z."""
        return self.latent_dim

    def check(self) -> None:
        """Raises ConfigError where there is no such network."""
        check_fields(self, "model")
        check_fields(self.generator, "model.generator")
        check_fields(self.discriminator, "model.discriminator")


@dataclass(frozen=True, kw_only=True)
class MLPGeneratorConfig(ImprovedGeneratorConfig):
    """Sizes and norm of the generator."""

    hidden: HiddenSizes = (500, 500)
    """Sizes of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class MLPDiscriminatorConfig(ImprovedDiscriminatorConfig):
    """Sizes and noise of the discriminator."""

    hidden: HiddenSizes = (1000, 500, 250, 250, 250)
    """Sizes of the hidden layers."""
    input_noise: NonNegativeFloat = 0.3
    """Standard deviation of the Gaussian noise on its images; 0: none."""
    noise: NonNegativeFloat = 0.5
    """Standard deviation of the Gaussian noise after each hidden layer; 0: none."""


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ImprovedGANConfig):
    """Multilayer perceptrons that see an image as one row of gray values: nothing in them knows where a pixel is."""

    family: Literal["improved-mlp"] = "improved-mlp"
    resolution: PositiveInt = 28
    """Height and width of an image in pixels."""
    generator: MLPGeneratorConfig = MLPGeneratorConfig()
    discriminator: MLPDiscriminatorConfig = MLPDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return glorot, normal_with_std(0.1)


@dataclass(frozen=True, kw_only=True)
class ConvGeneratorConfig(ImprovedGeneratorConfig):
    """Width and norm of the generator."""

    width: AtLeastFour = 512
    """Channels at 4x4 pixels, halved with each doubling of the size."""


@dataclass(frozen=True, kw_only=True)
class ConvDiscriminatorConfig(ImprovedDiscriminatorConfig):
    """Width, noise and dropout of the discriminator."""

    width: AtLeastFour = 96
    """Channels of the first three layers; the others have twice as many. 96 for CIFAR-10, 64 for SVHN."""
    input_dropout: Fraction = 0.2
    """Share of its input that is dropped."""
    dropout: Fraction = 0.5
    """Share of its activations dropped before each group of three layers but the first."""


@dataclass(frozen=True, kw_only=True)
class ConvConfig(ImprovedGANConfig):
    """Convolutions for 32 px."""

    family: Literal["improved-conv"] = "improved-conv"
    resolution: Literal[32] = 32
    generator: ConvGeneratorConfig = ConvGeneratorConfig()
    discriminator: ConvDiscriminatorConfig = ConvDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return normal_with_std(0.05), normal_with_std(0.05)
