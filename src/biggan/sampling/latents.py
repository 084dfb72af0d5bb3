"""Inputs of a generator: distributions of the latent z, truncation, class labels.

Sources: BigGAN sections 2 and 3.1, appendix E (the distributions that were tried); docs/papers/biggan.md, "Latent
distributions". A batch is drawn from one generator of random numbers, or each row from its own (draws.py). Truncation is
by resampling: a normal variable outside the threshold is drawn again. Distributions without tails refuse a truncation.
Shapes: N batch, Z latent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from biggan.runtime.constraints import PositiveInt, Variance, check_fields
from biggan.runtime.errors import ConfigError
from biggan.sampling.draws import SMALLEST_TRUNCATION, BatchDraws, Draws, RowDraws

DEMO_THRESHOLD = 2.0  # the released demos scale a normal truncated at 2

LatentName = Literal[
    "normal",
    "uniform",
    "unit-uniform",
    "bernoulli",
    "rademacher",
    "censored-normal",
    "categorical",
    "normal-bernoulli-product",
    "half-normal-half-bernoulli",
    "annealed-normal",
    "varied-normal",
    "scaled-truncated-normal",
]


class Prior(Protocol):
    """A distribution of the latent z."""

    def draw(
        self, shape: tuple[int, int], rng: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        """z (N, Z), float32 on the CPU. `truncation`: the threshold, None for no truncation. `step`: the generator step in
        training, None for a trained generator.

        Raises ConfigError as `check_truncation`."""
        ...

    def draw_rows(self, latent_dim: int, rngs: Sequence[torch.Generator], truncation: float | None = None) -> Tensor:
        """z (N, Z), float32 on the CPU, of a trained generator: row k is `draw((1, Z), rngs[k], truncation)`, to the bit,
        but the generators may end in another state. Raises ConfigError as `check_truncation`."""
        ...

    def check_truncation(self, truncation: float | None) -> None:
        """Raises ConfigError on a threshold that this distribution does not support."""
        ...


@dataclass(frozen=True)
class Normal:
    """N(0, I); with a truncation t, every coordinate lies within [-t, t]."""

    def check_truncation(self, truncation: float | None) -> None:
        """Raises ConfigError below 0.001, where resampling would hardly end, and on numbers that are not finite. The
        smallest in the paper is 0.04."""
        if truncation is not None and not SMALLEST_TRUNCATION <= truncation < math.inf:
            raise ConfigError(
                f"truncation={truncation} must be at least {SMALLEST_TRUNCATION} and finite: leave it out for none"
            )

    def draw(
        self, shape: tuple[int, int], rng: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        self.check_truncation(truncation)
        return self._draw(shape, BatchDraws(rng), truncation, step)

    def draw_rows(self, latent_dim: int, rngs: Sequence[torch.Generator], truncation: float | None = None) -> Tensor:
        self.check_truncation(truncation)
        return self._draw((len(rngs), latent_dim), RowDraws(rngs), truncation, None)

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        """The draw after the check; subclasses override it."""
        return draws.truncated_normal(shape, threshold)


class CensoredNormal(Normal):
    """max(N(0, I), 0): half of the coordinates are 0, at any truncation."""

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        return draws.truncated_normal(shape, threshold).clamp_(min=0)


class NormalBernoulliProduct(Normal):
    """N(0, I) times independent values 0 or 1 with probability 1/2 each; truncation applies to the normal factor."""

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        return draws.truncated_normal(shape, threshold, is_last=False) * bernoulli(shape, draws)


class HalfNormalHalfBernoulli(Normal):
    """The first half of the coordinates (the larger half, if Z is odd) N(0, I), the others Bernoulli {0, 1}; truncation
    applies to the normal half."""

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        rows, columns = shape
        normal = draws.truncated_normal((rows, columns - columns // 2), threshold, is_last=False)
        return torch.cat([normal, bernoulli((rows, columns // 2), draws)], dim=1)  # (N, Z)


@dataclass(frozen=True)
class AnnealedNormal(Normal):
    """N(0, sigma I) whose variance sigma goes linearly from `start` to `end` over the first `steps` generator steps and
    stays at `end`. Sampling outside training steps, sample sheets included, uses `end`."""

    start: float
    end: float
    steps: int

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        fraction = 1.0 if step is None else min(1.0, step / self.steps)
        sigma = self.start + fraction * (self.end - self.start)
        deviation = math.sqrt(sigma)
        return deviation * draws.truncated_normal(shape, None if threshold is None else threshold / deviation)


@dataclass(frozen=True)
class VariedNormal(Normal):
    """N(0, sigma_i I) with a variance sigma_i of its own for each sample, uniform between `low` and `high`."""

    low: float
    high: float

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        sigma_N1 = self.low + (self.high - self.low) * draws.uniform((shape[0], 1))
        deviation_N1 = sigma_N1.sqrt()
        return deviation_N1 * draws.truncated_normal(shape, None if threshold is None else threshold / deviation_N1)


@dataclass(frozen=True)
class ScaledTruncatedNormal(Normal):
    """t times a normal truncated at 2, where t is the truncation (1 for None). The released TensorFlow Hub and Hugging Face
    generators are sampled this way, instead of by the paper's resampling with threshold t (docs/papers/biggan.md,
    "Truncation, sampling, and standing statistics")."""

    def check_truncation(self, truncation: float | None) -> None:
        """Raises ConfigError outside (0, 1], for which the released models hold no standing statistics."""
        if truncation is not None and not 0 < truncation <= 1:
            raise ConfigError(f"truncation={truncation} must be above 0 and at most 1 for this model: it scales the latents")

    def _draw(self, shape: tuple[int, int], draws: Draws, threshold: float | None, step: int | None) -> Tensor:
        return (1.0 if threshold is None else threshold) * draws.truncated_normal(shape, DEMO_THRESHOLD)


@dataclass(frozen=True)
class BoundedPrior:
    """A distribution without tails: independent coordinates from `draw_coordinates(shape, draws)`. Refuses truncation."""

    name: str
    draw_coordinates: Callable[[tuple[int, int], Draws], Tensor] = field(repr=False)

    def check_truncation(self, truncation: float | None) -> None:
        """Raises ConfigError on any truncation."""
        if truncation is not None:
            raise ConfigError(
                f"truncation={truncation}: latent.distribution={self.name} has no tails to truncate: leave it out"
            )

    def draw(
        self, shape: tuple[int, int], rng: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        self.check_truncation(truncation)
        return self.draw_coordinates(shape, BatchDraws(rng))

    def draw_rows(self, latent_dim: int, rngs: Sequence[torch.Generator], truncation: float | None = None) -> Tensor:
        self.check_truncation(truncation)
        return self.draw_coordinates((len(rngs), latent_dim), RowDraws(rngs))


def bernoulli(shape: tuple[int, int], draws: Draws) -> Tensor:
    """Independent values 0 or 1 with probability 1/2 each."""
    return draws.integers(0, 2, shape)


def rademacher(shape: tuple[int, int], draws: Draws) -> Tensor:
    """Independent values -1 or 1 with probability 1/2 each."""
    return 2 * bernoulli(shape, draws) - 1


def uniform_categorical(shape: tuple[int, int], draws: Draws) -> Tensor:
    """Independent values -1, 0 or 1 with probability 1/3 each."""
    return draws.integers(-1, 2, shape)


def uniform(shape: tuple[int, int], draws: Draws) -> Tensor:
    """Independent values, uniform in [-1, 1]."""
    return 2 * draws.uniform(shape) - 1


def unit_uniform(shape: tuple[int, int], draws: Draws) -> Tensor:
    """Independent values, uniform in [0, 1): the noise of the published code of Salimans et al. 2016."""
    return draws.uniform(shape)


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The distribution of the latent z."""

    distribution: LatentName = "normal"
    """normal: the choice of BigGAN. unit-uniform: U[0, 1), the choice of Improved GAN's code. scaled-truncated-normal: the
    one of BigGAN's released demos. The others were tried in BigGAN's appendix E."""
    sigma: tuple[Variance, Variance] | None = None
    """annealed-normal: variance of the latents at the start and at the end (None: 2 and 1). varied-normal: smallest and
    largest variance of a sample's latents (None: 0.5 and 1.5). Other distributions take no sigma."""
    annealing_steps: PositiveInt | None = None
    """annealed-normal: generator steps from the variance at the start to the one at the end; None: all steps of the run."""

    def check(self) -> None:
        """Raises ConfigError, with the field, its value and a remedy, on a value that is out of range or has no use."""
        check_fields(self, "latent")
        if self.sigma is not None and self.distribution not in ("annealed-normal", "varied-normal"):
            raise ConfigError(f"latent.sigma={self.sigma}: latent.distribution={self.distribution} has none: leave it out")
        if self.annealing_steps is not None and self.distribution != "annealed-normal":
            raise ConfigError(
                f"latent.annealing_steps={self.annealing_steps} needs latent.distribution=annealed-normal, "
                f"not {self.distribution}: leave it out, or give None"
            )
        if self.distribution == "varied-normal" and self.sigma is not None and self.sigma[0] > self.sigma[1]:
            raise ConfigError(f"latent.sigma={self.sigma}: the least must come first: use {self.sigma[::-1]}")

    def build(self) -> Prior:
        """The distribution that this config describes."""
        priors: dict[LatentName, Callable[[], Prior]] = {
            "normal": Normal,
            "uniform": lambda: BoundedPrior("uniform", uniform),
            "unit-uniform": lambda: BoundedPrior("unit-uniform", unit_uniform),
            "bernoulli": lambda: BoundedPrior("bernoulli", bernoulli),
            "rademacher": lambda: BoundedPrior("rademacher", rademacher),
            "censored-normal": CensoredNormal,
            "categorical": lambda: BoundedPrior("categorical", uniform_categorical),
            "normal-bernoulli-product": NormalBernoulliProduct,
            "half-normal-half-bernoulli": HalfNormalHalfBernoulli,
            "annealed-normal": lambda: AnnealedNormal(*(self.sigma or (2.0, 1.0)), self.annealing_steps or 1),
            "varied-normal": lambda: VariedNormal(*(self.sigma or (0.5, 1.5))),
            "scaled-truncated-normal": ScaledTruncatedNormal,
        }
        return priors[self.distribution]()


def draw_labels(count: int, num_classes: int, rng: torch.Generator) -> Tensor:
    """Class labels (N,) int64, uniform over all classes however the data are balanced, as in BigGAN."""
    return torch.randint(num_classes, (count,), generator=rng)
