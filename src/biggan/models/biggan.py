"""Layer tables and configs of BigGAN (Brock, Donahue, Simonyan 2019, appendix B), and of SA-GAN and SN-GAN, its predecessors
with the same kinds of layers. The networks are in models/resnet.

Source of the tables: docs/papers/biggan.md, "BigGAN layer tables". They give the paper's parameter counts (70.4M and 88.0M
at 128 px); the tables printed in the paper do not ("The printed tables" there)."""

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
from biggan.runtime.constraints import LayerSize


class Layout(NamedTuple):
    """One row of docs/papers/biggan.md, "BigGAN layer tables". Channels are multiples of the base width."""

    input: int  # channels of the generator at 4x4 pixels
    generator: tuple[int, ...]  # output channels of each block; each doubles the resolution
    generator_attention: tuple[int, ...]  # resolutions; attention follows the last block of a resolution
    discriminator: tuple[int, ...]  # output channels of each block
    downsampling_blocks: int  # this many first blocks of the discriminator halve the resolution, the others preserve it
    discriminator_attention: tuple[int, ...]  # resolutions


# No source gives attention for 32 and 64 px. At 64 px it is at 32x32, half the output resolution, as for 128 px.
LAYOUTS: dict[int, Layout] = {
    32: Layout(4, (4, 4, 4), (), (4, 4, 4, 4), 2, ()),
    64: Layout(16, (16, 8, 4, 2), (32,), (1, 2, 4, 8, 16), 4, (32,)),
    128: Layout(16, (16, 8, 4, 2, 1), (64,), (1, 2, 4, 8, 16, 16), 5, (64,)),
    256: Layout(16, (16, 8, 8, 4, 2, 1), (128,), (1, 2, 4, 8, 8, 16, 16), 6, (64,)),
    512: Layout(16, (16, 8, 8, 4, 2, 1, 1), (64,), (1, 1, 2, 4, 8, 8, 16, 16), 7, (64,)),
}


@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorConfig(ResNetDiscriminatorConfig):
    """Discriminator options of the papers. All its weights are spectrally normalized."""

    hidden_width: Literal["outputs", "inputs"] = "outputs"
    """Channels between the two convolutions of a block: as many as its outputs (SA-GAN, BigGAN) or its inputs (SN-GAN)."""


@dataclass(frozen=True, kw_only=True)
class BigGANConfig(ResNetConfig):
    """Generator and discriminator of BigGAN."""

    family: Literal["biggan"] = "biggan"
    discriminator: BigGANDiscriminatorConfig = BigGANDiscriminatorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(LAYOUTS)

    def generator_stages(self) -> list[Stage]:
        """Stages of the generator (docs/papers/biggan.md, "BigGAN layer tables", column G)."""
        layout, stages = LAYOUTS[self.resolution], []
        attention = or_default(self.generator.attention, layout.generator_attention)
        inputs, resolution = layout.input * self.width, BASE_RESOLUTION
        for outputs in (multiple * self.width for multiple in layout.generator):
            resolution *= 2
            blocks = ((inputs, outputs, True), *[(outputs, outputs, False)] * self.extra_blocks)
            stages.append(Stage(resolution, blocks, resolution in attention))
            inputs = outputs
        return stages

    def discriminator_stages(self) -> list[Stage]:
        """Stages of the discriminator (docs/papers/biggan.md, "BigGAN layer tables", column D)."""
        layout, stages = LAYOUTS[self.resolution], []
        attention = or_default(self.discriminator.attention, layout.discriminator_attention)
        inputs, resolution = 3, self.resolution
        for index, outputs in enumerate(multiple * self.discriminator_width for multiple in layout.discriminator):
            down = index < layout.downsampling_blocks
            resolution >>= down
            extra = self.extra_blocks if down else 0
            blocks = ((inputs, outputs, down), *[(outputs, outputs, False)] * extra)
            stages.append(Stage(resolution, blocks, down and resolution in attention))
            inputs = outputs
        return stages

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        return GeneratorBlock(inputs, outputs, up=up, layers=layers)

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        wide = self.discriminator.hidden_width == "outputs"
        return DiscriminatorBlock(inputs, outputs, down=down, first=first, wide=wide, layers=layers)


@dataclass(frozen=True, kw_only=True)
class SAGANConfig(BigGANConfig):
    """Generator and discriminator of SA-GAN (Zhang et al. 2018), BigGAN's baseline: width 64, a gain and a bias per class in
    each norm of the generator, z in the first layer only; attention at 64x64, which the paper found best. Source:
    docs/papers/biggan.md, "SA-GAN"."""

    family: Literal["sagan"] = "sagan"  # type: ignore[assignment]  # it tells families apart in JSON
    width: LayerSize = 64
    class_embedding: Literal["shared", "shared-with-discriminator", "per-class"] = "per-class"
    latent_injection: Literal["input", "chunks", "whole"] = "input"
    initialization: InitializerName = "glorot"
    norm_epsilon: float = 1e-5
    spectral_norm_epsilon: float = 1e-12


@dataclass(frozen=True, kw_only=True)
class SNGANGeneratorConfig(ResNetGeneratorConfig):
    """Generator options of the papers; by default without spectral normalization and attention."""

    reparametrization: Literal["spectral", "weight-norm", "plain"] = "plain"
    attention: tuple[int, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class SNGANDiscriminatorConfig(BigGANDiscriminatorConfig):
    """Discriminator options of the papers; by default with blocks as wide as their inputs and without attention."""

    hidden_width: Literal["outputs", "inputs"] = "inputs"
    attention: tuple[int, ...] | None = ()


@dataclass(frozen=True, kw_only=True)
class SNGANConfig(SAGANConfig):
    """Generator and discriminator of SN-GAN with projection (Miyato et al. 2018, Miyato & Koyama 2018): no spectral
    normalization in the generator, no attention, blocks of the discriminator as wide as their inputs. Source:
    docs/papers/biggan.md, "SN-GAN".

    DEVIATION from the released code: the generator's last convolution is initialized with gain sqrt(2) like all 3x3 kernels,
    there with gain 1.
    """

    family: Literal["sngan"] = "sngan"  # type: ignore[assignment]
    initialization: InitializerName = "glorot-residual"
    generator: SNGANGeneratorConfig = SNGANGeneratorConfig()
    discriminator: SNGANDiscriminatorConfig = SNGANDiscriminatorConfig()
