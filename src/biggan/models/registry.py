"""Table of the model families: their configs, and how to build their networks."""

import dataclasses
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
from biggan.runtime.errors import ConfigError, first_line, suggestion
from biggan.runtime.memory import gibibytes, total_memory

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


MEMORY_FRACTION = 0.8
"""Of the machine's memory that the weights of a model may take."""

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


def check_memory(config: ModelConfig, what: str = "the model", copies: int = 1) -> None:
    """Raises ConfigError where the weights of both networks, in float32 and so many `copies`, would not fit into the memory
    of this machine; `what` names the model. They are sized on the meta device: nothing is allocated."""
    limit = total_memory()
    classes = config if config.num_classes is not None else dataclasses.replace(config, num_classes=1)
    try:
        with torch.device("meta"):
            networks = [
                build(classes) for build in (FAMILIES[config.family].generator, FAMILIES[config.family].discriminator)
            ]
    except RuntimeError as error:  # a tensor of more than 2^63 bytes
        raise ConfigError(f"{what} cannot be built: {first_line(error)[:200]}") from error
    sizes = [tensor.nbytes for network in networks for tensor in (*network.parameters(), *network.buffers())]
    needed = copies * sum(sizes)
    if limit is not None and needed > MEMORY_FRACTION * limit:
        raise ConfigError(
            f"{what} takes {gibibytes(needed)}, more than {MEMORY_FRACTION:.0%} of the {gibibytes(limit)} of this machine: "
            "use a smaller model (model.width)"
        )


def build_networks(config: ModelConfig, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with weights initialized from `rng`, in training mode, float32 on the CPU. Data-dependent
    initialization (nn/data_dependent_weight_norm) is left to the caller."""
    check_memory(config)
    family = FAMILIES[config.family]
    networks = family.generator(config), family.discriminator(config)
    resnet.share_class_embedding(*networks)
    for network, initializer in zip(networks, config.initializers, strict=True):
        initialize(network, initializer, rng)
    return networks
