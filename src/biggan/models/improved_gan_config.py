"""Configs of the networks of "Improved Techniques for Training GANs" (Salimans et al. 2016): MLPs for MNIST,
convolutional networks for CIFAR-10 and SVHN. The networks are in models/improved_gan; docs/papers/improved_gan.md,
"Network and training tables"."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Len

from biggan.nn.initialization import Initializer, glorot, normal_with_std
from biggan.runtime.constraints import Epsilon, Fraction, LayerSize, NonNegativeFloat, Remedy, check_fields

HiddenSizes = Annotated[tuple[LayerSize, ...], Len(1, 100), Remedy("give one size or more")]
AtLeastFour = Annotated[int, Ge(4), Le(1 << 20)]


@dataclass(frozen=True, kw_only=True)
class ImprovedGeneratorConfig:
    """Options of all generators of the paper."""

    norm: Literal["batch", "virtual"] = "batch"
    """Normalization of activations: batch normalization, or virtual batch normalization, with the statistics of a fixed
    reference batch and of the image itself."""
    reference_batch_size: LayerSize = 100
    """Number of images in the reference batch of virtual batch normalization."""


@dataclass(frozen=True, kw_only=True)
class ImprovedDiscriminatorConfig:
    """Options of all discriminators of the paper."""

    input_noise: NonNegativeFloat = 0.0
    """Standard deviation of the Gaussian noise that is added to input images in training; 0: no noise."""
    minibatch_kernels: LayerSize | None = None
    """Number of minibatch discrimination features that are added to the last features; None: none."""
    minibatch_kernel_dim: LayerSize = 5
    """Dimensions of each minibatch discrimination kernel."""


@dataclass(frozen=True, kw_only=True)
class ImprovedGANConfig:
    """Base config: unconditional generator, and discriminator with class logits."""

    family: str
    """Name of the model family."""
    resolution: int
    """Height and width of an image in pixels."""
    num_classes: LayerSize | None = None
    """Number of classes; None: that of the dataset."""
    latent_dim: LayerSize = 100
    """Size of z."""
    norm_epsilon: Epsilon = 1e-6
    """Constant that is added to the variance in batch normalization."""
    generator: ImprovedGeneratorConfig = ImprovedGeneratorConfig()
    discriminator: ImprovedDiscriminatorConfig = ImprovedDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        """Initializers of the weights of generator and discriminator."""
        raise NotImplementedError

    @property
    def has_class_logits(self) -> bool:
        """Whether the discriminator outputs class logits."""
        return True

    @property
    def has_class_input(self) -> bool:
        """Whether the generator is conditional on a class: those of this paper are not, whatever classes D tells apart."""
        return False

    @property
    def z_dim(self) -> int:
        """Effective size of z."""
        return self.latent_dim

    def check(self) -> None:
        """Raises ConfigError if there is no such network."""
        check_fields(self, "model")
        check_fields(self.generator, "model.generator")
        check_fields(self.discriminator, "model.discriminator")


@dataclass(frozen=True, kw_only=True)
class MLPGeneratorConfig(ImprovedGeneratorConfig):
    """Layer sizes and norm of the MNIST generator."""

    hidden: HiddenSizes = (500, 500)
    """Sizes of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class MLPDiscriminatorConfig(ImprovedDiscriminatorConfig):
    """Layer sizes and noise of the MNIST discriminator."""

    hidden: HiddenSizes = (1000, 500, 250, 250, 250)
    """Sizes of the hidden layers."""
    input_noise: NonNegativeFloat = 0.3
    """Standard deviation of the Gaussian noise that is added to input images in training; 0: no noise."""
    noise: NonNegativeFloat = 0.5
    """Standard deviation of the Gaussian noise that is added to the output of each hidden layer in training; 0: no noise."""


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ImprovedGANConfig):
    """Generator and discriminator for MNIST: MLPs on flattened gray values, independent of the order of
    pixels."""

    family: Literal["improved-mlp"] = "improved-mlp"
    resolution: LayerSize = 28
    """Height and width of an image in pixels."""
    generator: MLPGeneratorConfig = MLPGeneratorConfig()
    discriminator: MLPDiscriminatorConfig = MLPDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return glorot, normal_with_std(0.1)


@dataclass(frozen=True, kw_only=True)
class ConvGeneratorConfig(ImprovedGeneratorConfig):
    """Width and norm of the CIFAR-10 and SVHN generator."""

    width: AtLeastFour = 512
    """Number of channels at 4x4 pixels, halved with each doubling of the resolution."""


@dataclass(frozen=True, kw_only=True)
class ConvDiscriminatorConfig(ImprovedDiscriminatorConfig):
    """Width, noise and dropout of the CIFAR-10 and SVHN discriminator."""

    width: AtLeastFour = 96
    """Number of channels of the first three layers; the others have twice as many. 96 for CIFAR-10, 64 for SVHN."""
    input_dropout: Fraction = 0.2
    """Fraction of the input values that is set to zero in training; 0: no dropout."""
    dropout: Fraction = 0.5
    """Fraction of the activations that is set to zero in training after the third and sixth convolution; 0: no dropout."""


@dataclass(frozen=True, kw_only=True)
class ConvConfig(ImprovedGANConfig):
    """Generator and discriminator for CIFAR-10 and SVHN: convolutional networks at 32 px."""

    family: Literal["improved-conv"] = "improved-conv"
    resolution: Literal[32] = 32
    generator: ConvGeneratorConfig = ConvGeneratorConfig()
    discriminator: ConvDiscriminatorConfig = ConvDiscriminatorConfig()

    @property
    def initializers(self) -> tuple[Initializer, Initializer]:
        return normal_with_std(0.05), normal_with_std(0.05)
