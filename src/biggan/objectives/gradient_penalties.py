"""Gradient penalties of D at its input images: R1 and R2.

Sources: Mescheder et al. 2018; Karras et al. 2020 (lazy regularization: at intervals); BigGAN section 4.2 (R1 with gamma 10
makes training stable and costs 45 % of the Inception Score). Shapes: N batch, R resolution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan.nn.spectral_norm import freeze_power_iteration
from biggan.objectives.regularizer import PenaltyInputs, Regularizer


def squared_gradient(network: nn.Module, images: Tensor, y_N: Tensor, inputs: PenaltyInputs) -> Tensor:
    """E ||gradient of D's logit with respect to the image||^2, in a forward pass of its own that makes no power iteration.

    Attention is computed without the fused kernel, which has no second derivative in torch."""
    images = images.detach().requires_grad_(True)
    with freeze_power_iteration(network), sdpa_kernel(SDPBackend.MATH), inputs.autocast():
        logits_N = network(images, y_N).logits
    (gradient,) = torch.autograd.grad(logits_N.sum(), images, create_graph=True)  # (N, 3, R, R)
    return gradient.square().sum((1, 2, 3)).mean()


@dataclass(frozen=True)
class GradientPenalty(Regularizer):
    """gamma / 2 E ||grad D||^2 over one kind of images, times the interval to make up for the steps without it."""

    differentiates_twice = True

    gamma: float
    interval: int = 1

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        return self.interval * self.gamma / 2 * squared_gradient(network, *self.images_and_labels(inputs), inputs)

    def images_and_labels(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        """Images (N, 3, R, R) and their class labels (N,)."""
        raise NotImplementedError


class R1(GradientPenalty):
    """The gradient penalty at real images."""

    name = "r1"

    def images_and_labels(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        return inputs.real.images, inputs.real.labels


class R2(GradientPenalty):
    """The gradient penalty at generated images."""

    name = "r2"

    def images_and_labels(self, inputs: PenaltyInputs) -> tuple[Tensor, Tensor]:
        return inputs.fake.images, inputs.fake.labels
