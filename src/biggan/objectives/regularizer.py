"""Interface of regularizers: a penalty on the loss before backward, and edits of gradients before and of weights after the
optimizer step.

Gradients are edited by two of BigGAN's remedies for collapse, the author's form of orthogonal regularization and gradient
clipping, which are neither penalties nor edits of weights. Shapes: N batch, R resolution.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from biggan.nn.heads import DiscriminatorOutput


class DiscriminatorPass(NamedTuple):
    """A forward pass of D: its input images (N, 3, R, R) in [-1, 1], after augmentation, their class labels (N,) int64, and
    its output, with gradients."""

    images: Tensor
    labels: Tensor
    output: DiscriminatorOutput


@dataclass(frozen=True, kw_only=True)
class PenaltyInputs:
    """Inputs of a penalty: in a discriminator step D's passes on real and on generated images; and the context manager for
    mixed precision, `autocast`."""

    real: DiscriminatorPass | None = None
    fake: DiscriminatorPass | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext


class Regularizer:
    """A regularizer of one network, active at every step that `interval` divides. `name` is the log key of its penalty. All
    ranks must call its methods together. `capturable`: whether its operations are the same at each step and wait for
    nothing, so that they may be captured as a CUDA graph. `differentiates_twice`: whether its penalty holds derivatives of
    the network."""

    name: str
    interval: int = 1
    capturable: bool = True
    differentiates_twice: bool = False

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        """A scalar to be added to the loss of the network before backward, or None. Called outside autocast; with gradient
        accumulation only for the first micro-batch, at full weight."""
        return None

    def before_step(self, network: nn.Module) -> Tensor | None:
        """Edit the gradients of the network in place, before the optimizer step. Returns a scalar to be logged, or None."""
        return None

    def after_step(self, network: nn.Module) -> None:
        """Edit the weights of the network in place, after the optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that last from step to step, for checkpoints."""
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors of `state_dict`."""
