"""What turns a class number into a vector: embeddings, one-hot vectors, or nothing.

Shapes: N batch, E embedding, F features, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.initialization import Initializer


class SharedEmbedding(nn.Module):
    """One table of class vectors for all conditional layers: (N,) int64 -> (N, E). No weight rule: spectral normalization of
    it cripples G (docs/papers/biggan.md, "Generator")."""

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension))

    def initialize(self, initializer: Initializer, generator: torch.Generator) -> None:
        """Draw the table anew; mutates the layer."""
        initializer(self.weight, generator)

    def forward(self, y_N: Tensor) -> Tensor:
        return F.embedding(y_N, self.weight)  # (N, E)


class ProjectedEmbedding(nn.Module):
    """A table that belongs to the generator too, then a linear map to the features: (N,) int64 -> (N, F).

    BigGAN appendix H, a negative result: D's class embedding replaced by a projection of G's. Each network's loss moves the
    table in its own step, G's both through its own norms and through this projection, as plain gradients have it."""

    def __init__(self, table: SharedEmbedding, linear: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.linear = linear

    def forward(self, y_N: Tensor) -> Tensor:
        return self.linear(self.table(y_N))  # (N, F)


class OneHot(nn.Module):
    """Class weights for tables per class: (N,) int64 -> (N, K) float32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, y_N: Tensor) -> Tensor:
        weights = torch.zeros(len(y_N), self.classes, device=y_N.device)  # F.one_hot would wait for the device
        return weights.scatter_(1, y_N[:, None], 1.0)  # (N, K)


class NoClassEmbedding(nn.Module):
    """For generators that know no class: (N,) int64 -> (N, 0)."""

    def forward(self, y_N: Tensor) -> Tensor:
        return torch.empty(len(y_N), 0, device=y_N.device)


class NoCondition(nn.Module):
    """For norms without a condition: (N,) -> None."""

    def forward(self, y_N: Tensor) -> None:
        return None
