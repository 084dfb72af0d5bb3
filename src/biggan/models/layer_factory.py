"""What the papers varied, as one config for every residual family, and how each choice becomes the makers of layers.

A family subclasses `ResidualConfig` with its own defaults and its table of layers (biggan, with SA-GAN and SN-GAN;
biggan_deep); the networks (residual) are built from what is made here and look at sizes alone. Sources: BigGAN appendices
B, H and I; docs/papers/biggan.md, "Generator" to "Spectral normalization", "Inherited components", "Negative results and
sweeps"."""

from collections.abc import Callable
from functools import partial

from torch import nn

from biggan.models.resnet_config import ResidualConfig
from biggan.nn.batch_norm import AffineNorm, ClassTable, ConditionalNorm, NoNorm, PerceptronMap, Standardize
from biggan.nn.embeddings import NoCondition, OneHot, ProjectedEmbedding, SharedEmbedding
from biggan.nn.heads import PooledClassHead, ProjectionHead
from biggan.nn.layers import Conv2d, Embedding, Linear, upsample
from biggan.nn.minibatch_discrimination import comparison
from biggan.nn.reparametrization import Plain, WeightNorm, WeightRule
from biggan.nn.residual_blocks import Parts
from biggan.nn.spectral_norm import Spectral
from biggan.nn.virtual_batch_norm import VirtualStandardize


def weight_rule(config: ResidualConfig) -> WeightRule:
    """What is done to the generator's weights."""
    rules = {"spectral": partial(Spectral, epsilon=config.spectral_epsilon), "weight-norm": WeightNorm, "plain": Plain}
    return rules[config.generator_weights]


def generator_parts(config: ResidualConfig, condition: int) -> Parts:
    """Makers for the generator, whose norms are told a condition of that size."""
    rule = weight_rule(config)
    linear = partial(Linear, rule=rule)
    maps = {
        "linear": lambda channels: linear(condition, channels, bias=False),
        "perceptron": lambda channels: PerceptronMap(condition, channels, linear=linear),
    }
    make_map = maps[config.conditioning]
    if config.class_embedding == "per-class":
        make_map = partial(ClassTable, condition)

    def norm(channels: int) -> nn.Module:
        return ConditionalNorm(standardize=standardize(config, channels), gain=make_map(channels), bias=make_map(channels))

    conv = partial(Conv2d, rule=rule, dilation=config.generator_dilation, interpolation=config.upsampling)
    return Parts(
        linear=linear,
        embedding=partial(Embedding, rule=rule),
        conv=with_kernel(conv, config.generator_kernel),
        norm=norm,
        upsample=partial(upsample, interpolation=config.upsampling),
    )


def class_vectors(config: ResidualConfig) -> tuple[nn.Module, int]:
    """What turns a class into what the generator's norms are told of it, and the size of that."""
    if config.class_embedding == "per-class":
        return OneHot(config.num_classes), config.num_classes
    return SharedEmbedding(config.num_classes, config.embedding_dim), config.embedding_dim


def projection(config: ResidualConfig, parts: Parts, features: int) -> nn.Module:
    """The discriminator's class embedding, (N,) int64 -> (N, F)."""
    if config.class_embedding != "shared-with-discriminator":
        return parts.embedding(config.num_classes, features)
    table = SharedEmbedding(config.num_classes, config.embedding_dim)  # `residual.build` puts the generator's in its place
    return ProjectedEmbedding(table, parts.linear(config.embedding_dim, features, bias=False))


def discriminator_head(config: ResidualConfig, parts: Parts, features: int) -> nn.Module:
    """The end of the discriminator."""
    minibatch, kernels = comparison(features, config.minibatch_kernels, config.minibatch_dimensions)
    more = {"dropout": config.discriminator_dropout, "minibatch": minibatch}
    if config.discriminator_head == "classes":
        return PooledClassHead(linear=parts.linear(features + kernels, config.num_classes), **more)
    embedding = projection(config, parts, features)
    return ProjectionHead(linear=parts.linear(features + kernels, 1), embedding=embedding, **more)


def discriminator_condition(config: ResidualConfig) -> nn.Module:
    """What turns a class into what the discriminator's norms are told."""
    return OneHot(config.num_classes) if config.discriminator_norm == "conditional-batch" else NoCondition()


def standardize(config: ResidualConfig, channels: int) -> nn.Module:
    """What the generator's norms do before gain and bias."""
    makers = {
        "batch": lambda: Standardize(channels, epsilon=config.norm_epsilon),
        "virtual": lambda: VirtualStandardize(config.reference_batch, epsilon=config.norm_epsilon),
        "none": nn.Identity,
    }
    return makers[config.generator_norm]()


def discriminator_parts(config: ResidualConfig) -> Parts:
    """Makers for the discriminator; its conditional norms are told class weights (N, K)."""
    rule = partial(Spectral, epsilon=config.spectral_epsilon)

    def conditional(channels: int) -> nn.Module:
        tables = {name: ClassTable(config.num_classes, channels) for name in ("gain", "bias")}
        return ConditionalNorm(standardize=Standardize(channels, epsilon=config.norm_epsilon), **tables)

    norms = {
        "none": lambda channels: NoNorm(),
        "batch": lambda channels: AffineNorm(channels, standardize=Standardize(channels, epsilon=config.norm_epsilon)),
        "conditional-batch": conditional,
    }
    conv = partial(Conv2d, rule=rule, dilation=config.discriminator_dilation)
    return Parts(
        linear=partial(Linear, rule=rule),
        embedding=partial(Embedding, rule=rule),
        conv=with_kernel(conv, config.discriminator_kernel),
        norm=norms[config.discriminator_norm],
        upsample=partial(upsample, interpolation="nearest"),
    )


def with_kernel(conv: Callable[..., nn.Module], usual: int) -> Callable[..., nn.Module]:
    """The maker with a usual kernel, which a third argument overrides."""

    def make(inputs: int, outputs: int, kernel: int = usual, **options: object) -> nn.Module:
        return conv(inputs, outputs, kernel, **options)

    return make
