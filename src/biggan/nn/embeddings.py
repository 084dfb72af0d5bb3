"""Modules from class numbers to the condition of a network: learned embeddings, one-hot vectors, or nothing.

Shapes: N batch, E embedding, F features, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import is_autocast_enabled
from biggan.nn.initialization import Initializer


class SharedEmbedding(nn.Module):
    """One class embedding for all conditional layers of the generator: (N,) int64 -> (N, E). BigGAN, section 3.

    Not spectrally normalized: that cripples G (docs/papers/biggan.md, "Generator")."""

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension))

    def initialize(self, initializer: Initializer, rng: torch.Generator) -> None:
        """Draw the embedding table. Mutates the layer."""
        initializer(self.weight, rng)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.weight)  # (N, E)


class ProjectedEmbedding(nn.Module):
    """The generator's class embedding followed by a linear layer to the size of D's features: (N,) int64 -> (N, F).

    BigGAN appendix H, a negative result: D's class embedding replaced by a projection of G's. The table has gradients from
    both losses: it is updated in D's step through this projection, and in G's step both through G's own norms and through
    this projection."""

    def __init__(self, table: SharedEmbedding, linear: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.linear = linear

    def forward(self, y_N: Tensor) -> Tensor:
        return self.linear(self.table(y_N))  # (N, F)


class OneHot(nn.Module):
    """One-hot class weights, the condition of ClassConditionalTable: (N,) int64 -> (N, K), float32 or the
    type of autocast."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, y_N: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(y_N.device.type) if is_autocast_enabled(y_N.device) else torch.float32
        # F.one_hot would synchronize with the device
        weights = torch.zeros(len(y_N), self.classes, device=y_N.device, dtype=dtype)
        return weights.scatter_(1, y_N[:, None], 1.0)  # (N, K)


class NoClassEmbedding(nn.Module):
    """Empty embedding of unconditional generators: (N,) int64 -> (N, 0)."""

    def forward(self, y_N: Tensor) -> Tensor:
        return torch.empty(len(y_N), 0, device=y_N.device)


class NoCondition(nn.Module):
    """Condition of networks whose norms are unconditional: (N,) int64 -> None."""

    def forward(self, y_N: Tensor) -> None:
        return None
