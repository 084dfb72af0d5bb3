"""What acts on a player besides its objective, and which of it a run has. The hooks are in hooks, what they do in weights
(of either player) and images (what D makes of images)."""

from dataclasses import dataclass, field, fields

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
from biggan.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WeightRegularization:
    """What acts on the weights of either player. None: off."""

    orthogonal: float | None = None
    """Strength of orthogonal regularisation."""
    orthogonal_form: OrthogonalForm = "off-diagonal"
    """off-diagonal: the paper's; full: W'W - I; gradient: added to the gradient as the author's code does, which at the same
    strength is half of the paper's."""
    sigma_penalty: float | None = None
    """Strength of a penalty on the distance of the first singular value from its bound."""
    sigma_clamp: bool = False
    """After each step the first singular value is cut down to its bound."""
    sigma_bound: float | None = None
    """The bound, as a number."""
    sigma_ratio: float | None = None
    """The bound, as a multiple of the second singular value."""
    sigma_layers: str = ""
    """Of weights whose name contains this."""
    l2: float | None = None
    """Strength of the sum of all squared weights."""
    historical_averaging: float | None = None
    """Strength of historical averaging: the squared distance of all parameters from their mean so far."""
    max_grad_norm: float | None = None
    """Longest gradient; longer ones are shortened to it."""

    def check(self, player: str) -> None:
        """Raises ConfigError on strengths that make no sense."""
        where = f"regularization.{player}"
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) in (int, float) and not value > 0:
                off = ": use None for off" if "None" in str(item.type) else ""
                raise ConfigError(f"{where}.{item.name}={value} must be above 0{off}")
        if self.sigma_penalty is not None or self.sigma_clamp:
            if (self.sigma_bound is None) == (self.sigma_ratio is None):
                raise ConfigError(f"{where}: give one of sigma_bound and sigma_ratio, not both or none")
            if self.sigma_ratio is not None and self.sigma_ratio < 1:
                raise ConfigError(f"{where}.sigma_ratio={self.sigma_ratio} must be at least 1: the first is the largest")
        elif self.sigma_bound is not None or self.sigma_ratio is not None:
            raise ConfigError(f"{where}: a bound of sigma needs sigma_penalty or sigma_clamp")

    def build(self) -> tuple[Regularizer, ...]:
        """Those that are on."""
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
    """What acts on the generator. None: off."""

    orthogonal: float | None = 1e-4
    """Strength of orthogonal regularisation; BigGAN's 1e-4."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorRegularization(WeightRegularization):
    """What acts on the discriminator. None: off. Dropout before its last layer is model.discriminator.dropout."""

    r1: float | None = None
    """gamma of R1: gamma / 2 times the squared gradient of its scores at real images."""
    r2: float | None = None
    """gamma of R2, the same at generated ones."""
    r1_interval: int = 1
    """R1 and R2 act on every so many generator steps, as many times as strongly."""
    lecam: float | None = None
    """Strength of LeCam: scores are held near the running mean of the other side's."""
    lecam_decay: float = 0.99
    """Of those means."""
    consistency: float | None = None
    """Strength of consistency: a real image and its shifted, mirrored copy shall have one score. Not for images whose mirror
    image is another thing, such as digits."""

    def check(self, player: str) -> None:
        """Raises ConfigError on strengths that make no sense."""
        super().check(player)
        if not self.lecam_decay < 1:
            raise ConfigError(f"regularization.{player}.lecam_decay={self.lecam_decay} must be below 1")

    def build(self) -> tuple[Regularizer, ...]:
        """Those that are on."""
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
    """Which regularisers act on whom."""

    generator: GeneratorRegularization = field(default_factory=GeneratorRegularization)
    discriminator: DiscriminatorRegularization = field(default_factory=DiscriminatorRegularization)

    def check(self) -> None:
        """Raises ConfigError on strengths that make no sense."""
        self.generator.check("generator")
        self.discriminator.check("discriminator")
