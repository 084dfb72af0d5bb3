"""BigGAN-deep (Brock, Donahue, Simonyan 2019, appendix B, tables 7 to 9): bottleneck blocks, four times the depth,
the whole of z joined to the class embedding everywhere. The networks themselves are in models/residual.

The 32 and 64 px rows follow the same rules; the paper has none.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge
from torch import nn

from biggan.models.resnet_config import BASE_RESOLUTION, ResNetConfig, ResNetGeneratorConfig, Stage, or_default
from biggan.nn.residual_blocks import DeepDiscriminatorBlock, DeepGeneratorBlock, LayerFactory
from biggan.runtime.constraints import Remedy
from biggan.runtime.errors import ConfigError


class DeepLayout(NamedTuple):
    """One row of BigGAN tables 7 to 9; widths in units of the base width, the outputs of each stage in order."""

    first: int  # width of the generator's 4x4 input
    generator: tuple[int, ...]  # each stage: a block that keeps size and width, one that doubles the size
    stem: int  # width of the discriminator's first convolution
    discriminator: tuple[int, ...]  # each stage: a block that halves the size, one that keeps it
    downsampled: int  # that many stages halve the size, the rest keep it
    attention: tuple[int, ...]  # of both


DEEP_LAYOUTS: dict[int, DeepLayout] = {
    32: DeepLayout(4, (4, 4, 4), 4, (4, 4, 4), 2, ()),
    64: DeepLayout(16, (16, 8, 4, 2), 1, (2, 4, 8, 16), 4, (32,)),
    128: DeepLayout(16, (16, 8, 4, 2, 1), 1, (2, 4, 8, 16, 16), 5, (64,)),
    256: DeepLayout(16, (16, 8, 8, 4, 2, 1), 1, (2, 4, 8, 8, 16, 16), 6, (64,)),
    512: DeepLayout(16, (16, 8, 8, 4, 2, 1, 1), 1, (1, 2, 4, 8, 8, 16, 16), 7, (64,)),
}


@dataclass(frozen=True, kw_only=True)
class DeepGeneratorConfig(ResNetGeneratorConfig):
    """What the papers varied in the generator; by default the last convolution has as many outputs as the width."""

    output_channels: Annotated[int, Ge(3), Remedy("three make the image")] | None = None


@dataclass(frozen=True, kw_only=True)
class BigGANDeepConfig(ResNetConfig):
    """Both networks of one BigGAN-deep."""

    family: Literal["biggan-deep"] = "biggan-deep"
    width: int = 128
    latent_injection: Literal["input", "chunks", "whole"] = "whole"
    generator: DeepGeneratorConfig = DeepGeneratorConfig()

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(DEEP_LAYOUTS)

    @property
    def stem(self) -> int:
        return DEEP_LAYOUTS[self.resolution].stem * self.discriminator_width

    def generator_stages(self) -> list[Stage]:
        """BigGAN tables 7 to 9, column G."""
        layout, stages = DEEP_LAYOUTS[self.resolution], []
        attended = or_default(self.generator.attention, layout.attention)
        inputs, resolution = layout.first * self.width, BASE_RESOLUTION
        for outputs in (multiple * self.width for multiple in layout.generator):
            resolution *= 2
            blocks = (*[(inputs, inputs, False)] * (1 + self.extra_blocks), (inputs, outputs, True))
            stages.append(Stage(resolution, blocks, resolution in attended))
            inputs = outputs
        return stages

    def discriminator_stages(self) -> list[Stage]:
        """BigGAN tables 7 to 9, column D."""
        layout, stages = DEEP_LAYOUTS[self.resolution], []
        attended = or_default(self.discriminator.attention, layout.attention)
        inputs, resolution = self.stem, self.resolution
        for index, outputs in enumerate(multiple * self.discriminator_width for multiple in layout.discriminator):
            down = index < layout.downsampled
            resolution >>= down
            extra = self.extra_blocks if down else 0
            blocks = ((inputs, outputs, down), *[(outputs, outputs, False)] * (1 + extra))
            stages.append(Stage(resolution, blocks, down and resolution in attended))
            inputs = outputs
        return stages

    def generator_block(self, inputs: int, outputs: int, up: bool, layers: LayerFactory) -> nn.Module:
        return DeepGeneratorBlock(inputs, outputs, up=up, layers=layers)

    def discriminator_block(self, inputs: int, outputs: int, down: bool, first: bool, layers: LayerFactory) -> nn.Module:
        return DeepDiscriminatorBlock(inputs, outputs, down=down, layers=layers)

    def check(self) -> None:
        """Raises ConfigError where the family has no such network."""
        for name, width in (("width", self.width), ("discriminator.width", self.discriminator_width)):
            if width < 4:
                raise ConfigError(f"model.{name}={width} must be at least 4: the bottlenecks have a quarter of it")
        super().check()
