"""Weight reparametrizations: modules that turn the weight parameter of a layer into the weight that the layer applies.

A reparametrization is built for a number of output channels; nn/layers calls it with the weight in every forward pass.
Here are weight normalization (Salimans & Kingma 2016, equation 2) and the identity; spectral normalization is in
nn/spectral_norm.

Shapes: O outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast

Reparametrization = Callable[[int], nn.Module]  # number of outputs -> module that maps a weight (O, ...) to (O, ...)


class WeightNorm(nn.Module):
    """gain * weight / ||weight|| with one gain and one norm per output: direction and length are learned separately
    (Salimans & Kingma 2016, equation 2)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(outputs))

    @torch.no_grad()
    def initialize_from(self, weight: Tensor, rng: torch.Generator) -> None:
        """Set each gain to the norm of its initial weight, so that the layer starts with the weight as drawn. Mutates the
        gains."""
        self.gain.copy_(weight.flatten(1).norm(dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        """(O, ...) -> (O, ...), computed in float32 even under autocast."""
        with without_autocast(weight.device):
            scale_O = self.gain / weight.flatten(1).norm(dim=1)
            return weight * scale_O.view(-1, *[1] * (weight.dim() - 1))


class Identity(nn.Module):
    """No reparametrization: the layer applies its weight parameter directly."""

    def __init__(self, outputs: int) -> None:
        super().__init__()

    def initialize_from(self, weight: Tensor, rng: torch.Generator) -> None:
        """Does nothing: there is no state to initialize."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight
