"""TODO: split from models.options."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from biggan.nn.initialization import InitializerName
from biggan.nn.layers import Interpolation
from biggan.nn.residual_blocks import LayerFactory
from biggan.runtime.errors import ConfigError

CHUNK = 20  # size of one piece of z in the skip connections from z (appendix B)

BASE_RESOLUTION = 4  # the generator starts at 4x4 pixels

Kernel = Literal[3, 5, 7]


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
class ResidualConfig:
    """Both networks of one model."""

    family: str
    resolution: int = 128
    """Height and width of an image in pixels: 32, 64, 128, 256 or 512."""
    num_classes: int | None = None
    """None: found in the data."""
    width: int = 96
    """Base channel count "ch" of the generator."""
    discriminator_width: int | None = None
    """Base channel count of the discriminator; None: the same as the generator's."""
    class_embedding: Literal["shared", "shared-with-discriminator", "per-class"] = "shared"
    """What conditions the generator's norms: maps of one class embedding (its table may be D's too), or a table in each."""
    embedding_dim: int = 128
    """Size of the shared class embedding."""
    latent_injection: Literal["input", "chunks", "whole"] = "chunks"
    """Where z enters: the first layer only; that and each stage in its own chunk; or whole, with the class, everywhere."""
    latent_dim: int | None = None
    """Size of z; None: 20 per chunk (80, 100, 120, 140, 160 for 32 to 512 px), else 128."""
    conditioning: Literal["linear", "perceptron"] = "linear"
    """Maps from the condition to gains and biases: linear, or with one hidden layer."""
    extra_blocks: int = 0
    """Further residual blocks after each one that doubles or halves the size (before it in deep generators)."""
    generator_kernel: Kernel = 3
    discriminator_kernel: Kernel = 3
    generator_dilation: int = 1
    discriminator_dilation: int = 1
    upsampling: Interpolation = "nearest"
    generator_weights: Literal["spectral", "weight-norm", "plain"] = "spectral"
    """What is done to each weight of the generator. The discriminator's are always spectrally normalised."""
    generator_norm: Literal["batch", "virtual", "none"] = "batch"
    """virtual: with the statistics of a fixed reference batch and the example itself. none: the conditional gains and
    biases act on the activations as they are."""
    reference_batch: int = 100
    """Images in the reference batch of virtual batch norm."""
    discriminator_norm: Literal["none", "batch", "conditional-batch"] = "none"
    """Statistics are those of the batch at hand: generated and real together in D's turn, generated alone in G's."""
    discriminator_head: Literal["projection", "classes"] = "projection"
    """projection: one score, conditional on the class; classes: class logits, and a score from them, as semi-supervised
    learning needs it; D then is not told the class."""
    minibatch_kernels: int | None = None
    """Features of minibatch discrimination beside D's last features; None: none."""
    minibatch_dimensions: int = 5
    """Of each of them."""
    discriminator_dropout: float = 0.0
    """Share of D's last features dropped in training; 0: none."""
    generator_attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the family's own."""
    discriminator_attention: tuple[int, ...] | None = None
    """Resolutions of self-attention; None: the family's own."""
    output_channels: int | None = 3
    """Outputs of the last convolution, of which the first 3 are the image; None: the width."""
    initialization: InitializerName = "orthogonal"
    norm_epsilon: float = 1e-4
    """Added to the variance in batch normalisation."""
    spectral_norm_epsilon: float = 1e-4
    """Shortest length that a vector of the power iteration is divided by."""

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

    def generator_block(self, inputs: int, outputs: int, up: bool, parts: LayerFactory) -> nn.Module:
        """A residual block of the family."""
        raise NotImplementedError

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, parts: LayerFactory) -> nn.Module:
        """A residual block of the family; `first` is true for the one that sees the image."""
        raise NotImplementedError

    @property
    def stem(self) -> int | None:
        """Outputs of a convolution in front of D's blocks; None: there is none."""
        return None

    @property
    def gives_classes(self) -> bool:
        """Whether D gives class logits."""
        return self.discriminator_head == "classes"

    @property
    def z_dim(self) -> int:
        """Size of z as it is used."""
        if self.latent_dim is not None:
            return self.latent_dim
        return CHUNK * (len(self.generator_stages()) + 1) if self.latent_injection == "chunks" else 128

    @property
    def d_width(self) -> int:
        """Base channel count of the discriminator as it is used."""
        return self.width if self.discriminator_width is None else self.discriminator_width

    @property
    def last_channels(self) -> int:
        """Outputs of the generator's last convolution as it is used."""
        return self.width if self.output_channels is None else self.output_channels

    def attention_resolutions(
        self, player: Literal["generator", "discriminator"], default: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Resolutions of a player's self-attention as they are used."""
        wanted = self.generator_attention if player == "generator" else self.discriminator_attention
        return default if wanted is None else wanted

    def check(self) -> None:
        """Raises ConfigError where the family has no such network."""
        if self.resolution not in self.resolutions:
            sizes = ", ".join(map(str, self.resolutions))
            raise ConfigError(f"model.resolution={self.resolution}: the family {self.family!r} has {sizes}")
        for name in (
            "width",
            "discriminator_width",
            "embedding_dim",
            "latent_dim",
            "num_classes",
            "minibatch_kernels",
            "minibatch_dimensions",
            "reference_batch",
        ):
            self.refuse_below(name, 1)
        for name in ("generator_dilation", "discriminator_dilation"):
            self.refuse_below(name, 1)
        self.refuse_below("extra_blocks", 0)
        for name in ("norm_epsilon", "spectral_norm_epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.discriminator_dropout < 1:
            raise ConfigError(f"model.discriminator_dropout={self.discriminator_dropout} must be at least 0 and below 1")
        if self.last_channels < 3:
            raise ConfigError(f"model.output_channels={self.last_channels} must be at least 3: three make the image")
        chunks = len(self.generator_stages()) + 1
        if self.latent_injection == "chunks" and self.z_dim % chunks:
            near = max(1, round(self.z_dim / chunks)) * chunks
            raise ConfigError(f"model.latent_dim={self.z_dim} is not divisible by the {chunks} chunks of skip-z: use {near}")
        if self.class_embedding == "per-class" and (self.latent_injection != "input" or self.conditioning != "linear"):
            raise ConfigError(
                f"model.class_embedding=per-class: its tables take no z and need no maps, but model.latent_injection={self.latent_injection} "
                f"and model.conditioning={self.conditioning}: use --model.latent-injection input and --model.conditioning linear"
            )
        self.check_attention("generator_attention", self.generator_stages())
        self.check_attention("discriminator_attention", self.discriminator_stages())

    def refuse_below(self, name: str, least: int) -> None:
        """Raises ConfigError where a given field is below `least`."""
        value = getattr(self, name)
        if value is not None and value < least:
            raise ConfigError(f"model.{name}={value} must be at least {least}")

    def check_attention(self, name: str, stages: list[Stage]) -> None:
        """Raises ConfigError for a resolution that the network does not pass through, or too narrow for attention there."""
        passed = sorted({stage.resolution for stage in stages})
        for wanted in getattr(self, name) or ():
            if wanted not in passed:
                raise ConfigError(f"model.{name}={wanted}: the network passes through {passed}")
        for stage in stages:
            if stage.attention and stage.outputs < 8:
                raise ConfigError(
                    f"model.{name}={stage.resolution}: attention needs 8 channels there, this width gives {stage.outputs}"
                )
