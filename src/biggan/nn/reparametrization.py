"""Reparametrizations of a weight: modules that take the parameter and give the weight that the layer computes with.

Spectral normalization is in nn/spectral_norm; here are the identity and weight normalization. A layer (nn/layers) makes
one for its number of outputs and calls it in every forward pass. Shapes: O outputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast

Reparametrization = Callable[[int], nn.Module]  # outputs -> module: weight -> reparametrized weight


class WeightNorm(nn.Module):
    """gain * weight / ||weight||, norm and gain per output (Salimans & Kingma 2016): direction and length are learned
    apart."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(outputs))

    @torch.no_grad()
    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """Set the gains to the norms of the weight, so that the reparametrized weight is the drawn one; mutates them."""
        self.gain.copy_(weight.flatten(1).norm(dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        """In float32 whatever the autocast state."""
        with without_autocast(weight.device):
            scale_O = self.gain / weight.flatten(1).norm(dim=1)
            return weight * scale_O.view(-1, *[1] * (weight.dim() - 1))


class Identity(nn.Module):
    """No reparametrization: the weight itself."""

    def __init__(self, outputs: int) -> None:
        super().__init__()

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """Has no state to draw."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight
