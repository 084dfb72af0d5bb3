"""Which regularizers a run has: strengths as a config, and the regularizers built from it."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from biggan.objectives.gradient_penalties import R1, R2
from biggan.objectives.logit_regularizers import Consistency, LeCam
from biggan.objectives.regularizer import Regularizer
from biggan.objectives.weight_regularizers import (
    L2,
    GradientClip,
    HistoricalAverage,
    Orthogonal,
    OrthogonalForm,
    OrthogonalGradient,
    SigmaBound,
    SigmaClamp,
    SigmaPenalty,
)
from biggan.runtime.constraints import PositiveInt, Remedy, check_fields
from biggan.runtime.errors import ConfigError

Strength = Annotated[float, Gt(0), Remedy("use None for off")]
Ratio = Annotated[float, Ge(1), Remedy("the first singular value is the largest")]


@dataclass(frozen=True, kw_only=True)
class WeightRegularization:
    """Regularizers of the weights of either network. None: off."""

    orthogonal: Strength | None = None
    """Strength of orthogonal regularization (BigGAN section 3.1)."""
    orthogonal_form: OrthogonalForm = "off-diagonal"
    """off-diagonal: the paper's; full: W'W - I; gradient: added to the gradient as the author's code does, which at the same
    strength is half of the paper's."""
    sigma_penalty: Strength | None = None
    """Strength of a penalty on the distance of the first singular value from its bound."""
    sigma_clamp: bool = False
    """After each step the first singular value is clamped to its bound."""
    sigma_bound: Strength | None = None
    """Bound of the first singular value for sigma_penalty and sigma_clamp, as a number."""
    sigma_ratio: Ratio | None = None
    """That bound as a multiple of the second singular value."""
    sigma_layers: str = ""
    """sigma_penalty and sigma_clamp act on weights whose name contains this; empty: all."""
    l2: Strength | None = None
    """Strength of L2 regularization: the sum of all squared weights."""
    historical_averaging: Strength | None = None
    """Strength of historical averaging: the squared distance of all parameters from their mean so far."""
    max_grad_norm: Strength | None = None
    """Gradients of the whole network are clipped to this norm."""

    def check(self, network: str) -> None:
        """Raises ConfigError on strengths out of range; `network`: "generator" or "discriminator"."""
        where = f"regularization.{network}"
        check_fields(self, where)
        if self.sigma_penalty is not None or self.sigma_clamp:
            if (self.sigma_bound is None) == (self.sigma_ratio is None):
                raise ConfigError(f"{where}: give one of sigma_bound and sigma_ratio, not both or none")
        elif self.sigma_bound is not None or self.sigma_ratio is not None:
            raise ConfigError(f"{where}: a bound of sigma needs sigma_penalty or sigma_clamp")

    def build(self) -> tuple[Regularizer, ...]:
        """The regularizers that are on."""
        bound = SigmaBound(self.sigma_bound, self.sigma_ratio, self.sigma_layers)
        found: list[Regularizer] = []
        if self.orthogonal is not None and self.orthogonal_form == "gradient":
            found.append(OrthogonalGradient(self.orthogonal))
        elif self.orthogonal is not None:
            found.append(Orthogonal(self.orthogonal, full=self.orthogonal_form == "full"))
        if self.sigma_penalty is not None:
            found.append(SigmaPenalty(bound, strength=self.sigma_penalty))
        if self.l2 is not None:
            found.append(L2(self.l2))
        if self.historical_averaging is not None:
            found.append(HistoricalAverage(self.historical_averaging))
        if self.max_grad_norm is not None:
            found.append(GradientClip(self.max_grad_norm))
        if self.sigma_clamp:
            found.append(SigmaClamp(bound))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class GeneratorRegularization(WeightRegularization):
    """Regularizers of the generator. None: off."""

    orthogonal: Strength | None = 1e-4
    """Strength of orthogonal regularization; BigGAN's 1e-4."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorRegularization(WeightRegularization):
    """Regularizers of the discriminator. None: off. Dropout before its last layer is model.discriminator.dropout."""

    r1: Strength | None = None
    """gamma of R1: gamma / 2 times the squared gradient norm of D's logits at real images."""
    r2: Strength | None = None
    """gamma of R2: gamma / 2 times the squared gradient norm of D's logits at generated images."""
    r1_interval: PositiveInt = 1
    """Steps between evaluations of R1 and R2, which are weighted by as much (lazy regularization)."""
    lecam: Strength | None = None
    """Strength of LeCam: D's logits are held near the running mean of the logits of the other kind of images."""
    lecam_decay: Annotated[float, Gt(0), Lt(1)] = 0.99
    """Decay of the running means of LeCam."""
    consistency: Strength | None = None
    """Strength of consistency: a real image and its shifted, mirrored copy should have the same logit. Not for images whose
    mirror image means something else, such as digits."""

    def build(self) -> tuple[Regularizer, ...]:
        """The regularizers that are on."""
        found: list[Regularizer] = list(super().build())
        if self.r1 is not None:
            found.append(R1(self.r1, self.r1_interval))
        if self.r2 is not None:
            found.append(R2(self.r2, self.r1_interval))
        if self.lecam is not None:
            found.append(LeCam(self.lecam, self.lecam_decay))
        if self.consistency is not None:
            found.append(Consistency(self.consistency))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Regularizers of both networks."""

    generator: GeneratorRegularization = field(default_factory=GeneratorRegularization)
    discriminator: DiscriminatorRegularization = field(default_factory=DiscriminatorRegularization)

    def check(self) -> None:
        """Raises ConfigError on strengths that make no sense."""
        self.generator.check("generator")
        self.discriminator.check("discriminator")
