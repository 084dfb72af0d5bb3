"""What layers add at random in training, and nothing of it in evaluation: Gaussian noise.

Source: Salimans et al. 2016, sections 5 and 6; docs/papers/improved_gan.md, "Network and training tables" (after every
layer of D). On a CPU drawing normal numbers would take longer than the layers themselves: they are read there from a
table of four million, from a random place on in each pass (the noise table of Salimans et al. 2017, "Evolution
strategies")."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

TABLE = 1 << 22  # numbers


class NormalTable:
    """N(0, 1) numbers, the same in every process; made when they are first asked for, then kept."""

    def __init__(self) -> None:
        self.values: dict[torch.dtype, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Normal numbers of the shape and type of x. Where they begin comes from torch's own generator of random numbers."""
        if x.device.type != "cpu" or x.numel() > TABLE:
            return torch.randn_like(x)
        if not self.values:
            self.values[torch.float32] = torch.randn(TABLE, generator=torch.Generator().manual_seed(0))
        if x.dtype not in self.values:
            self.values[x.dtype] = self.values[torch.float32].to(x.dtype)
        first = int(torch.randint(TABLE - x.numel() + 1, ()))
        return self.values[x.dtype][first : first + x.numel()].view(x.shape)

    def __deepcopy__(self, memo: dict) -> "NormalTable":
        """Copies of a network share it."""
        return self


class GaussianNoise(nn.Module):
    """x + deviation * N(0, 1) in training, x in evaluation. Layers may share one table."""

    def __init__(self, deviation: float, table: NormalTable) -> None:
        super().__init__()
        self.deviation, self.table = deviation, table

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.deviation == 0:
            return x
        return torch.add(x, self.table.like(x), alpha=self.deviation)


@contextmanager
def disable_noise(network: nn.Module) -> Iterator[None]:
    """Inside, the network neither drops nor adds anything at random, whatever its mode; all else is as it was."""
    noisy = [m for m in network.modules() if isinstance(m, (GaussianNoise, nn.Dropout, nn.Dropout2d)) and m.training]
    for module in noisy:
        module.training = False
    try:
        yield
    finally:
        for module in noisy:
            module.training = True
