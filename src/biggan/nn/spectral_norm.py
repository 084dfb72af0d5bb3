"""Spectral normalization of a weight: division by its largest singular value, found by power iteration.

Source: Miyato et al. 2018 (spectral normalization), as used in G and D by BigGAN, section 2; docs/papers/biggan.md,
"Spectral normalization". A weight is seen as a matrix of shape (outputs, everything else). Each training forward makes one
step of power iteration from the kept left vector u, and no gradient passes through u and v. In evaluation the step is made
but not kept, so evaluation, sampling and analysis never move the vectors. Nothing else moves
them. Shapes: O outputs, M everything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast


def power_iteration(weight_OM: Tensor, left_1O: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """One step of power iteration: unit vectors (u (1, O), v (1, M)) nearer to the leading singular pair of the matrix.

    Vectors shorter than `epsilon` are divided by `epsilon` instead of their length.
    """
    right_1M = F.normalize(left_1O @ weight_OM, eps=epsilon)
    left_1O = F.normalize(right_1M @ weight_OM.T, eps=epsilon)
    return left_1O, right_1M


class SpectralNorm(nn.Module):
    """weight / sigma, sigma its largest singular value.

    Buffers: `u` (1, O), float32, moved by each forward in training mode.
    """

    def __init__(self, outputs: int, *, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("u", torch.empty(1, outputs))
        self.epsilon = epsilon

    @torch.no_grad()
    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """Draw u from N(0, 1); mutates it."""
        self.u.normal_(generator=generator)

    def forward(self, weight: Tensor) -> Tensor:
        """In float32 whatever the autocast state; in training mode keeps the new left vector."""
        with without_autocast(weight.device):
            weight_OM = weight.flatten(1)  # (O, I k k)
            with torch.no_grad():
                left_1O, right_1M = power_iteration(weight_OM, self.u, self.epsilon)
                if self.training:
                    self.u.copy_(left_1O)
            sigma = (left_1O @ weight_OM @ right_1M.T).squeeze()  # u W v', the gradient passes through W alone
            return weight / sigma


@contextmanager
def freeze_power_iteration(network: nn.Module) -> Iterator[None]:
    """Inside, forward passes do not move the vectors u, whatever the mode of the network: for passes that penalties make."""
    moving = [module for module in network.modules() if isinstance(module, SpectralNorm) and module.training]
    for module in moving:
        module.training = False
    try:
        yield
    finally:
        for module in moving:
            module.training = True
