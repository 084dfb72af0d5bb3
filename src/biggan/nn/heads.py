"""Output heads of discriminators: the projection head, and heads with class logits from which the real/fake logit follows.

Source: Miyato & Koyama 2018 (projection), BigGAN appendix B, Salimans et al. 2016, section 5 (class logits);
docs/papers/biggan.md, "Discriminator". Shapes: N batch, F features, E embedding, K classes, H W pixels."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.autocast import without_autocast
from biggan.nn.layers import ReparametrizedLayer
from biggan.nn.minibatch_discrimination import NoMinibatchFeatures


class DiscriminatorOutput(NamedTuple):
    """Output of every discriminator: real/fake logits (N,), the features (N, F) that they are computed from, and class
    logits (N, K), or None from discriminators that do not classify."""

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None


class ProjectionHead(nn.Module):
    """ReLU and sum over pixels give the features h; logit = linear(h) + <embedding(y), h>, in float32.

    `linear`: (N, F + number of minibatch features) -> (N, 1). `embedding`: (N,) int64 -> (N, F). `dropout`: fraction of the
    features set to zero in training, 0 for none (BigGAN appendix I gives the fraction that remains). `minibatch`: features
    that compare the images of a batch (nn/minibatch_discrimination), None for none.
    """

    def __init__(
        self, *, linear: nn.Module, embedding: nn.Module, dropout: float = 0.0, minibatch: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.linear = linear
        self.embedding = embedding
        self.dropout = nn.Dropout(dropout)
        self.minibatch = minibatch or NoMinibatchFeatures()
        compute_in_float32(self)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        features_NF = self.dropout(relu_sum_pool(x))  # (N, F)
        with without_autocast(x.device):
            projection_N = (self.embedding(y_N) * features_NF).sum(1)  # (N,)
            inputs = append_features(features_NF, self.minibatch(features_NF, groups))  # (N, F + kernels)
            logits_N = self.linear(inputs).squeeze(1) + projection_N  # (N,)
        return DiscriminatorOutput(logits_N, features_NF, None)


def compute_in_float32(head: nn.Module) -> None:
    """Mark the layers of a head, which runs without autocast, as computing in float32. Mutates them."""
    for layer in head.modules():
        if isinstance(layer, ReparametrizedLayer):
            layer.in_float32 = True


def append_features(features_NF: Tensor, further_NB: Tensor) -> Tensor:
    """Features (N, F) and further ones (N, B) side by side, (N, F + B); B may be 0."""
    return torch.cat([features_NF, further_NB], dim=1) if further_NB.shape[1] else features_NF


def relu_sum_pool(x: Tensor) -> Tensor:
    """ReLU, then the sum over pixels: (N, F, H, W) -> (N, F), in float32 or higher precision."""
    return F.relu(x.to(torch.promote_types(x.dtype, torch.float32))).sum((2, 3))  # (N, F)


class ClassHead(nn.Module):
    """Class logits (N, K) and the real/fake logit, which is their logsumexp: with the logit of an additional class
    "generated" fixed at 0, the sigmoid of the real/fake logit is the probability that an image is real (Salimans et al.
    2016, section 5). Float32. `linear`: (N, F) -> (N, K)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features_NF: Tensor, inputs: Tensor) -> DiscriminatorOutput:
        """`inputs` (N, F): the input of `linear`, the features and further ones."""
        logits_NK = self.linear(inputs).float()  # (N, K)
        return DiscriminatorOutput(self.real_logit(logits_NK), features_NF, logits_NK)

    def real_logit(self, logits_NK: Tensor) -> Tensor:
        """The real/fake logit (N,) from class logits (N, K)."""
        return logits_NK.logsumexp(1)


class KPlusOneClassHead(ClassHead):
    """ClassHead with a learned logit for the class "generated", the last of K + 1 class logits, all of which are returned:
    the real/fake logit is the logsumexp of the first K minus the last. `linear`: (N, F) -> (N, K + 1)."""

    def real_logit(self, logits_NK: Tensor) -> Tensor:
        """As for ClassHead, from K + 1 logits."""
        return logits_NK[:, :-1].logsumexp(1) - logits_NK[:, -1]


class PooledClassHead(nn.Module):
    """ClassHead for feature maps (N, F, H, W): ReLU, sum over pixels, dropout, minibatch features, class logits. The class
    y is ignored. `linear`: (N, F + number of minibatch features) -> (N, K); `dropout` and `minibatch` as for
    ProjectionHead."""

    def __init__(self, *, linear: nn.Module, dropout: float, minibatch: nn.Module) -> None:
        super().__init__()
        self.classes = ClassHead(linear)
        self.dropout = nn.Dropout(dropout)
        self.minibatch = minibatch
        compute_in_float32(self)

    def forward(self, x: Tensor, y_N: Tensor, groups: int = 1) -> DiscriminatorOutput:
        features_NF = self.dropout(relu_sum_pool(x))  # (N, F)
        with without_autocast(x.device):
            return self.classes(features_NF, append_features(features_NF, self.minibatch(features_NF, groups)))
