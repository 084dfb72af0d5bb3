"""What stands at the end of a discriminator: the verdict on an image.

Source: Miyato & Koyama 2018 (projection), spec sections 3 and 6.3. Shapes: N batch, F features, K classes, HW pixels.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.spectral import SpectralEmbedding, SpectralLinear, without_autocast


class Verdict(NamedTuple):
    """What every discriminator returns: scores (N,), the features (N, F) they come from, and class logits (N, K) or None."""

    score_N: Tensor
    features_NF: Tensor
    class_logits_NK: Tensor | None


class ProjectionHead(nn.Module):
    """ReLU, sum over pixels -> h; score = linear(h) + <embedding(y), h>. Scores are float32."""

    def __init__(self, features: int, classes: int, *, epsilon: float) -> None:
        super().__init__()
        self.linear = SpectralLinear(features, 1, epsilon=epsilon)
        self.embedding = SpectralEmbedding(classes, features, epsilon=epsilon)

    def forward(self, x: Tensor, y_N: Tensor) -> Verdict:
        features_NF = F.relu(x).float().sum((2, 3))  # (N, F)
        projection_N = (self.embedding(y_N) * features_NF).sum(1)  # (N,)
        with without_autocast(x.device):
            score_N = self.linear(features_NF).squeeze(1) + projection_N  # (N,)
        return Verdict(score_N, features_NF, None)
