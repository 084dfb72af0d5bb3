"""Regularizers of what D makes of images: R1, R2, LeCam, consistency.

Sources: Mescheder et al. 2018 (R1, R2); BigGAN section 4.2 (R1 on D, gamma 10: stable, 45 % of the Inception Score lost);
Karras et al. 2020 (lazy intervals); Tseng et al. 2021 (LeCam); Zhang et al. 2020 (consistency, CR-GAN). Shapes: N batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan.nn.spectral_norm import freeze_power_iteration
from biggan.objectives.regularizer import PenaltyInputs, Regularizer


def squared_gradient(network: nn.Module, images: Tensor, y_N: Tensor, inputs: PenaltyInputs) -> Tensor:
    """E || gradient of D's score by the image ||^2, in a pass of its own that moves no vector of the spectral norms.

    Attention keeps its table here: torch's fused kernel has no second derivative."""
    images = images.detach().requires_grad_(True)
    with freeze_power_iteration(network), sdpa_kernel(SDPBackend.MATH), inputs.autocast():
        logits_N = network(images, y_N).logits
    (gradient,) = torch.autograd.grad(logits_N.sum(), images, create_graph=True)  # (N, 3, R, R)
    return gradient.square().sum((1, 2, 3)).mean()


@dataclass(frozen=True)
class GradientPenalty(Regularizer):
    """gamma / 2 E || grad D ||^2 over the images of one side; times the interval, where it is lazy."""

    gamma: float
    interval: int = 1

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        return self.interval * self.gamma / 2 * squared_gradient(network, *self.side(inputs), inputs)

    def side(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        """Images (N, 3, R, R) and their classes (N,)."""
        raise NotImplementedError


class R1(GradientPenalty):
    """Over real images."""

    name = "r1"

    def side(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        return inputs.real.images, inputs.real.labels


class R2(GradientPenalty):
    """Over generated images."""

    name = "r2"

    def side(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        return inputs.fake.images, inputs.fake.labels
