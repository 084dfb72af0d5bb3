"""BigGAN (Brock, Donahue, Simonyan 2019, appendix B), and its ancestors SA-GAN and SN-GAN, which have the same layers.

Layer tables: docs/papers/biggan.md, "BigGAN layer tables", which fit the paper's parameter counts (70.4M and 88.0M at 128
px); the tables printed in the paper do not ("The printed tables" there). The networks themselves are in models/residual."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from biggan.models.resnet_config import (
    BASE_RESOLUTION,
    ResNetConfig,
    ResNetDiscriminatorConfig,
    ResNetGeneratorConfig,
    Stage,
    or_default,
)
from biggan.nn.initialization import InitializerName
from biggan.nn.residual_blocks import DiscriminatorBlock, GeneratorBlock, LayerFactory


class Layout(NamedTuple):
    """One row of docs/papers/biggan.md, "BigGAN layer tables"; widths in units of the base width, block outputs in order."""

    first: int  # width of the generator's 4x4 input
    generator: tuple[int, ...]  # each block doubles the size
    generator_attention: tuple[int, ...]  # after the block that arrives at this resolution
    discriminator: tuple[int, ...]
    downsampled: int  # that many blocks halve the size, the rest keep it
    discriminator_attention: tuple[int, ...]


# No source gives attention for 32 and 64 px. At 64 px we attend at 32x32, half the output size, as 128 px does.
LAYOUTS: dict[int, Layout] = {
    32: Layout(4, (4, 4, 4), (), (4, 4, 4, 4), 2, ()),
    64: Layout(16, (16, 8, 4, 2), (32,), (1, 2, 4, 8, 16), 4, (32,)),
    128: Layout(16, (16, 8, 4, 2, 1), (64,), (1, 2, 4, 8, 16, 16), 5, (64,)),
    256: Layout(16, (16, 8, 8, 4, 2, 1), (128,), (1, 2, 4, 8, 8, 16, 16), 6, (64,)),
    512: Layout(16, (16, 8, 8, 4, 2, 1, 1), (64,), (1, 1, 2, 4, 8, 8, 16, 16), 7, (64,)),
}


@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorConfig(ResNetDiscriminatorConfig):
    """What the papers varied in the discriminator. Its weights are always spectrally normalized."""

    hidden_width: Literal["outputs", "inputs"] = "outputs"
    """Width between the convolutions of a block: that of its outputs (SA-GAN, BigGAN) or of its inputs (SN-GAN)."""


@dataclass(frozen=True, kw_only=True)
class BigGANConfig(ResNetConfig):
    """Both networks of one BigGAN."""

    family: Literal["biggan"] = "biggan"
    discriminator: BigGANDiscriminatorConfig = BigGANDiscriminatorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(LAYOUTS)

    def generator_stages(self) -> list[Stage]:
        """docs/papers/biggan.md, "BigGAN layer tables", column G."""
        layout, stages = LAYOUTS[self.resolution], []
        attended = or_default(self.generator.attention, layout.generator_attention)
        inputs, resolution = layout.first * self.width, BASE_RESOLUTION
        for outputs in (multiple * self.width for multiple in layout.generator):
            resolution *= 2
            blocks = ((inputs, outputs, True), *[(outputs, outputs, False)] * self.extra_blocks)
            stages.append(Stage(resolution, blocks, resolution in attended))
            inputs = outputs
        return stages

    def discriminator_stages(self) -> list[Stage]:
        """docs/papers/biggan.md, "BigGAN layer tables", column D."""
        layout, stages = LAYOUTS[self.resolution], []
        attended = or_default(self.discriminator.attention, layout.discriminator_attention)
        inputs, resolution = 3, self.resolution
        for index, outputs in enumerate(multiple * self.discriminator_width for multiple in layout.discriminator):
            down = index < layout.downsampled
            resolution >>= down
            extra = self.extra_blocks if down else 0
            blocks = ((inputs, outputs, down), *[(outputs, outputs, False)] * extra)
            stages.append(Stage(resolution, blocks, down and resolution in attended))
            inputs = outputs
        return stages

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        return GeneratorBlock(inputs, outputs, up=up, layers=layers)

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        wide = self.discriminator.hidden_width == "outputs"
        return DiscriminatorBlock(inputs, outputs, down=down, first=first, wide=wide, layers=layers)


@dataclass(frozen=True, kw_only=True)
class SAGANConfig(BigGANConfig):
    """Self-attention GAN (Zhang et al. 2018): BigGAN's baseline, width 64, a table of gains and biases per class in each
    norm, z at the input only. docs/papers/biggan.md, "SA-GAN"; attention at 64x64, which gave the paper's best figures."""

    family: Literal["sagan"] = "sagan"
    width: int = 64
    class_embedding: Literal["shared", "shared-with-discriminator", "per-class"] = "per-class"
    latent_injection: Literal["input", "chunks", "whole"] = "input"
    initialization: InitializerName = "glorot"
    norm_epsilon: float = 1e-5
    spectral_norm_epsilon: float = 1e-12


@dataclass(frozen=True, kw_only=True)
class SNGANGeneratorConfig(ResNetGeneratorConfig):
    """What the papers varied in the generator; by default no spectral normalization and no attention."""

    reparametrization: Literal["spectral", "weight-norm", "plain"] = "plain"
    attention: tuple[int, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class SNGANDiscriminatorConfig(BigGANDiscriminatorConfig):
    """What the papers varied in the discriminator; by default blocks as wide as their inputs and no attention."""

    hidden_width: Literal["outputs", "inputs"] = "inputs"
    attention: tuple[int, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class SNGANConfig(SAGANConfig):
    """Spectrally normalized GAN with the projection discriminator (Miyato et al. 2018, Miyato & Koyama 2018): no spectral
    normalization in G, no attention, D's blocks as wide as their inputs. docs/papers/biggan.md, "SN-GAN".

    DEVIATION from the released code: its last convolution of G starts with gain 1, ours as the other 3x3 kernels, sqrt(2).
    """

    family: Literal["sngan"] = "sngan"
    initialization: InitializerName = "glorot-residual"
    generator: SNGANGeneratorConfig = SNGANGeneratorConfig()
    discriminator: SNGANDiscriminatorConfig = SNGANDiscriminatorConfig()
