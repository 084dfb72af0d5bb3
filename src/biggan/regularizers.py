"""What is added to a player's loss, or done to its weights, besides the objective: two hooks and nothing else.

Source: BigGAN section 3.1 (orthogonal regularisation); spec section 7.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from biggan.errors import ConfigError
from biggan.nn.layers import Weighted


class Context(NamedTuple):
    """What a penalty may look at: the generator step, real images (N, 3, R, R) in [-1, 1] and their classes (N,).
    The images are None in the generator's turn."""

    step: int
    real: Tensor | None
    y_N: Tensor | None


class Regularizer(Protocol):
    """`every`: the interval in steps at which it acts."""

    every: int

    def penalty(self, net: nn.Module, context: Context) -> Tensor | None:
        """A scalar added to the loss of the player before backward, or None. Called outside autocast."""
        ...

    def after_step(self, net: nn.Module) -> None:
        """Edits of weights after the optimiser's step; nothing else may touch a weight."""
        ...


@dataclass(frozen=True)
class Orthogonal:
    """strength * sum over weights of || W W' * (1 - I) ||_F^2, W seen as (outputs, everything else).

    BigGAN section 3.1 prints W'W, with W as (inputs, outputs): in both, pairs of filters. Every weight with two or more
    dimensions but the class embedding (shared, or a table in each norm) counts, raw, before its rule. The author's PyTorch
    code applies half the gradient of this (spec section 7).
    """

    strength: float = 1e-4
    every: int = 1

    def penalty(self, net: nn.Module, context: Context) -> Tensor | None:
        weights = [layer.weight.flatten(1) for layer in net.modules() if isinstance(layer, Weighted)]
        return self.strength * sum(off_diagonal_energy(weight) for weight in weights)

    def after_step(self, net: nn.Module) -> None:
        """Edits nothing."""


def off_diagonal_energy(weight_OM: Tensor) -> Tensor:
    """|| W W' * (1 - I) ||_F^2 = || W W' ||_F^2 - sum of squares of its diagonal, computed on the smaller side.

    || W W' ||_F = || W' W ||_F, so the larger product is never formed; the diagonal of W W' holds the rows' squared norms.
    """
    rows, columns = weight_OM.shape
    gram = weight_OM @ weight_OM.T if rows <= columns else weight_OM.T @ weight_OM
    return gram.square().sum() - weight_OM.square().sum(1).square().sum()


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Which regularisers act on whom."""

    generator_orthogonal: float | None = 1e-4
    """Strength of orthogonal regularisation on the generator; None: off."""

    def check(self) -> None:
        """Raises ConfigError on strengths that make no sense."""
        if self.generator_orthogonal is not None and self.generator_orthogonal <= 0:
            raise ConfigError(
                f"regularization.generator_orthogonal={self.generator_orthogonal} must be above 0: use None for off"
            )

    def for_generator(self) -> tuple[Regularizer, ...]:
        """The generator's regularisers."""
        return () if self.generator_orthogonal is None else (Orthogonal(self.generator_orthogonal),)

    def for_discriminator(self) -> tuple[Regularizer, ...]:
        """The discriminator's regularisers."""
        return ()
