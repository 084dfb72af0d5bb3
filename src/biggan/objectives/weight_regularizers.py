"""Regularizers of weights, of either network: orthogonal in three forms, the first singular value, L2, clipped gradients.

Source: BigGAN sections 3.1 and 4, appendices F to H; docs/papers/biggan.md, "Orthogonal regularization" and "Collapse
analysis". A weight is seen as (outputs, everything else), raw, before its rule; class embeddings (shared, D's, tables in
the norms) are left out. Shapes: O outputs, M everything else."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from biggan.nn.layers import Embedding, ReparametrizedLayer
from biggan.nn.singular_values import SingularTriplets, leading_singular_triplets, warm_start
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.errors import ConfigError

OrthogonalForm = Literal["off-diagonal", "full", "gradient"]


def regularized_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of every layer that is regularized."""
    layers = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, ReparametrizedLayer))
    return ((name, layer.weight) for name, layer in layers if not isinstance(layer, Embedding))


@dataclass(frozen=True)
class Orthogonal(Regularizer):
    """strength * sum over weights of || W W' * (1 - I) ||_F^2; `full`: of || W W' - I ||_F^2, Brock et al. 2017, which holds
    the norms too.

    BigGAN section 3.1 prints W'W, with W as (inputs, outputs): in both, pairs of filters.
    """

    name = "orthogonal"

    strength: float = 1e-4
    full: bool = False

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        energy = full_energy if self.full else off_diagonal_energy
        return self.strength * sum(energy(weight.flatten(1)) for _, weight in regularized_weights(network))


@dataclass(frozen=True)
class OrthogonalGradient(Regularizer):
    """Adds strength * 2 (W W' * (1 - I)) W to the gradient, as the author's PyTorch code does. The gradient of the printed
    loss has a 4 there: at the same strength this is half of it (docs/papers/biggan.md, "Orthogonal regularization")."""

    name = "orthogonal_gradient"

    strength: float = 1e-4

    @torch.no_grad()
    def before_step(self, network: nn.Module) -> None:
        for _, weight in regularized_weights(network):
            rows_OM = weight.flatten(1)
            gram_OO = rows_OM @ rows_OM.T
            gram_OO.fill_diagonal_(0)
            weight.grad += (2 * self.strength * gram_OO @ rows_OM).view_as(weight)


def gram_energy(weight_OM: Tensor) -> Tensor:
    """|| W W' ||_F^2 = || W' W ||_F^2, on the smaller side, so that the larger product is never formed."""
    rows, columns = weight_OM.shape
    gram = weight_OM @ weight_OM.T if rows <= columns else weight_OM.T @ weight_OM
    return gram.square().sum()


def off_diagonal_energy(weight_OM: Tensor) -> Tensor:
    """|| W W' * (1 - I) ||_F^2 = || W W' ||_F^2 - sum of squares of its diagonal, which holds the rows' squared norms."""
    return gram_energy(weight_OM) - weight_OM.square().sum(1).square().sum()


def full_energy(weight_OM: Tensor) -> Tensor:
    """|| W W' - I ||_F^2 = || W W' ||_F^2 - 2 || W ||_F^2 + O."""
    return gram_energy(weight_OM) - 2 * weight_OM.square().sum() + len(weight_OM)


class SigmaBound(NamedTuple):
    """What first singular values are held to: a number, or a multiple of the second; of weights whose name has `layers`."""

    value: float | None
    ratio: float | None
    layers: str

    def of(self, values: Tensor) -> Tensor:
        """The bound of one weight, from its singular values."""
        if self.value is not None:
            return torch.full_like(values[0], self.value)
        return self.ratio * values[1]

    def weights(self, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """The weights that it is for. Raises ConfigError where there are none."""
        chosen = [(name, weight) for name, weight in regularized_weights(network) if self.layers in name]
        if self.ratio is not None:  # one row has no second singular value
            chosen = [(name, weight) for name, weight in chosen if min(weight.flatten(1).shape) > 1]
        if not chosen:
            names = ", ".join(name for name, _ in regularized_weights(network))
            raise ConfigError(f"sigma_layers={self.layers!r} is in no name of a weight: {names}")
        return iter(chosen)


@dataclass(frozen=True)
class SingularValueRegularizer(Regularizer):
    """What the two below share: the leading pairs of each weight, each search begun from the one before."""

    bound: SigmaBound
    starts: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def leading_singular_triplets(self, name: str, weight: Tensor) -> SingularTriplets:
        """The first two singular values and their vectors."""
        found = leading_singular_triplets(weight.detach().flatten(1), 2, self.starts.get(name))
        self.starts[name] = warm_start(found)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.starts)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        self.starts.update(tensors)


@dataclass(frozen=True)
class SigmaPenalty(SingularValueRegularizer):
    """strength * sum over weights of (sigma_0 - bound)^2; no gradient goes through the bound. BigGAN section 4.1."""

    name = "sigma_penalty"

    strength: float = field(kw_only=True)

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        total: Tensor | float = 0.0
        for name, weight in self.bound.weights(network):
            values, left, right = self.leading_singular_triplets(name, weight)
            sigma = left[:, 0] @ weight.flatten(1) @ right[:, 0]  # its gradient is u v'
            total = total + (sigma - self.bound.of(values)).square()
        return self.strength * total


@dataclass(frozen=True)
class SigmaClamp(SingularValueRegularizer):
    """W <- W - max(0, sigma_0 - bound) u0 v0' after each step: partial SVD, BigGAN section 4.1, whose W is transposed."""

    name = "sigma_clamp"

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        for name, weight in self.bound.weights(network):
            values, left, right = self.leading_singular_triplets(name, weight)
            excess = (values[0] - self.bound.of(values)).clamp(min=0)
            weight -= (excess * torch.outer(left[:, 0], right[:, 0])).view_as(weight)


@dataclass(frozen=True)
class L2(Regularizer):
    """strength * sum of all squared weights. BigGAN section 4.2, on D."""

    name = "l2"

    strength: float

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        return self.strength * sum(weight.square().sum() for _, weight in regularized_weights(network))


class HistoricalAverage(Regularizer):
    """strength * || theta - mean of all that theta has been ||^2, over every parameter; the mean, kept online, counts the
    weights that the run began with, and is held fixed in the gradient. Salimans et al. 2016, section 3.3, which gives no
    strength."""

    name = "historical_averaging"

    def __init__(self, strength: float) -> None:
        self.strength, self.count = strength, 0
        self.means: dict[str, Tensor] = {}

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        if not self.means:
            self.means = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
            self.count = 1
        return self.strength * sum((p - self.means[name].to(p)).square().sum() for name, p in network.named_parameters())

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        self.count += 1
        for name, parameter in network.named_parameters():
            self.means[name] = self.means[name].to(parameter).lerp_(parameter, 1 / self.count)

    def state_dict(self) -> dict[str, Tensor]:
        return self.means | {"count": torch.tensor(self.count)} if self.means else {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        self.means = {name: mean for name, mean in tensors.items() if name != "count"}
        self.count = int(tensors.get("count", 0))


@dataclass(frozen=True)
class GradientClip(Regularizer):
    """Clips the norm of the gradient of the whole network. BigGAN appendix H: no cure."""

    name = "gradient_clip"

    longest: float

    def before_step(self, network: nn.Module) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), self.longest)
