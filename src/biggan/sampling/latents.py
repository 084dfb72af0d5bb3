"""What goes into a generator: priors over z, truncation, labels.

Sources: BigGAN sections 2 and 3.1, appendix E (the priors that were tried); docs/papers/biggan.md, "Latent
distributions". Every draw takes its generator of random numbers. Truncation resamples: a normal variable is drawn again
until what it gives lies within the threshold. It is for priors with tails; the others refuse it. Shapes: N batch, Z
latent."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from biggan.runtime.constraints import PositiveFloat, PositiveInt, check_fields
from biggan.runtime.errors import ConfigError

SMALLEST_TRUNCATION = 0.001

DEMO_THRESHOLD = 2.0  # the released demos scale a normal cut at 2

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
    """A distribution of z."""

    def draw(
        self, shape: tuple[int, int], generator: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        """z (N, Z), float32 on the CPU. `step`: the generator step in training, None for a trained generator.

        Raises ConfigError as `check_truncation`."""
        ...

    def check_truncation(self, truncation: float | None) -> None:
        """Raises ConfigError on a threshold that makes no sense for this prior."""
        ...


def truncated_normal(shape: tuple[int, ...], generator: torch.Generator, threshold: float | Tensor | None) -> Tensor:
    """N(0, I), every coordinate drawn again until |z_i| <= threshold (a number, or one that broadcasts to the shape).

    Coordinates that need no second draw keep their value, so one seed gives related images at all truncations.
    Raises ConfigError below 0.001, where the draws would hardly end.
    """
    z = torch.randn(shape, generator=generator)
    if threshold is None:
        return z
    if not torch.as_tensor(threshold).min() >= SMALLEST_TRUNCATION:
        raise ConfigError(
            f"the truncation : below {SMALLEST_TRUNCATION} standard deviations of the latents: use a larger one"
        )
    outside = z.abs() > threshold
    while count := int(outside.sum()):
        z[outside] = torch.randn(count, generator=generator)
        outside = z.abs() > threshold
    return z


@dataclass(frozen=True)
class Normal:
    """N(0, I); with a truncation t every coordinate within [-t, t]."""

    def check_truncation(self, truncation: float | None) -> None:
        """Below 0.001 the draws would not end; the paper's smallest is 0.04. NaN is refused too."""
        if truncation is not None and not truncation >= SMALLEST_TRUNCATION:
            raise ConfigError(f"truncation={truncation} must be at least {SMALLEST_TRUNCATION}: leave it out for none")

    def draw(
        self, shape: tuple[int, int], generator: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        self.check_truncation(truncation)
        return self.shaped(shape, generator, truncation, step)

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        """The draw itself; what the priors below change."""
        return truncated_normal(shape, generator, threshold)


class CensoredNormal(Normal):
    """max(N(0, I), 0): half of the coordinates are 0, whatever the truncation."""

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        return truncated_normal(shape, generator, threshold).clamp_(min=0)


class NormalBernoulliProduct(Normal):
    """N(0, I) times Bernoulli {0, 1}; the truncation is that of the normal."""

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        return truncated_normal(shape, generator, threshold) * bernoulli(shape, generator)


class HalfNormalHalfBernoulli(Normal):
    """The first half of the coordinates (the larger, if Z is odd) N(0, I), the rest Bernoulli {0, 1}; only the first is
    truncated."""

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        rows, columns = shape
        normal = truncated_normal((rows, columns - columns // 2), generator, threshold)
        return torch.cat([normal, bernoulli((rows, columns // 2), generator)], dim=1)  # (N, Z)


@dataclass(frozen=True)
class AnnealedNormal(Normal):
    """N(0, sigma I), sigma, the variance, falling evenly from `start` to `end` over the first `steps` generator steps, then
    `end`. A trained generator, and every sheet drawn on the way, uses `end`."""

    start: float
    end: float
    steps: int

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        done = 1.0 if step is None else min(1.0, step / self.steps)
        sigma = self.start + done * (self.end - self.start)
        deviation = math.sqrt(sigma)
        return deviation * truncated_normal(shape, generator, None if threshold is None else threshold / deviation)


@dataclass(frozen=True)
class VariedNormal(Normal):
    """N(0, sigma_i I) with a variance sigma_i for each sample, uniform between `low` and `high`."""

    low: float
    high: float

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        sigma_N1 = self.low + (self.high - self.low) * torch.rand(shape[0], 1, generator=generator)
        deviation_N1 = sigma_N1.sqrt()
        return deviation_N1 * truncated_normal(shape, generator, None if threshold is None else threshold / deviation_N1)


@dataclass(frozen=True)
class ScaledTruncatedNormal(Normal):
    """t times a normal cut at 2, t the truncation (1 for none): what the released TensorFlow Hub and Hugging Face
    generators are sampled with, instead of the paper's resampling (docs/papers/biggan.md, "Truncation, sampling, and
    standing statistics")."""

    def check_truncation(self, truncation: float | None) -> None:
        """Outside (0, 1] the released statistics end."""
        if truncation is not None and not 0 < truncation <= 1:
            raise ConfigError(f"truncation={truncation} must be above 0 and at most 1 for this model: it scales the latents")

    def shaped(
        self, shape: tuple[int, int], generator: torch.Generator, threshold: float | None, step: int | None
    ) -> Tensor:
        return (1.0 if threshold is None else threshold) * truncated_normal(shape, generator, DEMO_THRESHOLD)


@dataclass(frozen=True)
class BoundedPrior:
    """A prior without tails: independent coordinates from `coordinates(shape, generator)`. Truncation is refused."""

    name: str
    coordinates: Callable[[tuple[int, int], torch.Generator], Tensor]

    def check_truncation(self, truncation: float | None) -> None:
        """Any truncation is refused."""
        if truncation is not None:
            raise ConfigError(
                f"truncation={truncation}: latent.distribution={self.name} has no tails to truncate: leave it out"
            )

    def draw(
        self, shape: tuple[int, int], generator: torch.Generator, truncation: float | None = None, step: int | None = None
    ) -> Tensor:
        self.check_truncation(truncation)
        return self.coordinates(shape, generator)


def bernoulli(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Bernoulli {0, 1}, even odds."""
    return torch.randint(2, shape, generator=generator).float()


def rademacher(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Bernoulli {-1, 1}, even odds."""
    return 2 * bernoulli(shape, generator) - 1


def uniform_categorical(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """{-1, 0, 1}, each a third."""
    return torch.randint(-1, 2, shape, generator=generator).float()


def uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """U[-1, 1]."""
    return 2 * torch.rand(shape, generator=generator) - 1


def unit_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """U[0, 1): Salimans et al. 2016, published code."""
    return torch.rand(shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The distribution of z."""

    distribution: LatentName = "normal"
    """normal is the paper's choice; the others are appendix E's, and the scaled one of the released demos."""
    sigma: tuple[PositiveFloat, PositiveFloat] | None = None
    """annealed-normal: variance at the start and at the end (None: 2 and 1); varied-normal: least and largest variance of a
    sample (None: 0.5 and 1.5). The others have none."""
    annealing_steps: PositiveInt | None = None
    """annealed-normal: generator steps from the first variance to the second; None: the whole run."""

    def check(self) -> None:
        """Raises ConfigError with the field, its value and a remedy."""
        check_fields(self, "latent")
        if self.sigma is not None and self.distribution not in ("annealed-normal", "varied-normal"):
            raise ConfigError(f"latent.sigma={self.sigma}: latent.distribution={self.distribution} has none: leave it out")
        if self.distribution == "varied-normal" and self.sigma is not None and self.sigma[0] > self.sigma[1]:
            raise ConfigError(f"latent.sigma={self.sigma}: the least must come first: use {self.sigma[::-1]}")

    def build(self) -> Prior:
        """The distribution itself."""
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


def draw_labels(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Classes (N,) int64, uniform: the paper's choice for generated images, whatever the balance of the data."""
    return torch.randint(num_classes, (count,), generator=generator)
