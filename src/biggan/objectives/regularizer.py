"""Where a regulariser may act: on the loss before backward, on gradients before the optimiser's step, on weights after it.

The gradients came in as a third place because two of the paper's remedies (the author's direct form of orthogonal
regularisation, and clipping) are no penalties and no edits of weights.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from biggan.nn.heads import DiscriminatorOutput


@dataclass(frozen=True, kw_only=True)
class PenaltyInputs:
    """What a penalty may look at. Images (N, 3, R, R) in [-1, 1] as D saw them, their classes (N,) and its verdict on them,
    with gradients; all None in the generator's turn. `autocast` is the arithmetic of the run."""

    step: int
    real: Tensor | None = None
    real_labels: Tensor | None = None
    real_output: DiscriminatorOutput | None = None
    fake: Tensor | None = None
    fake_labels: Tensor | None = None
    fake_output: DiscriminatorOutput | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext


class Regularizer:
    """Acts on one player, at every step that `every` divides. One that remembers something says so in `state_dict`, which is
    saved with the run. All ranks call the hooks together."""

    every: int = 1

    def penalty(self, net: nn.Module, context: PenaltyInputs) -> Tensor | None:
        """A scalar added to the loss of the player before backward, or None. Called outside autocast; with accumulated
        gradients only for the first micro-batch, at full weight."""
        return None

    def before_step(self, net: nn.Module) -> None:
        """Edits of gradients before the optimiser's step."""

    def after_step(self, net: nn.Module) -> None:
        """Edits of weights after the optimiser's step; nothing else may touch a weight."""

    def state_dict(self) -> dict[str, Tensor]:
        """What it remembers from step to step."""
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave; mutates this."""
