"""Generator and discriminator of all residual families: BigGAN, BigGAN-deep, SA-GAN and SN-GAN.

Source: Brock, Donahue, Simonyan 2019, section 3 and appendix B (docs/papers/biggan.md, "Generator" and "Discriminator").
Blocks, their order and the resolutions of attention come from the family's config, layers from models/layer_factory. Ranks,
precision and optimizers are unknown here.

Shapes: N batch, Z latent, E class embedding (for per-class tables one-hot class weights, E = K), C channels, F features,
R resolution, H W pixels.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.models.layer_factory import (
    build_class_embedding,
    build_discriminator_condition,
    build_discriminator_head,
    discriminator_layers,
    generator_layers,
    generator_normalization,
)
from biggan.models.resnet_config import BASE_RESOLUTION, ResNetConfig, Stage
from biggan.nn.attention import SelfAttention
from biggan.nn.batch_norm import AffineNorm
from biggan.nn.embeddings import ProjectedEmbedding
from biggan.nn.heads import DiscriminatorOutput
from biggan.nn.residual_blocks import LayerFactory, affines_of_blocks
from biggan.nn.virtual_batch_norm import build_reference_batch


class Generator(nn.Module):
    """z (N, Z) and classes (N,) -> images (N, 3, R, R) in [-1, 1], float32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes must be known before networks are built"
        self.config = config
        stages = config.generator_stages()
        embedding, embedding_dim = build_class_embedding(config)
        self.injection = LATENT_INJECTIONS[config.latent_injection](
            config.z_dim, embedding_dim, [len(stage.blocks) for stage in stages]
        )
        layers = generator_layers(config, self.injection.condition_dim)

        self.embedding = embedding
        self.reference = build_reference_batch(config.generator, config.z_dim)
        self.linear = layers.linear(self.injection.input_dim, BASE_RESOLUTION**2 * stages[0].blocks[0][0])
        self.blocks = nn.ModuleList(
            config.generator_block(inputs, outputs, up, layers) for stage in stages for inputs, outputs, up in stage.blocks
        )
        self.attention, self.attention_after = attention_layers(stages, layers)
        channels = stages[-1].outputs
        self.output_norm = AffineNorm(channels, normalize=generator_normalization(config, channels))
        self.output_conv = layers.conv(channels, config.output_channels, computed_outputs=3)

    def embed(self, y_N: Tensor) -> Tensor:
        """Class numbers (N,) int64 -> class embeddings (N, E). To mix classes, average their embeddings."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents and class embeddings -> images (N, 3, R, R) in [-1, 1]."""
        inputs, conditions = self.injection.distribute(*self.reference.prepend_reference(z_NZ, e_NE, self.embed))
        x = self.linear(inputs)  # (N, 4 4 16ch)
        x = x.unflatten(1, (-1, BASE_RESOLUTION, BASE_RESOLUTION))  # (N, 16ch, 4, 4)
        x = x.contiguous(memory_format=detect_memory_format(self.output_conv.weight))
        affines = affines_of_blocks(self.blocks, conditions)
        for index, block in enumerate(self.blocks):
            x = block(x, affines[index])  # (N, C, 2H, 2W) or (N, C, H, W)
            if index in self.attention_after:
                x = self.attention[self.attention_after[index]](x)  # (N, C, H, W)
        return self.to_image(x)  # (N, 3, R, R)

    def to_image(self, x: Tensor) -> Tensor:
        """The last feature maps, of a reference batch too, -> images: (N, ch, R, R) -> (N, 3, R, R)."""
        x = self.reference.drop_reference(F.relu(self.output_norm(x)))  # (N, ch, R, R)
        x = self.output_conv(x)  # (N, 3, R, R)
        return torch.tanh(x.float())  # (N, 3, R, R)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, R, R)


class LatentInjection(Protocol):
    """How z and the class embedding enter the generator. `input_dim`: size of the input of the first layer; `condition_dim`:
    size of the condition of a block's norms."""

    input_dim: int
    condition_dim: int

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer (N, input_dim) and the condition (N, condition_dim) of each block."""
        ...


class InputInjection:
    """z enters the first layer only; blocks are conditioned on the class (SN-GAN, SA-GAN)."""

    def __init__(self, z_dim: int, embedding_dim: int, blocks_per_stage: list[int]) -> None:
        self.num_blocks = sum(blocks_per_stage)
        self.input_dim = z_dim
        self.condition_dim = embedding_dim

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        return z_NZ, [e_NE] * self.num_blocks


class ChunkInjection:
    """skip-z (BigGAN): z is split into equal chunks, one for the first layer and one for each stage, where it is
    concatenated with the class embedding."""

    def __init__(self, z_dim: int, embedding_dim: int, blocks_per_stage: list[int]) -> None:
        self.blocks_per_stage = blocks_per_stage
        self.input_dim = z_dim // (len(blocks_per_stage) + 1)
        self.condition_dim = embedding_dim + self.input_dim

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        inputs, *chunks = z_NZ.split(self.input_dim, dim=1)  # stages + 1 chunks of (N, 20)
        conditions = [torch.cat([e_NE, chunk], dim=1) for chunk in chunks]  # each (N, E + 20)
        repeated = zip(conditions, self.blocks_per_stage, strict=True)
        return inputs, [condition for condition, num_blocks in repeated for _ in range(num_blocks)]


class ConcatInjection:
    """The first layer and every block get the class embedding concatenated with all of z (BigGAN-deep)."""

    def __init__(self, z_dim: int, embedding_dim: int, blocks_per_stage: list[int]) -> None:
        self.num_blocks = sum(blocks_per_stage)
        self.input_dim = self.condition_dim = embedding_dim + z_dim

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        condition = torch.cat([e_NE, z_NZ], dim=1)  # (N, E + Z)
        return condition, [condition] * self.num_blocks


LATENT_INJECTIONS: dict[str, Callable[[int, int, list[int]], LatentInjection]] = {
    "input": InputInjection,
    "chunks": ChunkInjection,
    "whole": ConcatInjection,
}


class Discriminator(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] and classes (N,) -> DiscriminatorOutput."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes must be known before networks are built"
        self.config = config
        stages = config.discriminator_stages()
        layers = discriminator_layers(config)
        self.condition = build_discriminator_condition(config)
        self.stem = nn.Identity() if config.stem_channels is None else layers.conv(3, config.stem_channels)
        self.blocks = nn.ModuleList()
        for inputs, outputs, down in (block for stage in stages for block in stage.blocks):
            first = not self.blocks and config.stem_channels is None
            self.blocks.append(config.discriminator_block(inputs, outputs, down, first, layers))
        self.attention, self.attention_after = attention_layers(stages, layers)
        self.head = build_discriminator_head(config, layers, features=stages[-1].outputs)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        """The batch consists of `groups` equal groups, such as real and generated images; minibatch discrimination compares
        images within their group only."""
        affines = affines_of_blocks(self.blocks, [self.condition(y_N)] * len(self.blocks))
        x = self.stem(x)  # (N, ch, R, R)
        for index, block in enumerate(self.blocks):
            x = block(x, affines[index])  # (N, C, H/2, W/2) or (N, C, H, W)
            if index in self.attention_after:
                x = self.attention[self.attention_after[index]](x)  # (N, C, H, W)
        return self.head(x, y_N, groups)


def attention_layers(stages: list[Stage], layers: LayerFactory) -> tuple[nn.ModuleDict, dict[int, str]]:
    """Self-attention layers {resolution: layer}, and their places {index of the preceding block: resolution}."""
    attention, attention_after, num_blocks = nn.ModuleDict(), {}, 0
    for stage in stages:
        num_blocks += len(stage.blocks)
        if stage.attention:
            attention[str(stage.resolution)] = SelfAttention(stage.outputs, conv=layers.conv)
            attention_after[num_blocks - 1] = str(stage.resolution)
    return attention, attention_after


def detect_memory_format(weight: Tensor) -> torch.memory_format:
    """The memory format of a convolution weight (O, I, k, k); activations should have the same."""
    channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def share_class_embedding(generator: Generator, discriminator: Discriminator) -> None:
    """If the discriminator's class embedding is a projection of the generator's (ProjectedEmbedding), make it use the
    generator's table, which both networks then train. Mutates the discriminator."""
    if isinstance(getattr(discriminator.head, "embedding", None), ProjectedEmbedding):
        discriminator.head.embedding.table = generator.embedding
