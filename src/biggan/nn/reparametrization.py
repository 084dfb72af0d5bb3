"""TODO: split from nn.spectral."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast

Reparametrization = Callable[[int], nn.Module]  # outputs -> module: weight -> weight as it is used


class WeightNorm(nn.Module):
    """gain * weight / ||weight||, a length per output (Salimans & Kingma 2016): direction and length learn apart."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(outputs))

    @torch.no_grad()
    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """The gains start as the lengths that were drawn, so that the weight is what it was; mutates them."""
        self.gain.copy_(weight.flatten(1).norm(dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        """In float32 whatever the autocast state."""
        with without_autocast(weight.device):
            scale_O = self.gain / weight.flatten(1).norm(dim=1)
            return weight * scale_O.view(-1, *[1] * (weight.dim() - 1))


class Identity(nn.Module):
    """The weight as it is."""

    def __init__(self, outputs: int) -> None:
        super().__init__()

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight
