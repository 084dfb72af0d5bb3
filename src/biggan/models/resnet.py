"""The generator and the discriminator of every residual family: what BigGAN, BigGAN-deep, SA-GAN and SN-GAN have in common.

Source: Brock, Donahue, Simonyan 2019, section 3 and appendix B (docs/papers/biggan.md, "Generator" and "Discriminator").
Blocks, their order and the places of attention come from the family's config, layers from models/options. Single-device
mathematics: nothing here knows ranks, precision or optimizers.

Shapes: N batch, Z latent, E class embedding (class weights (N, K) with tables per class), F features, R resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.models.layer_factory import (
    class_embedding_layer,
    discriminator_condition,
    discriminator_head,
    discriminator_layers,
    generator_layers,
    normalize,
)
from biggan.models.resnet_config import BASE_RESOLUTION, ResNetConfig, Stage
from biggan.nn.attention import SelfAttention
from biggan.nn.batch_norm import AffineNorm
from biggan.nn.embeddings import ProjectedEmbedding
from biggan.nn.heads import DiscriminatorOutput
from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.residual_blocks import LayerFactory
from biggan.nn.virtual_batch_norm import build_reference_batch


class Generator(nn.Module):
    """z (N, Z) and classes (N,) -> images (N, 3, R, R) in [-1, 1], float32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes is found before networks are built"
        self.config = config
        stages = config.generator_stages()
        embedding, embedded = class_embedding_layer(config)
        self.injection = LATENT_INJECTIONS[config.latent_injection](
            config.z_dim, embedded, [len(stage.blocks) for stage in stages]
        )
        layers = generator_layers(config, self.injection.condition)

        self.embedding = embedding
        self.reference = build_reference_batch(config.generator, config.z_dim)
        self.linear = layers.linear(self.injection.first, BASE_RESOLUTION**2 * stages[0].blocks[0][0])
        self.blocks = nn.ModuleList(
            config.generator_block(inputs, outputs, up, layers) for stage in stages for inputs, outputs, up in stage.blocks
        )
        self.attention, self.attention_after = attention_layers(stages, layers)
        channels = stages[-1].outputs
        self.output_norm = AffineNorm(channels, normalize=normalize(config, channels))
        self.output_conv = layers.conv(channels, config.output_channels, computed_outputs=3)

    def embed(self, y_N: Tensor) -> Tensor:
        """Class numbers (N,) int64 -> class embeddings (N, E). Blends of classes are blends of these."""
        return self.embedding(y_N)

    def synthesize(self, z_NZ: Tensor, e_NE: Tensor) -> Tensor:
        """Latents and class embeddings -> images (N, 3, R, R) in [-1, 1]."""
        first, conditions = self.injection.distribute(*self.reference.prepend_reference(z_NZ, e_NE, self.embed))
        x = self.linear(first)  # (N, 4 4 16ch)
        x = x.unflatten(1, (-1, BASE_RESOLUTION, BASE_RESOLUTION))  # (N, 16ch, 4, 4)
        x = x.contiguous(memory_format=memory_format_of(self.output_conv.weight))
        for index, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            x = block(x, condition)  # (N, C, 2H, 2W) or (N, C, H, W)
            if index in self.attention_after:
                x = self.attention[self.attention_after[index]](x)  # (N, C, H, W)
        x = self.reference.drop_reference(F.relu(self.output_norm(x)))  # (N, ch, R, R)
        x = self.output_conv(x)  # (N, 3, R, R)
        return torch.tanh(x.float())  # (N, 3, R, R)

    def forward(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        return self.synthesize(z_NZ, self.embed(y_N))  # (N, 3, R, R)


class InputInjection:
    """z enters the first layer only; blocks are conditioned on the class. SN-GAN, SA-GAN."""

    def __init__(self, z_dim: int, embedded: int, blocks: list[int]) -> None:
        self.blocks = sum(blocks)
        self.first = z_dim
        self.condition = embedded

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        return z_NZ, [e_NE] * self.blocks


class ChunkInjection:
    """z is split into equal chunks, one for the first layer and one for each stage, joined with the class. BigGAN."""

    def __init__(self, z_dim: int, embedded: int, blocks: list[int]) -> None:
        self.blocks = blocks
        self.first = z_dim // (len(blocks) + 1)
        self.condition = embedded + self.first

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        first, *chunks = z_NZ.split(self.first, dim=1)  # stages + 1 pieces of (N, 20)
        conditions = [torch.cat([e_NE, chunk], dim=1) for chunk in chunks]  # each (N, E + 20)
        return first, [condition for condition, blocks in zip(conditions, self.blocks, strict=True) for _ in range(blocks)]


class ConcatInjection:
    """The first layer and every block are conditioned on the class and all of z. BigGAN-deep."""

    def __init__(self, z_dim: int, embedded: int, blocks: list[int]) -> None:
        self.blocks = sum(blocks)
        self.first = self.condition = embedded + z_dim

    def distribute(self, z_NZ: Tensor, e_NE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the first layer and the condition of each block."""
        both = torch.cat([e_NE, z_NZ], dim=1)  # (N, E + Z)
        return both, [both] * self.blocks


LATENT_INJECTIONS = {"input": InputInjection, "chunks": ChunkInjection, "whole": ConcatInjection}


class Discriminator(nn.Module):
    """Images (N, 3, R, R) in [-1, 1] and classes (N,) -> DiscriminatorOutput."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        assert config.num_classes is not None, "num_classes is found before networks are built"
        self.config = config
        stages = config.discriminator_stages()
        layers = discriminator_layers(config)
        self.condition = discriminator_condition(config)
        self.stem = nn.Identity() if config.stem is None else layers.conv(3, config.stem)
        self.blocks = nn.ModuleList()
        for inputs, outputs, down in (block for stage in stages for block in stage.blocks):
            first = not self.blocks and config.stem is None
            self.blocks.append(config.discriminator_block(inputs, outputs, down, first, layers))
        self.attention, self.attention_after = attention_layers(stages, layers)
        features = stages[-1].outputs
        self.head = discriminator_head(config, layers, features)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        """The batch consists of `groups` equal groups, generated and real ones, which minibatch features keep apart."""
        condition = self.condition(y_N)
        x = self.stem(x)  # (N, ch, R, R)
        for index, block in enumerate(self.blocks):
            x = block(x, condition)  # (N, C, H/2, W/2) or (N, C, H, W)
            if index in self.attention_after:
                x = self.attention[self.attention_after[index]](x)  # (N, C, H, W)
        return self.head(x, y_N, groups)


def attention_layers(stages: list[Stage], layers: LayerFactory) -> tuple[nn.ModuleDict, dict[int, str]]:
    """Self-attention layers by resolution, and {number of the block before it: resolution}."""
    attention, after, blocks = nn.ModuleDict(), {}, 0
    for stage in stages:
        blocks += len(stage.blocks)
        if stage.attention:
            attention[str(stage.resolution)] = SelfAttention(stage.outputs, conv=layers.conv)
            after[blocks - 1] = str(stage.resolution)
    return attention, after


def memory_format_of(weight: Tensor) -> torch.memory_format:
    """The layout in which the caller has put the convolution weights, and so wants the activations."""
    channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def build(config: ResNetConfig, generator: torch.Generator) -> tuple[Generator, Discriminator]:
    """Both networks with freshly drawn weights, in training mode, float32 on the CPU."""
    networks = Generator(config), Discriminator(config)
    share_table(*networks)
    for network in networks:
        initialize(network, INITIALIZERS[config.initialization], generator)
    return networks


def share_table(generator: Generator, discriminator: Discriminator) -> None:
    """Where D's class embedding is a projection of G's, use one table for both: both networks then train it. Mutates D."""
    if isinstance(getattr(discriminator.head, "embedding", None), ProjectedEmbedding):
        discriminator.head.embedding.table = generator.embedding
