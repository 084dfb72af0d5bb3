"""Regularisers of what D makes of images: R1, R2, LeCam, consistency.

Sources: Mescheder et al. 2018 (R1, R2); BigGAN section 4.2 (R1 on D, gamma 10: stable, 45 % of the Inception Score lost);
Karras et al. 2020 (lazy intervals); Tseng et al. 2021 (LeCam); Zhang et al. 2020 (consistency, CR-GAN). Shapes: N batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan.distributed import mean_over_ranks
from biggan.nn.spectral import vectors_held
from biggan.nn.transforms import flip, translate
from biggan.regularizers.hooks import Context, Regularizer


def squared_gradient(net: nn.Module, images: Tensor, y_N: Tensor, context: Context) -> Tensor:
    """E || gradient of D's score by the image ||^2, in a pass of its own that moves no vector of the spectral norms.

    Attention keeps its table here: torch's fused kernel has no second derivative."""
    images = images.detach().requires_grad_(True)
    with vectors_held(net), sdpa_kernel(SDPBackend.MATH), context.autocast():
        score_N = net(images, y_N).score_N
    (gradient,) = torch.autograd.grad(score_N.sum(), images, create_graph=True)  # (N, 3, R, R)
    return gradient.square().sum((1, 2, 3)).mean()


@dataclass(frozen=True)
class GradientPenalty(Regularizer):
    """gamma / 2 E || grad D ||^2 over the images of one side; times the interval, where it is lazy."""

    gamma: float
    every: int = 1

    def penalty(self, net: nn.Module, context: Context) -> Tensor | None:
        return self.every * self.gamma / 2 * squared_gradient(net, *self.side(context), context)

    def side(self, context: Context) -> tuple[Tensor, Tensor]:
        """Images (N, 3, R, R) and their classes (N,)."""
        raise NotImplementedError


class R1(GradientPenalty):
    """Over real images."""

    def side(self, context: Context) -> tuple[Tensor, Tensor]:
        return context.real, context.real_labels


class R2(GradientPenalty):
    """Over generated images."""

    def side(self, context: Context) -> tuple[Tensor, Tensor]:
        return context.fake, context.fake_labels


class LeCam(Regularizer):
    """strength * (E relu(D(x) - f)^2 + E relu(r - D(G))^2), r and f the running means of D's scores on real and generated
    images, as the released code has it; the paper's equation 5 has no relu."""

    def __init__(self, strength: float, decay: float) -> None:
        self.strength, self.decay = strength, decay
        self.anchors: Tensor | None = None  # r and f

    def penalty(self, net: nn.Module, context: Context) -> Tensor | None:
        real_N, fake_N = context.real_verdict.score_N, context.fake_verdict.score_N
        now = mean_over_ranks(torch.stack([real_N.mean(), fake_N.mean()]).detach())
        before = now if self.anchors is None else self.anchors.to(now)
        self.anchors = before.lerp(now, 1 - self.decay)
        real, fake = self.anchors
        return self.strength * (F.relu(real_N - fake).square().mean() + F.relu(real - fake_N).square().mean())

    def memory(self) -> dict[str, Tensor]:
        return {} if self.anchors is None else {"anchors": self.anchors}

    def remember(self, tensors: dict[str, Tensor]) -> None:
        self.anchors = tensors.get("anchors")


@dataclass(frozen=True)
class Consistency(Regularizer):
    """strength * E (D(x) - D(T(x)))^2, T a random mirroring and a shift by up to an eighth; no vector is moved."""

    strength: float

    def penalty(self, net: nn.Module, context: Context) -> Tensor | None:
        with vectors_held(net), context.autocast():
            moved_N = net(translate(flip(context.real)), context.real_labels).score_N
        return self.strength * (context.real_verdict.score_N - moved_N).square().mean()
