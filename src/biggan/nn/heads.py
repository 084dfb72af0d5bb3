"""Heads of discriminators: projection, and class logits with a real/fake logit made from them.

Source: Miyato & Koyama 2018 (projection), BigGAN appendix B; docs/papers/biggan.md, "Discriminator". Shapes: N batch, F
features, E embedding, K classes, HW pixels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast
from biggan.nn.minibatch_discrimination import NoMinibatchFeatures


class DiscriminatorOutput(NamedTuple):
    """What every discriminator returns: real/fake logits (N,), the features (N, F) that they come from, and class logits
    (N, K) or None."""

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None


class ProjectionHead(nn.Module):
    """ReLU, sum over pixels -> h; logit = linear(h) + <embedding(y), h>. Logits are float32.

    `linear`: (N, F and what `minibatch` adds) -> (N, 1); `embedding`: (N,) int64 -> (N, F); `dropout` of features in
    training, a share of them (BigGAN appendix I states the share kept), 0 for none; `minibatch`: features that compare the
    images (nn/minibatch).
    """

    def __init__(
        self, *, linear: nn.Module, embedding: nn.Module, dropout: float = 0.0, minibatch: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.linear = linear
        self.embedding = embedding
        self.dropout = nn.Dropout(dropout)
        self.minibatch = minibatch or NoMinibatchFeatures()

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        features_NF = self.dropout(sum_pool(x))  # (N, F)
        with without_autocast(x.device):
            projection_N = (self.embedding(y_N) * features_NF).sum(1)  # (N,)
            compared = torch.cat([features_NF, self.minibatch(features_NF, groups)], dim=1)  # (N, F + kernels)
            logits_N = self.linear(compared).squeeze(1) + projection_N  # (N,)
        return DiscriminatorOutput(logits_N, features_NF, None)


def sum_pool(x: Tensor) -> Tensor:
    """ReLU, then sums: (N, F, H, W) -> (N, F), float32 or better."""
    return F.relu(x.to(torch.promote_types(x.dtype, torch.float32))).sum((2, 3))  # (N, F)


class ClassHead(nn.Module):
    """Features (N, F) -> class logits (N, K) and the real/fake logit, log sum exp of them: with the logit of a further
    class, "generated", fixed at 0, its sigmoid is the probability that an image is real (Salimans et al. 2016, section
    5). Float32. `linear`: (N, F) -> (N, K)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features_NF: Tensor, inputs: Tensor | None = None) -> DiscriminatorOutput:
        """`inputs`: what the logits are made from, where that is more than the features: (N, more than F)."""
        logits_NK = self.linear(features_NF if inputs is None else inputs).float()  # (N, K)
        return DiscriminatorOutput(logits_NK.logsumexp(1), features_NF, logits_NK)


class KPlusOneClassHead(nn.Module):
    """As ClassHead, but the logit of "generated" is learned, the last of K + 1: real/fake logit = log sum exp of the
    first K, minus the last. `linear`: (N, F) -> (N, K + 1)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features_NF: Tensor, inputs: Tensor | None = None) -> DiscriminatorOutput:
        """As ClassHead; the class logits are all K + 1."""
        logits_NK = self.linear(features_NF if inputs is None else inputs).float()  # (N, K + 1)
        return DiscriminatorOutput(logits_NK[:, :-1].logsumexp(1) - logits_NK[:, -1], features_NF, logits_NK)


class PooledClassHead(nn.Module):
    """A ClassHead for maps of features: ReLU, sum over pixels, dropout, minibatch features. The class y is ignored."""

    def __init__(self, *, linear: nn.Module, dropout: float, minibatch: nn.Module) -> None:
        super().__init__()
        self.classes = ClassHead(linear)
        self.dropout = nn.Dropout(dropout)
        self.minibatch = minibatch

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        features_NF = self.dropout(sum_pool(x))  # (N, F)
        with without_autocast(x.device):
            return self.classes(features_NF, torch.cat([features_NF, self.minibatch(features_NF, groups)], dim=1))
