"""Table of the model families: their configs, and how to build their networks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from biggan.models import improved_gan, improved_gan_imagenet, resnet
from biggan.models.biggan import BigGANConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.models.improved_gan_config import ConvConfig, MLPConfig
from biggan.models.improved_gan_imagenet import ImprovedImageNetConfig
from biggan.nn.initialization import initialize
from biggan.runtime.errors import ConfigError, suggestion

ModelConfig = (  # distinguished by the field `family` in JSON
    BigGANConfig | BigGANDeepConfig | SAGANConfig | SNGANConfig | MLPConfig | ConvConfig | ImprovedImageNetConfig
)


class Family(NamedTuple):
    """The config class of a model family and functions that build its networks."""

    config: type[ModelConfig]
    generator: Callable[[ModelConfig], nn.Module]
    """Builds the generator, with uninitialized weights."""
    discriminator: Callable[[ModelConfig], nn.Module]
    """Builds the discriminator, with uninitialized weights."""


def resnet_family(config: type[ModelConfig]) -> Family:
    """A residual family; residual families differ in their config alone."""
    return Family(config, resnet.Generator, resnet.Discriminator)


FAMILIES: dict[str, Family] = {
    "biggan": resnet_family(BigGANConfig),
    "biggan-deep": resnet_family(BigGANDeepConfig),
    "sagan": resnet_family(SAGANConfig),
    "sngan": resnet_family(SNGANConfig),
    "improved-mlp": Family(MLPConfig, improved_gan.mlp_generator, improved_gan.mlp_discriminator),
    "improved-conv": Family(ConvConfig, improved_gan.conv_generator, improved_gan.conv_discriminator),
    "improved-imagenet": Family(
        ImprovedImageNetConfig,
        improved_gan_imagenet.Generator,
        improved_gan_imagenet.Discriminator,
    ),
}


def check_feature_layer(config: ModelConfig, name: str) -> None:
    """Raises ConfigError if the discriminator has no layer of this name whose output is one tensor with an entry per image.
    `config.num_classes` must be known. Runs the network on the meta device, without computation."""
    outputs: list[object] = []
    with torch.device("meta"), torch.no_grad():
        network, y_N = FAMILIES[config.family].discriminator(config), torch.zeros(2, dtype=torch.int64)
        layers = dict(network.named_modules())
        if name and name in layers:
            layers[name].register_forward_hook(lambda layer, inputs, output: outputs.append(output))
            network(torch.empty(2, 3, config.resolution, config.resolution), y_N)
    if not outputs or not all(isinstance(output, torch.Tensor) and len(output) == 2 for output in outputs):
        candidates = [layer for layer in layers if layer not in ("", "head", name) and layer.count(".") < 2]
        raise ConfigError(
            f"objective.feature_layer={name} is no layer of this discriminator whose output is features; "
            f"{suggestion(name, candidates)}"
        )


def build_networks(config: ModelConfig, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with weights initialized from `rng`, in training mode, float32 on the CPU. Data-dependent
    initialization (nn/data_dependent_weight_norm) is left to the caller."""
    family = FAMILIES[config.family]
    networks = family.generator(config), family.discriminator(config)
    resnet.share_class_embedding(*networks)
    for network, initializer in zip(networks, config.initializers, strict=True):
        initialize(network, initializer, rng)
    return networks
