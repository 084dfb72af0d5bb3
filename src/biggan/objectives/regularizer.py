"""What a regularizer is: a penalty on the loss before backward, edits of gradients before the optimizer's step, edits of
weights after it.

Gradients came in as a third place because two of the paper's remedies (the author's direct form of orthogonal
regularization, and clipping) are neither penalties nor edits of weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from biggan.nn.heads import DiscriminatorOutput


class DiscriminatorPass(NamedTuple):
    """Images (N, 3, R, R) in [-1, 1] as D saw them, their classes (N,) int64, and D's output for them, with gradients."""

    images: Tensor
    labels: Tensor
    output: DiscriminatorOutput


@dataclass(frozen=True, kw_only=True)
class PenaltyInputs:
    """What a penalty may look at: the generator step (from 1) and, in a discriminator step, real and generated images.
    `autocast` is the arithmetic of the run."""

    step: int
    real: DiscriminatorPass | None = None
    fake: DiscriminatorPass | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext


class Regularizer:
    """Acts on one network, at every step that `interval` divides. `name` is that of its penalty in the logs. All ranks call
    its methods together."""

    name: str
    interval: int = 1

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        """A scalar added to the loss of the network before backward, or None. Called outside autocast; with accumulated
        gradients only for the first micro-batch, at full weight."""
        return None

    def before_step(self, network: nn.Module) -> None:
        """Edits of gradients before the optimizer's step."""

    def after_step(self, network: nn.Module) -> None:
        """Edits of weights after the optimizer's step; nothing else may touch a weight."""

    def state_dict(self) -> dict[str, Tensor]:
        """What it keeps from step to step; saved with the run."""
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave; mutates this."""
