"""Config of the regularizers of both networks, and their construction. None is off, everywhere."""

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
    """off-diagonal: the penalty of BigGAN, ||W'W * (1 - I)||^2. full: ||W'W - I||^2. gradient: a term added to the gradient,
    as in the author's PyTorch code, half as strong as off-diagonal at the same strength."""
    sigma_penalty: Strength | None = None
    """Strength of a penalty on the squared distance of each weight's first singular value from its bound. Needs
    --sigma-bound or a sigma_ratio."""
    sigma_clamp: bool = False
    """After each optimizer step the first singular value of each weight is clamped to its bound. Needs a sigma_bound or
    --sigma-ratio."""
    sigma_bound: Strength | None = None
    """Bound of the first singular value for sigma_penalty and sigma_clamp, as a number."""
    sigma_ratio: Ratio | None = None
    """Bound of the first singular value for sigma_penalty and sigma_clamp, as a multiple of the second singular value, at
    least 1."""
    sigma_layers: str = ""
    """sigma_penalty and sigma_clamp act on weights whose name contains this; empty: all."""
    l2: Strength | None = None
    """Strength of L2 regularization: the sum of all squared weights."""
    historical_averaging: Strength | None = None
    """Strength of historical averaging: the squared distance of all parameters from their running mean over all steps."""
    max_grad_norm: Strength | None = None
    """The gradient of all parameters of the network together is clipped to this norm."""

    def check(self, network: str) -> None:
        """Raises ConfigError on values out of range; `network`, "generator" or "discriminator", is for the message."""
        path = f"regularization.{network}"
        check_fields(self, path)
        if self.sigma_penalty is not None or self.sigma_clamp:
            if (self.sigma_bound is None) == (self.sigma_ratio is None):
                raise ConfigError(f"{path}: give one of sigma_bound and sigma_ratio, not both or none")
        elif self.sigma_bound is not None or self.sigma_ratio is not None:
            raise ConfigError(f"{path}: a bound of sigma needs sigma_penalty or sigma_clamp")

    def build(self, *, tf32: bool = False) -> tuple[Regularizer, ...]:
        """The regularizers that are on. `tf32`: products of weights may use TF32 on CUDA."""
        bound = SigmaBound(self.sigma_bound, self.sigma_ratio, self.sigma_layers)
        regularizers: list[Regularizer] = []
        if self.orthogonal is not None and self.orthogonal_form == "gradient":
            regularizers.append(OrthogonalGradient(self.orthogonal, tf32=tf32))
        elif self.orthogonal is not None:
            regularizers.append(Orthogonal(self.orthogonal, full=self.orthogonal_form == "full", tf32=tf32))
        if self.sigma_penalty is not None:
            regularizers.append(SigmaPenalty(bound, strength=self.sigma_penalty))
        if self.l2 is not None:
            regularizers.append(L2(self.l2))
        if self.historical_averaging is not None:
            regularizers.append(HistoricalAverage(self.historical_averaging))
        if self.max_grad_norm is not None:
            regularizers.append(GradientClip(self.max_grad_norm))
        if self.sigma_clamp:
            regularizers.append(SigmaClamp(bound))
        return tuple(regularizers)


@dataclass(frozen=True, kw_only=True)
class GeneratorRegularization(WeightRegularization):
    """Regularizers of the generator. None: off."""

    orthogonal: Strength | None = 1e-4
    """Strength of orthogonal regularization; 1e-4 in BigGAN (section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorRegularization(WeightRegularization):
    """Regularizers of the discriminator. None: off. Dropout before its last layer is model.discriminator.dropout."""

    r1: Strength | None = None
    """gamma of R1: gamma / 2 times the squared gradient norm of D's logits at real images."""
    r2: Strength | None = None
    """gamma of R2: gamma / 2 times the squared gradient norm of D's logits at generated images."""
    r1_interval: PositiveInt = 1
    """R1 and R2 are computed at every r1_interval-th generator step, with r1_interval times the weight (lazy regularization,
    Karras et al. 2020)."""
    lecam: Strength | None = None
    """Strength of LeCam (Tseng et al. 2021): a penalty on D's logits for real images above the running mean of those for
    generated images, and the other way around."""
    lecam_decay: Annotated[float, Gt(0), Lt(1)] = 0.99
    """Decay of the running means of LeCam, per step."""
    consistency: Strength | None = None
    """Strength of consistency regularization (Zhang et al. 2020): the squared difference of D's logits for a real image and
    for a randomly mirrored and shifted copy. Not for images that change their class when mirrored, such as digits."""

    def build(self, *, tf32: bool = False) -> tuple[Regularizer, ...]:
        """The regularizers that are on. `tf32`: products of weights may use TF32 on CUDA."""
        regularizers: list[Regularizer] = list(super().build(tf32=tf32))
        if self.r1 is not None:
            regularizers.append(R1(self.r1, self.r1_interval))
        if self.r2 is not None:
            regularizers.append(R2(self.r2, self.r1_interval))
        if self.lecam is not None:
            regularizers.append(LeCam(self.lecam, self.lecam_decay))
        if self.consistency is not None:
            regularizers.append(Consistency(self.consistency))
        return tuple(regularizers)


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Regularizers of both networks."""

    generator: GeneratorRegularization = field(default_factory=GeneratorRegularization)
    discriminator: DiscriminatorRegularization = field(default_factory=DiscriminatorRegularization)

    def check(self) -> None:
        """Raises ConfigError on values out of range, and on a bound without use."""
        self.generator.check("generator")
        self.discriminator.check("discriminator")
