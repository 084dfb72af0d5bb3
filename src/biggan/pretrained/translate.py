"""Conversion of the tensors of another implementation to our names and shapes.

Every source tensor is used exactly once or matches a short list of exceptions; every shape is checked; none may be missing.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from biggan.checkpoints.tensors import Tensors
from biggan.models.registry import ModelConfig
from biggan.runtime.errors import CheckpointError
from biggan.runtime.tensor_files import check_weights, other_precisions
from biggan.runtime.text import printable, shorten
from biggan.sampling.latents import LatentConfig

logger = logging.getLogger(__name__)


class ImportedModel(NamedTuple):
    """A model of another implementation, converted to our config and tensor names."""

    model: ModelConfig
    latent: LatentConfig
    weights: dict[str, Tensors]
    """Tensors by network: "generator", and where the source has them "training_generator", "discriminator" and
    "statistics"."""
    statistics_at: tuple[float, ...]
    """The truncations that "statistics" are for, ascending."""
    source: str
    """The implementation and the file, for people."""


Rename = Callable[[str, Tensor], tuple[str, Tensor]]  # (source name, tensor) -> (our name, tensor)


def translate(source: Tensors, network: nn.Module, rename: Rename, *, exceptions: Sequence[str], file: str) -> Tensors:
    """The state of `network` from the tensors of another implementation, read from `file`. `rename` maps names and tensors;
    `exceptions` are patterns of source names without counterpart.

    Raises CheckpointError, which names the tensor, where one is unexpected, missing, duplicate, not finite or of another
    shape, or is of whole numbers.
    """
    check_weights(source, Path(file))
    if kinds := other_precisions(source):
        logger.info("%s: weights of %s are converted to float32", file, kinds)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: Tensors = {}
    for theirs, tensor in source.items():
        if any(re.fullmatch(pattern, theirs) for pattern in exceptions):
            continue
        ours, value = rename(theirs, tensor)
        theirs = shorten(printable(theirs), 100)
        if ours not in expected:
            raise CheckpointError(f"{file}: {theirs} has no place in a {network.config.family} of this size")
        if ours in state:
            raise CheckpointError(f"{file}: {theirs} is a second tensor for {ours}")
        if value.shape != expected[ours]:
            raise CheckpointError(f"{file}: {theirs} is {tuple(value.shape)}, {ours} is {tuple(expected[ours])}")
        if not value.is_floating_point():
            raise CheckpointError(f"{file}: {theirs} holds numbers of type {value.dtype}, not weights".replace("torch.", ""))
        state[ours] = value.float().contiguous()
    missing = [name for name in expected if name not in state]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{file}: nothing for {missing[0]}{others}: the file is incomplete, or of another network")
    return state


def require_tensor(source: Tensors, name: str, dimensions: int, file: str) -> Tensor:
    """A tensor that the config is inferred from. Raises CheckpointError where it is missing or has another number of
    dimensions."""
    if name not in source:
        raise CheckpointError(f"{file}: no tensor {name!r}: not the file of such a network")
    if source[name].dim() != dimensions:
        raise CheckpointError(f"{file}: {name} has {source[name].dim()} dimensions, not {dimensions}")
    return source[name]


def divide_exactly(number: int, by: int, name: str, file: str) -> int:
    """number / by, for the number of rows of the tensor `name`. Raises CheckpointError where it is not divisible, or 0."""
    if number % by or number < by:
        raise CheckpointError(f"{file}: {name} has {number} rows, which is no multiple of {by}")
    return number // by
