"""The blocks of networks through torch.compile: normalization, gain, bias, ReLU and resampling of a block become few passes
over memory. Convolutions stay those of the libraries."""

from collections.abc import Sequence
from types import MethodType
from typing import Literal

import torch
from torch import nn

from biggan.nn.residual_blocks import RESIDUAL_BLOCKS
from biggan.objectives.regularizer import Regularizer
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError

VARIANTS = 64
"""Forms of one block, by shapes and by what needs gradients, that are compiled before torch gives up; its own limit is 8."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks of a network, and the part of a generator after them. Mutates the network. A copy of it computes
    with its own weights."""
    torch._dynamo.config.recompile_limit = VARIANTS
    for block in network.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=backend)
    to_image = getattr(type(network), "to_image", None)
    if to_image is not None:
        compiled = torch.compile(to_image, fullgraph=True, dynamic=False, backend=backend)
        setattr(network, "to_image", MethodType(compiled, network))  # noqa: B010


def should_compile(
    wanted: Literal["auto", "on", "off"],
    device: torch.device,
    network: nn.Module,
    regularizers: Sequence[Regularizer],
    recomputed: bool,
    world: World,
) -> bool:
    """Whether a network is compiled. Raises ConfigError where that is asked for and cannot be."""
    twice = [regularizer.name for regularizer in regularizers if regularizer.differentiates_twice]
    obstacle = None
    if not all(isinstance(block, RESIDUAL_BLOCKS) for block in network.blocks):
        obstacle = "only the residual blocks of the BigGAN families are compiled"
    elif twice:
        obstacle = f"{twice[0]} needs second derivatives, which compiled blocks have not"
    elif world.size > 1:
        obstacle = "networks of several ranks are not compiled"
    elif recomputed:
        obstacle = "blocks that are computed again (train.activation_checkpointing) are not compiled"
    if wanted == "on" and obstacle is not None:
        raise ConfigError(f"train.compile=on: {obstacle}: use --train.compile auto")
    return obstacle is None and (wanted == "on" or (wanted == "auto" and device.type == "cuda"))
