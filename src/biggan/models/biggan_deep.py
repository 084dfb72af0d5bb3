"""Layer tables and config of BigGAN-deep (Brock, Donahue, Simonyan 2019, appendix B, tables 7 to 9): bottleneck blocks, four
times the depth of BigGAN, all of z concatenated with the class embedding in every layer. The networks are in models/resnet.

The paper has no tables for 32 and 64 px; those here follow the pattern of the others.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Le
from torch import nn

from biggan.models.resnet_config import BASE_RESOLUTION, ResNetConfig, ResNetGeneratorConfig, Stage, or_default
from biggan.nn.residual_blocks import DeepDiscriminatorBlock, DeepGeneratorBlock, LayerFactory
from biggan.runtime.constraints import LayerSize, Remedy
from biggan.runtime.errors import ConfigError


class DeepLayout(NamedTuple):
    """The networks of one resolution (BigGAN, tables 7 to 9). Channels are multiples of the base width."""

    input: int  # channels of the generator at 4x4 pixels
    generator: tuple[int, ...]  # output channels of each stage: one block at its input resolution, one that doubles it
    stem: int  # output channels of the convolution before the discriminator's blocks
    discriminator: tuple[int, ...]  # output channels of each stage: one block that halves the resolution, one at the new one
    downsampling_stages: int  # this many first stages of the discriminator halve the resolution, the others preserve it
    attention: tuple[int, ...]  # resolutions, in both networks


DEEP_LAYOUTS: dict[int, DeepLayout] = {
    32: DeepLayout(4, (4, 4, 4), 4, (4, 4, 4), 2, ()),
    64: DeepLayout(16, (16, 8, 4, 2), 1, (2, 4, 8, 16), 4, (32,)),
    128: DeepLayout(16, (16, 8, 4, 2, 1), 1, (2, 4, 8, 16, 16), 5, (64,)),
    256: DeepLayout(16, (16, 8, 8, 4, 2, 1), 1, (2, 4, 8, 8, 16, 16), 6, (64,)),
    512: DeepLayout(16, (16, 8, 8, 4, 2, 1, 1), 1, (1, 2, 4, 8, 8, 16, 16), 7, (64,)),
}


@dataclass(frozen=True, kw_only=True)
class DeepGeneratorConfig(ResNetGeneratorConfig):
    """Generator options of the papers; by default the last convolution has as many outputs as the base width."""

    output_channels: Annotated[int, Ge(3), Le(1 << 20), Remedy("the first three are the image")] | None = None


@dataclass(frozen=True, kw_only=True)
class BigGANDeepConfig(ResNetConfig):
    """Generator and discriminator of BigGAN-deep."""

    family: Literal["biggan-deep"] = "biggan-deep"
    width: LayerSize = 128
    latent_injection: Literal["input", "chunks", "whole"] = "whole"
    generator: DeepGeneratorConfig = DeepGeneratorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(DEEP_LAYOUTS)

    @property
    def stem_channels(self) -> int:
        return DEEP_LAYOUTS[self.resolution].stem * self.discriminator_width

    def generator_stages(self) -> list[Stage]:
        """Stages of the generator (BigGAN, tables 7 to 9, column G)."""
        layout, stages = DEEP_LAYOUTS[self.resolution], []
        attention = or_default(self.generator.attention, layout.attention)
        inputs, resolution = layout.input * self.width, BASE_RESOLUTION
        for outputs in (multiple * self.width for multiple in layout.generator):
            resolution *= 2
            blocks = (*[(inputs, inputs, False)] * (1 + self.extra_blocks), (inputs, outputs, True))
            stages.append(Stage(resolution, blocks, resolution in attention))
            inputs = outputs
        return stages

    def discriminator_stages(self) -> list[Stage]:
        """Stages of the discriminator (BigGAN, tables 7 to 9, column D)."""
        layout, stages = DEEP_LAYOUTS[self.resolution], []
        attention = or_default(self.discriminator.attention, layout.attention)
        inputs, resolution = self.stem_channels, self.resolution
        for index, outputs in enumerate(multiple * self.discriminator_width for multiple in layout.discriminator):
            down = index < layout.downsampling_stages
            resolution >>= down
            extra = self.extra_blocks if down else 0
            blocks = ((inputs, outputs, down), *[(outputs, outputs, False)] * (1 + extra))
            stages.append(Stage(resolution, blocks, down and resolution in attention))
            inputs = outputs
        return stages

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        return DeepGeneratorBlock(inputs, outputs, up=up, layers=layers)

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        return DeepDiscriminatorBlock(inputs, outputs, down=down, layers=layers)

    def check(self) -> None:
        """Raises ConfigError if the family has no such network."""
        for name, width in (("width", self.width), ("discriminator.width", self.discriminator_width)):
            if width < 4:
                raise ConfigError(f"model.{name}={width} must be at least 4: bottlenecks have a quarter of it")
        super().check()
