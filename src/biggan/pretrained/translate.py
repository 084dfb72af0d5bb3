"""Carrying tensors from names of another implementation to ours: every source tensor is used exactly once or is on a short
list of exceptions, every shape is checked, nothing may be missing.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from biggan.checkpoints.tensors import Tensors
from biggan.models.registry import ModelConfig
from biggan.runtime.errors import CheckpointError
from biggan.sampling.latents import LatentConfig


class Foreign(NamedTuple):
    """A model of another implementation in our names: "generator", and perhaps "training_generator", "discriminator" and
    "statistics" (for the truncations `statistics_at`)."""

    model: ModelConfig
    latent: LatentConfig
    parts: dict[str, Tensors]
    statistics_at: tuple[float, ...]
    source: str


Rename = Callable[[str, Tensor], tuple[str, Tensor]]  # their name and tensor -> ours


def translate(source: Tensors, network: nn.Module, rename: Rename, *, exceptions: Sequence[str], what: str) -> Tensors:
    """The state of `network` from foreign tensors. `exceptions`: patterns of names that have no counterpart.

    Raises CheckpointError naming the tensor that is surplus, missing, given twice, or of another shape.
    """
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: Tensors = {}
    for theirs, tensor in source.items():
        if any(re.fullmatch(pattern, theirs) for pattern in exceptions):
            continue
        ours, value = rename(theirs, tensor)
        if ours not in expected:
            raise CheckpointError(f"{what}: {theirs} has no place in a {network.config.family} of this size")
        if ours in state:
            raise CheckpointError(f"{what}: {theirs} is a second tensor for {ours}")
        if value.shape != expected[ours]:
            raise CheckpointError(f"{what}: {theirs} is {tuple(value.shape)}, {ours} is {tuple(expected[ours])}")
        if not value.isfinite().all():
            raise CheckpointError(f"{what}: {theirs} holds numbers that are not finite: the file is damaged")
        state[ours] = value.float().contiguous()
    missing = [name for name in expected if name not in state]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{what}: nothing for {missing[0]}{more}: the file is incomplete, or of another network")
    return state


def needed(source: Tensors, name: str, dimensions: int, what: str) -> Tensor:
    """A tensor that the config is read from. Raises CheckpointError where it is absent, or has other dimensions."""
    if name not in source:
        raise CheckpointError(f"{what}: no tensor {name!r}: not the file of such a network")
    if source[name].dim() != dimensions:
        raise CheckpointError(f"{what}: {name} has {source[name].dim()} dimensions, not {dimensions}")
    return source[name]


def divided(number: int, by: int, name: str, what: str) -> int:
    """number / by. Raises CheckpointError where that leaves a remainder."""
    if number % by or number < by:
        raise CheckpointError(f"{what}: {name} has {number} rows, which is no multiple of {by}")
    return number // by
