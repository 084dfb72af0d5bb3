"""Regularizers of weights: orthogonal, first singular value, L2, historical averaging, gradient clipping.

Source: BigGAN sections 3.1 and 4, appendices F to H; docs/papers/biggan.md, "Orthogonal regularization" and "Collapse
analysis"; Salimans et al. 2016, section 3.3. A weight is seen as a matrix W (O outputs, M everything else), before spectral
or weight normalization. Class embeddings are not regularized. ' is the transpose.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from biggan.nn.layers import Embedding, ReparametrizedLayer
from biggan.nn.singular_values import SingularTriplets, leading_singular_triplets, warm_start
from biggan.nn.weight_layout import matrix_view, stacked_view
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import tf32_products

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

    BigGAN section 3.1 writes W'W for W (inputs, outputs); both are the inner products of pairs of filters. The gradient,
    4 strength (W W' * (1 - I)) W or 4 strength (W W' - I) W, is added to that of the loss in closed form. `factor` replaces
    the 4: the author's PyTorch code has 2 (OrthogonalGradient). `tf32`: its products may use TF32 on CUDA.
    """

    name = "orthogonal"

    strength: float = 1e-4
    full: bool = False
    tf32: bool = False
    factor: ClassVar[float] = 4.0

    @torch.no_grad()
    def before_step(self, network: nn.Module) -> Tensor | None:
        """Add the penalty's gradient to those of the loss, and return the penalty; None where no weight has a gradient."""
        energies: list[Tensor] = []
        gradients: list[Tensor] = []
        terms: list[Tensor] = []
        for weight_LOM, parts in stacked_weights_and_gradients(network):
            wide_or_tall = wide_gradient if weight_LOM.shape[1] <= weight_LOM.shape[2] else tall_gradient
            with tf32_products(weight_LOM.device, self.tf32):
                term_LOM, energy = wide_or_tall(weight_LOM, self.full)
            gradients += parts
            terms += term_LOM.unbind()
            energies.append(energy)
        if not energies:
            return None
        torch._foreach_add_(gradients, terms, alpha=self.factor * self.strength)
        return self.strength * add_up(energies)


@dataclass(frozen=True)
class OrthogonalGradient(Orthogonal):
    """Adds strength * 2 (W W' * (1 - I)) W to the gradient, as the author's PyTorch code does. The gradient of the penalty
    in the paper has a factor 4 instead of 2 (docs/papers/biggan.md, "Orthogonal regularization")."""

    name = "orthogonal_gradient"
    factor = 2.0


def stacked_weights_and_gradients(network: nn.Module) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The regularized weights (L, O, M) and the L gradients (O, M) of each, all views of the tensors themselves: all layers
    of one shape together where their weights lie side by side in memory, as nn/prepared_weights places them, else one by one
    (L = 1). It does not matter where the gradients lie, which changes from step to step, and with it would the rounding of
    products."""
    by_shape: dict[tuple[object, ...], list[Tensor]] = defaultdict(list)
    for _, weight in regularized_weights(network):
        if weight.grad is not None:
            by_shape[weight.untyped_storage()._cdata, matrix_view(weight).shape].append(weight)
    for weights in by_shape.values():
        weights.sort(key=lambda weight: weight.storage_offset())
        matrices = [matrix_view(weight.detach()) for weight in weights]
        gradients = [matrix_view(weight.grad) for weight in weights]
        stack = stacked_view(matrices)
        if stack is not None:
            yield stack, gradients
        else:
            yield from ((matrix[None], [gradient]) for matrix, gradient in zip(matrices, gradients, strict=True))


def wide_gradient(weight_LOM: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """(W W' - D) W of each weight (L, O, M), D being I if `full`, else the diagonal of W W', and the sum of
    ||W W' - D||_F^2. For O up to M."""
    gram_LOO = weight_LOM @ weight_LOM.mT
    diagonal_LO = gram_LOO.diagonal(dim1=1, dim2=2)
    diagonal_LO.sub_(1) if full else diagonal_LO.zero_()
    return gram_LOO @ weight_LOM, torch.linalg.vector_norm(gram_LOO).square()


def tall_gradient(weight_LOM: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """As `wide_gradient`, for O above M, from W' W: (W W' - D) W = W (W' W) - D W, and
    ||W W' - D||_F^2 = ||W' W||_F^2 - 2 tr(D W W') + ||D||_F^2."""
    gram_LMM = weight_LOM.mT @ weight_LOM
    squares_LO1 = weight_LOM.square().sum(2, keepdim=True)
    product_LOM = weight_LOM @ gram_LMM
    if full:
        return product_LOM.sub_(weight_LOM), gram_LMM.square().sum() - 2 * squares_LO1.sum() + squares_LO1.numel()
    return product_LOM.addcmul_(squares_LO1, weight_LOM, value=-1), gram_LMM.square().sum() - squares_LO1.square().sum()


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

    capturable = False  # the search for singular vectors ends where it has converged

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
    capturable = False  # the weight of a step in the mean is a number on the host

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
        """Scale the gradients so that their norm, over all parameters, is at most `max_norm`."""
        nn.utils.clip_grad_norm_(network.parameters(), self.max_norm)
