"""Spectral normalization: a weight divided by an estimate of its largest singular value.

Source: Miyato et al. 2018, used in G and D by BigGAN (section 2); docs/papers/biggan.md, "Spectral normalization". A weight
is viewed as a matrix (outputs, everything else). Each forward pass in training mode makes one step of power iteration from
the stored left vector u and stores the result; no gradient flows through u and v. In evaluation mode the step is computed
but not stored, so that evaluation, sampling and analysis never change u.

This is the form for one layer: for evaluation, analysis and export, and the reference. In training nn/prepared_weights makes
the same step for all layers of a network at once, once for each optimizer step; no other file updates u.

Shapes: O outputs, M all other dimensions of the weight together.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast


def power_iteration(weight_OM: Tensor, left_1O: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """One step of power iteration from the left vector u (1, O): the new unit vectors u (1, O) and v (1, M), closer to the
    leading singular vectors of the weight.

    Vectors shorter than `epsilon` are divided by `epsilon` instead of their norm.
    """
    right_1M = F.normalize(left_1O @ weight_OM, eps=epsilon)
    left_1O = F.normalize(right_1M @ weight_OM.T, eps=epsilon)
    return left_1O, right_1M


class SpectralNorm(nn.Module):
    """weight / sigma, where sigma is the estimate of its largest singular value after one step of power iteration.

    Buffers: `u` (1, O), float32, updated by each forward pass in training mode.
    """

    def __init__(self, outputs: int, *, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("u", torch.empty(1, outputs))
        self.epsilon = epsilon

    @torch.no_grad()
    def initialize_from(self, weight: Tensor, rng: torch.Generator) -> None:
        """Draw u from N(0, 1). Mutates the buffer; the weight is not used."""
        self.u.normal_(generator=rng)

    def forward(self, weight: Tensor) -> Tensor:
        """(O, ...) -> (O, ...), computed in float32 even under autocast. Updates u in training mode."""
        with without_autocast(weight.device):
            weight_OM = weight.flatten(1)  # (O, I k k)
            with torch.no_grad():
                left_1O, right_1M = power_iteration(weight_OM, self.u, self.epsilon)
                if self.training:
                    self.u.copy_(left_1O)
            sigma = (left_1O @ weight_OM @ right_1M.T).squeeze()  # u W v', the gradient flows through W alone
            return weight / sigma


@contextmanager
def freeze_power_iteration(network: nn.Module) -> Iterator[None]:
    """Context in which forward passes do not update u, whatever the mode of the network: for the additional forward passes
    of penalties and monitoring."""
    trained = [module for module in network.modules() if isinstance(module, SpectralNorm) and module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
