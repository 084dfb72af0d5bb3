"""Construction of the layers of residual networks from the options of a ResNetConfig.

All decisions about the kind of a layer (norm, reparametrization, class embedding, head) are made here; the networks
(models/resnet) and blocks (nn/residual_blocks) only choose sizes. Sources: BigGAN appendices B, H and I;
docs/papers/biggan.md, "Generator" to "Spectral normalization", "Inherited components", "Negative results and sweeps"."""

from collections.abc import Callable
from functools import partial

from torch import nn

from biggan.models.improved_gan_config import ImprovedGANConfig
from biggan.models.resnet_config import ResNetConfig
from biggan.nn.batch_norm import AffineNorm, BatchNorm, ClassConditionalTable, ConditionalNorm, MLPMap, NoNorm
from biggan.nn.embeddings import NoCondition, OneHot, ProjectedEmbedding, SharedEmbedding
from biggan.nn.heads import PooledClassHead, ProjectionHead
from biggan.nn.layers import Conv2d, Embedding, Linear, upsample
from biggan.nn.minibatch_discrimination import build_minibatch_discrimination
from biggan.nn.reparametrization import Identity, Reparametrization, WeightNorm
from biggan.nn.residual_blocks import LayerFactory
from biggan.nn.spectral_norm import SpectralNorm
from biggan.nn.virtual_batch_norm import VirtualBatchNorm


def build_reparametrization(config: ResNetConfig) -> Reparametrization:
    """Reparametrization of the generator's weights."""
    reparametrizations: dict[str, Reparametrization] = {
        "spectral": partial(SpectralNorm, epsilon=config.spectral_norm_epsilon),
        "weight-norm": WeightNorm,
        "plain": Identity,
    }
    return reparametrizations[config.generator.reparametrization]


def generator_layers(config: ResNetConfig, condition_dim: int) -> LayerFactory:
    """Layer factory of the generator, whose norms have conditions of size `condition_dim`."""
    reparametrization = build_reparametrization(config)
    linear = partial(Linear, reparametrization=reparametrization)
    condition_maps = {
        "linear": lambda channels: linear(condition_dim, channels, bias=False),
        "mlp": lambda channels: MLPMap(condition_dim, channels, linear=linear),
    }
    build_map = condition_maps[config.conditioning]
    if config.class_embedding == "per-class":
        build_map = partial(ClassConditionalTable, condition_dim)

    def norm(channels: int) -> nn.Module:
        normalize = generator_normalization(config, channels)
        return ConditionalNorm(normalize=normalize, gain=build_map(channels), bias=build_map(channels))

    conv = partial(
        Conv2d,
        reparametrization=reparametrization,
        dilation=config.generator.dilation,
        interpolation=config.generator.upsampling,
    )
    return LayerFactory(
        linear=linear,
        embedding=partial(Embedding, reparametrization=reparametrization),
        conv=with_default_kernel(conv, config.generator.kernel_size),
        norm=norm,
        upsample=partial(upsample, interpolation=config.generator.upsampling),
    )


def build_class_embedding(config: ResNetConfig) -> tuple[nn.Module, int]:
    """The generator's class embedding, (N,) int64 -> (N, E), and its size E."""
    if config.class_embedding == "per-class":
        return OneHot(config.num_classes), config.num_classes
    return SharedEmbedding(config.num_classes, config.embedding_dim), config.embedding_dim


def build_projection_embedding(config: ResNetConfig, layers: LayerFactory, features: int) -> nn.Module:
    """The class embedding of the discriminator's projection head, (N,) int64 -> (N, F)."""
    if config.class_embedding != "shared-with-discriminator":
        return layers.embedding(config.num_classes, features)
    table = SharedEmbedding(
        config.num_classes, config.embedding_dim
    )  # registry.build_networks replaces it by the generator's
    return ProjectedEmbedding(table, layers.linear(config.embedding_dim, features, bias=False))


def build_discriminator_head(config: ResNetConfig, layers: LayerFactory, features: int) -> nn.Module:
    """The discriminator's output head (nn/heads) for this number of features."""
    minibatch, kernels = build_minibatch_discrimination(
        features, config.discriminator.minibatch_kernels, config.discriminator.minibatch_kernel_dim
    )
    options = {"dropout": config.discriminator.dropout, "minibatch": minibatch}
    if config.discriminator.head == "classes":
        return PooledClassHead(linear=layers.linear(features + kernels, config.num_classes), **options)
    embedding = build_projection_embedding(config, layers, features)
    return ProjectionHead(linear=layers.linear(features + kernels, 1), embedding=embedding, **options)


def build_discriminator_condition(config: ResNetConfig) -> nn.Module:
    """Module from classes (N,) to the condition of the discriminator's norms: one-hot (N, K), or None if unconditional."""
    return OneHot(config.num_classes) if config.discriminator.norm == "conditional-batch" else NoCondition()


def generator_normalization(config: ResNetConfig | ImprovedGANConfig, channels: int) -> nn.Module:
    """The normalization in the generator's norms, before gain and bias."""
    normalizations = {
        "batch": lambda: BatchNorm(channels, epsilon=config.norm_epsilon),
        "virtual": lambda: VirtualBatchNorm(config.generator.reference_batch_size, epsilon=config.norm_epsilon),
        "none": nn.Identity,
    }
    return normalizations[config.generator.norm]()


def discriminator_layers(config: ResNetConfig) -> LayerFactory:
    """Layer factory of the discriminator, whose conditional norms have one-hot conditions (N, K)."""
    reparametrization = partial(SpectralNorm, epsilon=config.spectral_norm_epsilon)

    def conditional_norm(channels: int) -> nn.Module:
        tables = {name: ClassConditionalTable(config.num_classes, channels) for name in ("gain", "bias")}
        return ConditionalNorm(normalize=BatchNorm(channels, epsilon=config.norm_epsilon), **tables)

    norms = {
        "none": lambda channels: NoNorm(),
        "batch": lambda channels: AffineNorm(channels, normalize=BatchNorm(channels, epsilon=config.norm_epsilon)),
        "conditional-batch": conditional_norm,
    }
    conv = partial(Conv2d, reparametrization=reparametrization, dilation=config.discriminator.dilation)
    return LayerFactory(
        linear=partial(Linear, reparametrization=reparametrization),
        embedding=partial(Embedding, reparametrization=reparametrization),
        conv=with_default_kernel(conv, config.discriminator.kernel_size),
        norm=norms[config.discriminator.norm],
        upsample=partial(upsample, interpolation="nearest"),
    )


def with_default_kernel(conv: Callable[..., nn.Module], kernel_size: int) -> Callable[..., nn.Module]:
    """`conv(inputs, outputs, kernel, ...)` with a default kernel size."""

    def build_conv(inputs: int, outputs: int, kernel: int = kernel_size, **options: object) -> nn.Module:
        return conv(inputs, outputs, kernel, **options)

    return build_conv
