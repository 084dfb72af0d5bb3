"""Gaussian noise layers, active in training mode only.

Source: Salimans et al. 2016, sections 5 and 6; docs/papers/improved_gan.md, "Network and training tables" (noise after every
layer of D). On a CPU, drawing normal random numbers would take longer than the layers themselves. There the noise is a
contiguous piece, at a random offset for each forward pass, of a table of four million numbers (the shared noise table of
Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning")."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

TABLE_SIZE = 1 << 22  # numbers


class NormalTable:
    """Table of N(0, 1) numbers, equal in every process; drawn at the first use, then stored."""

    def __init__(self) -> None:
        self.values: dict[torch.dtype, Tensor] = {}

    def sample_like(self, x: Tensor) -> Tensor:
        """N(0, 1) numbers with the shape and type of x. The offset into the table, or the numbers themselves on a GPU and
        for tensors larger than the table, come from torch's global random number generator."""
        if x.device.type != "cpu" or x.numel() > TABLE_SIZE:
            return torch.randn_like(x)
        if not self.values:
            self.values[torch.float32] = torch.randn(TABLE_SIZE, generator=torch.Generator().manual_seed(0))
        if x.dtype not in self.values:
            self.values[x.dtype] = self.values[torch.float32].to(x.dtype)
        offset = int(torch.randint(TABLE_SIZE - x.numel() + 1, ()))
        return self.values[x.dtype][offset : offset + x.numel()].view(x.shape)

    def __deepcopy__(self, memo: dict) -> "NormalTable":
        """The table itself: copies of a network share it."""
        return self


class GaussianNoise(nn.Module):
    """x + std * N(0, 1) in training mode, x in evaluation mode. Several layers may share one table."""

    def __init__(self, std: float, table: NormalTable) -> None:
        super().__init__()
        self.std, self.table = std, table

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.std == 0:
            return x
        return torch.add(x, self.table.sample_like(x), alpha=self.std)


@contextmanager
def disable_noise(network: nn.Module) -> Iterator[None]:
    """Context in which the network's noise and dropout layers are the identity; all other layers keep their mode."""
    noisy = [m for m in network.modules() if isinstance(m, (GaussianNoise, nn.Dropout, nn.Dropout2d)) and m.training]
    for module in noisy:
        module.training = False
    try:
        yield
    finally:
        for module in noisy:
            module.training = True
