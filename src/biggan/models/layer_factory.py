"""What the papers varied, as one config for every residual family, and how each choice becomes the makers of layers.

A family subclasses `ResNetConfig` with its own defaults and its table of layers (biggan, with SA-GAN and SN-GAN;
biggan_deep); the networks (residual) are built from what is made here and look at sizes alone. Sources: BigGAN appendices
B, H and I; docs/papers/biggan.md, "Generator" to "Spectral normalization", "Inherited components", "Negative results and
sweeps"."""

from collections.abc import Callable
from functools import partial

from torch import nn

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
    """What is done to the generator's weights."""
    rules = {
        "spectral": partial(SpectralNorm, epsilon=config.spectral_norm_epsilon),
        "weight-norm": WeightNorm,
        "plain": Identity,
    }
    return rules[config.generator.reparametrization]


def generator_layers(config: ResNetConfig, condition: int) -> LayerFactory:
    """Layers of the generator, whose norms get conditions of size `condition`."""
    reparametrization = build_reparametrization(config)
    linear = partial(Linear, reparametrization=reparametrization)
    maps = {
        "linear": lambda channels: linear(condition, channels, bias=False),
        "mlp": lambda channels: MLPMap(condition, channels, linear=linear),
    }
    make_map = maps[config.conditioning]
    if config.class_embedding == "per-class":
        make_map = partial(ClassConditionalTable, condition)

    def norm(channels: int) -> nn.Module:
        return ConditionalNorm(normalize=normalize(config, channels), gain=make_map(channels), bias=make_map(channels))

    conv = partial(
        Conv2d,
        reparametrization=reparametrization,
        dilation=config.generator.dilation,
        interpolation=config.generator.upsampling,
    )
    return LayerFactory(
        linear=linear,
        embedding=partial(Embedding, reparametrization=reparametrization),
        conv=with_kernel(conv, config.generator.kernel_size),
        norm=norm,
        upsample=partial(upsample, interpolation=config.generator.upsampling),
    )


def class_embedding_layer(config: ResNetConfig) -> tuple[nn.Module, int]:
    """The module from classes to the conditions of the generator's norms, and the size of a condition."""
    if config.class_embedding == "per-class":
        return OneHot(config.num_classes), config.num_classes
    return SharedEmbedding(config.num_classes, config.embedding_dim), config.embedding_dim


def projection_embedding(config: ResNetConfig, layers: LayerFactory, features: int) -> nn.Module:
    """The discriminator's class embedding, (N,) int64 -> (N, F)."""
    if config.class_embedding != "shared-with-discriminator":
        return layers.embedding(config.num_classes, features)
    table = SharedEmbedding(config.num_classes, config.embedding_dim)  # `residual.build` puts the generator's in its place
    return ProjectedEmbedding(table, layers.linear(config.embedding_dim, features, bias=False))


def discriminator_head(config: ResNetConfig, layers: LayerFactory, features: int) -> nn.Module:
    """The end of the discriminator."""
    minibatch, kernels = build_minibatch_discrimination(
        features, config.discriminator.minibatch_kernels, config.discriminator.minibatch_kernel_dim
    )
    more = {"dropout": config.discriminator.dropout, "minibatch": minibatch}
    if config.discriminator.head == "classes":
        return PooledClassHead(linear=layers.linear(features + kernels, config.num_classes), **more)
    embedding = projection_embedding(config, layers, features)
    return ProjectionHead(linear=layers.linear(features + kernels, 1), embedding=embedding, **more)


def discriminator_condition(config: ResNetConfig) -> nn.Module:
    """The module from classes to the conditions of the discriminator's norms."""
    return OneHot(config.num_classes) if config.discriminator.norm == "conditional-batch" else NoCondition()


def normalize(config: ResNetConfig, channels: int) -> nn.Module:
    """What the generator's norms do before gain and bias."""
    makers = {
        "batch": lambda: BatchNorm(channels, epsilon=config.norm_epsilon),
        "virtual": lambda: VirtualBatchNorm(config.generator.reference_batch_size, epsilon=config.norm_epsilon),
        "none": nn.Identity,
    }
    return makers[config.generator.norm]()


def discriminator_layers(config: ResNetConfig) -> LayerFactory:
    """Layers of the discriminator; its conditional norms get class weights (N, K)."""
    reparametrization = partial(SpectralNorm, epsilon=config.spectral_norm_epsilon)

    def conditional(channels: int) -> nn.Module:
        tables = {name: ClassConditionalTable(config.num_classes, channels) for name in ("gain", "bias")}
        return ConditionalNorm(normalize=BatchNorm(channels, epsilon=config.norm_epsilon), **tables)

    norms = {
        "none": lambda channels: NoNorm(),
        "batch": lambda channels: AffineNorm(channels, normalize=BatchNorm(channels, epsilon=config.norm_epsilon)),
        "conditional-batch": conditional,
    }
    conv = partial(Conv2d, reparametrization=reparametrization, dilation=config.discriminator.dilation)
    return LayerFactory(
        linear=partial(Linear, reparametrization=reparametrization),
        embedding=partial(Embedding, reparametrization=reparametrization),
        conv=with_kernel(conv, config.discriminator.kernel_size),
        norm=norms[config.discriminator.norm],
        upsample=partial(upsample, interpolation="nearest"),
    )


def with_kernel(conv: Callable[..., nn.Module], usual: int) -> Callable[..., nn.Module]:
    """The maker with a usual kernel, which a third argument overrides."""

    def make(inputs: int, outputs: int, kernel: int = usual, **options: object) -> nn.Module:
        return conv(inputs, outputs, kernel, **options)

    return make
