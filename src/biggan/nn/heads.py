"""What stands at the end of a discriminator: the verdict on an image.

Source: Miyato & Koyama 2018 (projection), spec sections 3 and 6.3. Shapes: N batch, F features, E embedding, K classes,
HW pixels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.init import Initializer
from biggan.nn.spectral import without_autocast


class Verdict(NamedTuple):
    """What every discriminator returns: scores (N,), the features (N, F) they come from, and class logits (N, K) or None."""

    score_N: Tensor
    features_NF: Tensor
    class_logits_NK: Tensor | None


class ProjectionHead(nn.Module):
    """ReLU, sum over pixels -> h; score = linear(h) + <embedding(y), h>. Scores are float32.

    `linear`: (N, F) -> (N, 1); `embedding`: (N,) int64 -> (N, F); `dropout` of features in training, a share of them
    (BigGAN appendix I states the share kept), 0 for none.
    """

    def __init__(self, *, linear: nn.Module, embedding: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = linear
        self.embedding = embedding
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y_N: Tensor) -> Verdict:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        features_NF = self.dropout(F.relu(x).sum((2, 3)))  # (N, F)
        with without_autocast(x.device):
            projection_N = (self.embedding(y_N) * features_NF).sum(1)  # (N,)
            score_N = self.linear(features_NF).squeeze(1) + projection_N  # (N,)
        return Verdict(score_N, features_NF, None)


class SharedEmbedding(nn.Module):
    """One table of class vectors for all conditional layers: (N,) int64 -> (N, E). No weight rule: spectral normalisation of
    it cripples G (spec section 2)."""

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

    BigGAN appendix H, a negative result: D's class embedding replaced by a projection of G's. Each player's loss moves the
    table in its turn, G's both through its own norms and through this projection, as plain gradients have it."""

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


class NoCondition(nn.Module):
    """Norms that look at no class are told None."""

    def forward(self, y_N: Tensor) -> None:
        return None
