"""Regularizers of weights: orthogonal, first singular value, L2, historical averaging, gradient clipping.

Source: BigGAN sections 3.1 and 4, appendices F to H; docs/papers/biggan.md, "Orthogonal regularization" and "Collapse
analysis"; Salimans et al. 2016, section 3.3. A weight is seen as a matrix W (O outputs, M everything else), before spectral
or weight normalization. Class embeddings are not regularized. ' is the transpose.
"""

import functools
from collections.abc import Iterable, Iterator
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
    """Name and weight of every layer to be regularized: linear layers and convolutions that can be reparametrized; no
    biases, norms, class embeddings or minibatch discrimination."""
    layers = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, ReparametrizedLayer))
    return ((name, layer.weight) for name, layer in layers if not isinstance(layer, Embedding))


def add_up(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one or more scalars."""
    return functools.reduce(torch.add, terms)


@dataclass(frozen=True)
class Orthogonal(Regularizer):
    """strength * sum over weights of ||W W' * (1 - I)||_F^2; with `full`, of ||W W' - I||_F^2 (Brock et al. 2017), which
    also regularizes the norms.

    BigGAN section 3.1 writes W'W for W (inputs, outputs); both are the inner products of pairs of filters.
    """

    name = "orthogonal"

    strength: float = 1e-4
    full: bool = False

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        energy = full_energy if self.full else off_diagonal_energy
        return self.strength * add_up(energy(weight.flatten(1)) for _, weight in regularized_weights(network))


@dataclass(frozen=True)
class OrthogonalGradient(Regularizer):
    """Adds strength * 2 (W W' * (1 - I)) W to the gradient, as the author's PyTorch code does. The gradient of the penalty
    in the paper has a factor 4 instead of 2 (docs/papers/biggan.md, "Orthogonal regularization")."""

    name = "orthogonal_gradient"

    strength: float = 1e-4

    @torch.no_grad()
    def before_step(self, network: nn.Module) -> None:
        for _, weight in regularized_weights(network):
            weight_OM = weight.flatten(1)
            gram_OO = weight_OM @ weight_OM.T
            gram_OO.fill_diagonal_(0)
            weight.grad += (2 * self.strength * gram_OO @ weight_OM).view_as(weight)


def gram_energy(weight_OM: Tensor) -> Tensor:
    """||W W'||_F^2 = ||W' W||_F^2, computed from the smaller of the two products."""
    rows, columns = weight_OM.shape
    gram = weight_OM @ weight_OM.T if rows <= columns else weight_OM.T @ weight_OM
    return gram.square().sum()


def off_diagonal_energy(weight_OM: Tensor) -> Tensor:
    """||W W' * (1 - I)||_F^2: ||W W'||_F^2 less the squares of its diagonal, which are the squared norms of the rows."""
    return gram_energy(weight_OM) - weight_OM.square().sum(1).square().sum()


def full_energy(weight_OM: Tensor) -> Tensor:
    """||W W' - I||_F^2 = ||W W'||_F^2 - 2 ||W||_F^2 + O."""
    return gram_energy(weight_OM) - 2 * weight_OM.square().sum() + len(weight_OM)


class SigmaBound(NamedTuple):
    """The bound of first singular values: a `value`, or a `ratio` times the second singular value. It applies to the weights
    whose name contains `layers`."""

    value: float | None
    ratio: float | None
    layers: str

    def compute(self, values: Tensor) -> Tensor:
        """The bound of one weight, from its singular values in descending order."""
        if self.value is not None:
            return torch.full_like(values[0], self.value)
        return self.ratio * values[1]

    def select_weights(self, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and weight of the layers that the bound applies to. Raises ConfigError where there are none."""
        chosen = [(name, weight) for name, weight in regularized_weights(network) if self.layers in name]
        if self.ratio is not None:  # a single row or column has no second singular value
            chosen = [(name, weight) for name, weight in chosen if min(weight.flatten(1).shape) > 1]
        if not chosen:
            names = ", ".join(name for name, _ in regularized_weights(network))
            needed = "" if self.ratio is None else " with two rows and columns or more, which a sigma_ratio needs"
            raise ConfigError(f"sigma_layers={self.layers!r} is in no name of a weight{needed}; there are {names}")
        return iter(chosen)


@dataclass(frozen=True)
class SingularValueRegularizer(Regularizer):
    """Base of regularizers that need the leading singular vectors of each weight; each search starts from the vectors of the
    step before."""

    bound: SigmaBound
    starts: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def leading_singular_triplets(self, name: str, weight: Tensor) -> SingularTriplets:
        """The first two singular values of a weight and their vectors."""
        triplets = leading_singular_triplets(weight.detach().flatten(1), 2, self.starts.get(name))
        self.starts[name] = warm_start(triplets)
        return triplets

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.starts)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        self.starts.update(tensors)


@dataclass(frozen=True)
class SigmaPenalty(SingularValueRegularizer):
    """strength * sum over weights of (sigma_0 - bound)^2, without gradient through the bound (BigGAN section 4.1)."""

    name = "sigma_penalty"

    strength: float = field(kw_only=True)

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        terms = []
        for name, weight in self.bound.select_weights(network):
            values, left, right = self.leading_singular_triplets(name, weight)
            sigma = left[:, 0] @ weight.flatten(1) @ right[:, 0]  # differentiable, with the gradient u v'
            terms.append((sigma - self.bound.compute(values)).square())
        return self.strength * add_up(terms)


@dataclass(frozen=True)
class SigmaClamp(SingularValueRegularizer):
    """W <- W - max(0, sigma_0 - bound) u_0 v_0' after each step: the partial SVD of BigGAN section 4.1, where W is
    transposed."""

    name = "sigma_clamp"

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        for name, weight in self.bound.select_weights(network):
            values, left, right = self.leading_singular_triplets(name, weight)
            excess = (values[0] - self.bound.compute(values)).clamp(min=0)
            weight -= (excess * torch.outer(left[:, 0], right[:, 0])).view_as(weight)


@dataclass(frozen=True)
class L2(Regularizer):
    """strength * sum of all squared weights (BigGAN section 4.2, on D)."""

    name = "l2"

    strength: float

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        return self.strength * add_up(weight.square().sum() for _, weight in regularized_weights(network))


class HistoricalAverage(Regularizer):
    """strength * ||theta - mean of theta over all steps so far||^2 over all parameters theta of the network. The mean is
    kept online, includes the initial weights, and gets no gradient. Salimans et al. 2016, section 3.3, give no strength."""

    name = "historical_averaging"

    def __init__(self, strength: float) -> None:
        self.strength, self.count = strength, 0
        self.means: dict[str, Tensor] = {}

    def penalty(self, network: nn.Module, inputs: PenaltyInputs) -> Tensor | None:
        if not self.means:
            self.means = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
            self.count = 1
        return self.strength * add_up((p - self.means[name].to(p)).square().sum() for name, p in network.named_parameters())

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
    """Clips the gradient of all parameters together to a norm (BigGAN appendix H: does not prevent collapse)."""

    name = "gradient_clip"

    max_norm: float

    def before_step(self, network: nn.Module) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), self.max_norm)
