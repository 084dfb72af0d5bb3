"""Regularizers of D's logits: LeCam and consistency.

Sources: Tseng et al. 2021 (LeCam); Zhang et al. 2020 (consistency regularization, CR-GAN). Shapes: N batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.nn.spectral_norm import freeze_power_iteration
from biggan.objectives.diffaugment import flip, translate
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.distributed import mean_over_ranks


class LeCam(Regularizer):
    """strength * (E relu(D(x) - f)^2 + E relu(r - D(G))^2), where r and f are the running means of D's logits for real and
    generated images. This is the released code; equation 5 of the paper has no relu."""

    name = "lecam"

    def __init__(self, strength: float, decay: float) -> None:
        self.strength, self.decay = strength, decay
        self.anchors: Tensor | None = None  # (2,): r, f

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        real_N, fake_N = inputs.real.output.logits, inputs.fake.output.logits
        means = mean_over_ranks(torch.stack([real_N.mean(), fake_N.mean()]).detach())
        self.anchors = means.clone() if self.anchors is None else self.anchors.to(means)  # in place from now on
        real, fake = self.anchors.lerp_(means, 1 - self.decay)
        return self.strength * (F.relu(real_N - fake).square().mean() + F.relu(real - fake_N).square().mean())

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.anchors is None else {"anchors": self.anchors}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        anchors = tensors.get("anchors")
        self.anchors = None if anchors is None else anchors.clone()  # it is edited in place


@dataclass(frozen=True)
class Consistency(Regularizer):
    """strength * E (D(x) - D(T(x)))^2, T a random horizontal flip and a shift by up to an eighth of the size. The pass on
    T(x) makes no power iteration."""

    name = "consistency"

    strength: float

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        with freeze_power_iteration(network), inputs.autocast():
            augmented_N = network(translate(flip(inputs.real.images)), inputs.real.labels).logits
        return self.strength * (inputs.real.output.logits - augmented_N).square().mean()
