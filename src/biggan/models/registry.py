"""The table of model families: one line each."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from biggan.models import improved_gan, improved_gan_imagenet, resnet
from biggan.models.biggan import BigGANConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.models.improved_gan_config import ConvConfig, MLPConfig
from biggan.models.improved_gan_imagenet import ImprovedImageNetConfig
from biggan.runtime.errors import ConfigError, suggestion

ModelConfig = (  # told apart by `family`
    BigGANConfig | BigGANDeepConfig | SAGANConfig | SNGANConfig | MLPConfig | ConvConfig | ImprovedImageNetConfig
)


class Family(NamedTuple):
    """How to make the networks of a family from its config."""

    config: type[ModelConfig]
    generator: Callable[[ModelConfig], nn.Module]
    discriminator: Callable[[ModelConfig], nn.Module]
    build: Callable[[ModelConfig, torch.Generator], tuple[nn.Module, nn.Module]]


def residual_family(config: type[ModelConfig]) -> Family:
    """A family that differs from the others by its config alone."""
    return Family(config, resnet.Generator, resnet.Discriminator, resnet.build)


FAMILIES: dict[str, Family] = {
    "biggan": residual_family(BigGANConfig),
    "biggan-deep": residual_family(BigGANDeepConfig),
    "sagan": residual_family(SAGANConfig),
    "sngan": residual_family(SNGANConfig),
    "improved-mlp": Family(MLPConfig, improved_gan.mlp_generator, improved_gan.mlp_discriminator, improved_gan.build),
    "improved-conv": Family(ConvConfig, improved_gan.conv_generator, improved_gan.conv_discriminator, improved_gan.build),
    "improved-imagenet": Family(
        ImprovedImageNetConfig,
        improved_gan_imagenet.Generator,
        improved_gan_imagenet.Discriminator,
        improved_gan_imagenet.build,
    ),
}


def check_layer(config: ModelConfig, name: str) -> None:
    """Raises ConfigError where the family's discriminator has no layer of this name whose output is one tensor of features
    per image. `config` is resolved; nothing is computed."""
    outputs: list[object] = []
    with torch.device("meta"), torch.no_grad():
        network, y_N = FAMILIES[config.family].discriminator(config), torch.zeros(2, dtype=torch.int64)
        layers = dict(network.named_modules())
        if name and name in layers:
            layers[name].register_forward_hook(lambda layer, inputs, output: outputs.append(output))
            network(torch.empty(2, 3, config.resolution, config.resolution), y_N)
    if not outputs or not all(isinstance(output, torch.Tensor) and len(output) == 2 for output in outputs):
        known = [layer for layer in layers if layer not in ("", "head", name) and layer.count(".") < 2]
        raise ConfigError(
            f"objective.feature_layer={name} is no layer of this discriminator that gives features; "
            f"{suggestion(name, known)}"
        )


def build_networks(config: ModelConfig, generator: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with freshly drawn weights, in training mode, float32 on the CPU."""
    return FAMILIES[config.family].build(config, generator)
