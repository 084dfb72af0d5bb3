"""The table of model families: one line each."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from biggan.models import biggan

ModelConfig = biggan.BigGANConfig  # a union of tagged configs as families are added


class Family(NamedTuple):
    """How to make the networks of a family from its config."""

    generator: type[nn.Module]
    discriminator: type[nn.Module]
    build: Callable[[ModelConfig, torch.Generator], tuple[nn.Module, nn.Module]]


FAMILIES: dict[str, Family] = {
    "biggan": Family(biggan.Generator, biggan.Discriminator, biggan.build),
}


def build(config: ModelConfig, generator: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with freshly drawn weights, in training mode, float32 on the CPU."""
    return FAMILIES[config.family].build(config, generator)
