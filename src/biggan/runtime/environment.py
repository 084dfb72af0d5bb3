"""The process among others: which rank of how many it is, as torchrun says in environment variables.

Imports nothing large, so that the command line can look before PyTorch is loaded."""

import os
from typing import TYPE_CHECKING, NamedTuple

from biggan.runtime.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class World(NamedTuple):
    """This process among all: its `rank` of `size`, and its `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, the only rank that writes files and logs."""
        return self.rank == 0

    def local_slice(self, values: "Tensor") -> "Tensor":
        """This rank's slice (N / size, ...) of a tensor (N, ...) that all ranks hold; N must be divisible by the number of
        ranks."""
        return values.chunk(self.size)[self.rank]


SINGLE_PROCESS = World()


def environment_world() -> World:
    """The World of a torchrun environment, or a single process without one. Raises ConfigError if it is incomplete, or its
    numbers make no sense."""
    if "WORLD_SIZE" not in os.environ:
        return World()
    size = environment_number("WORLD_SIZE", 1)
    rank, local_rank = (environment_number(name, 0) for name in ("RANK", "LOCAL_RANK"))
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if value >= size:
            raise ConfigError(f"{name}={value} must be below WORLD_SIZE={size}: ranks count from 0; start with torchrun")
    return World(rank, size, local_rank)


def local_world_size() -> int:
    """The number of ranks on this machine. Raises ConfigError where LOCAL_WORLD_SIZE is no number."""
    return environment_number("LOCAL_WORLD_SIZE", 1) if os.environ.get("LOCAL_WORLD_SIZE") else 1


def environment_number(name: str, least: int) -> int:
    """A number of the environment. Raises ConfigError where the variable is missing, no number or below `least`."""
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"WORLD_SIZE is set but {name} is not: start with torchrun, or unset WORLD_SIZE for one process")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise ConfigError(
            f"{name}={text[:40]} in the environment must be a number from {least}: start with torchrun, or unset it"
        )
    return int(text)
