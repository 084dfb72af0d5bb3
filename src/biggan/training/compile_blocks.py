"""The blocks of networks through torch.compile: normalization, gain, bias, ReLU and resampling of a block become few passes
over memory. Convolutions stay those of the libraries."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from biggan.nn.batch_norm import BatchNorm
from biggan.objectives.regularizer import Regularizer
from biggan.runtime.errors import ConfigError

VARIANTS = 64
"""Forms of one block, by shapes and by what needs gradients, that are compiled before torch gives up; its own limit is 8."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the forward passes of the blocks of a network, and the part of a generator after them. Mutates the network."""
    torch._dynamo.config.recompile_limit = VARIANTS
    for owner, name in [*((block, "forward") for block in network.blocks), (network, "to_image")]:
        if hasattr(owner, name):
            compiled = torch.compile(getattr(owner, name), fullgraph=True, dynamic=False, backend=backend)
            setattr(owner, name, compiled)


def should_compile(
    wanted: Literal["auto", "on", "off"],
    device: torch.device,
    network: nn.Module,
    regularizers: Sequence[Regularizer],
    recomputed: bool,
) -> bool:
    """Whether a network is compiled. Raises ConfigError where that is asked for and cannot be."""
    twice = [regularizer.name for regularizer in regularizers if regularizer.differentiates_twice]
    obstacle = None
    if not isinstance(getattr(network, "blocks", None), nn.ModuleList):
        obstacle = "networks of this family are not made of blocks"
    elif twice:
        obstacle = f"{twice[0]} needs second derivatives, which compiled blocks have not"
    elif any(isinstance(layer, BatchNorm) and layer.sum_over_ranks is not None for layer in network.modules()):
        obstacle = (
            "batch statistics that ranks share are exchanged inside the blocks (train.sync_bn_group_size=1 shares none)"
        )
    elif recomputed:
        obstacle = "blocks that are computed again (train.activation_checkpointing) are not compiled"
    if wanted == "on" and obstacle is not None:
        raise ConfigError(f"train.compile=on: {obstacle}: use --train.compile auto")
    return obstacle is None and (wanted == "on" or (wanted == "auto" and device.type == "cuda"))
