"""Which losses a run has."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from biggan.objectives.losses import (
    FeatureMatching,
    Hinge,
    LeastSquares,
    NonSaturating,
    Objective,
    RelativisticPairing,
    SemiSupervised,
    Wasserstein,
)
from biggan.runtime.constraints import PositiveFloat, Remedy, check_fields
from biggan.runtime.errors import ConfigError

LOSSES_WITH_TARGETS = ("non-saturating", "least-squares", "semi-supervised")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The losses of discriminator and generator."""

    loss: Literal["hinge", "non-saturating", "least-squares", "wasserstein", "relativistic", "semi-supervised"] = "hinge"
    """The adversarial loss. semi-supervised: K + 1 classes, for model families whose discriminator has class logits."""
    margin: PositiveFloat = 1.0
    """Margin of the hinge loss."""
    real_target: Annotated[float, Gt(0), Le(1), Remedy("generated images have the target 0")] = 1.0
    """The discriminator's target for real images, above 0 and at most 1; below 1: one-sided label smoothing."""
    generator_target: Annotated[float, Ge(0), Le(1)] | None = None
    """The value that the generator wants the discriminator to give generated images, 0 to 1. None: the default of the loss:
    1, or for the semi-supervised loss the saturating loss, which minimizes the log-probability of "generated"."""
    unsupervised_weight: Annotated[float, Ge(0), Remedy("0 learns from labels alone")] = 0.5
    """Weight of the real/fake loss in the semi-supervised loss, relative to the classification loss; 0: classification
    only."""
    feature_matching: Literal["squared-l2", "mean-square", "l1"] | None = None
    """The generator matches the discriminator's mean features on real images instead of minimizing the adversarial loss: by
    squared L2 distance (Salimans et al. 2016), mean square (its code for MNIST) or mean absolute difference (its code for
    CIFAR-10 and SVHN). None: off."""
    feature_layer: str | None = None
    """Name of the discriminator's layer whose outputs feature matching compares; None: the features before the head."""

    def check(self) -> None:
        """Raises ConfigError on values out of range and on settings that the loss has no use for."""
        check_fields(self, "objective")
        if self.margin != 1 and self.loss != "hinge":
            raise ConfigError(
                f"objective.margin={self.margin} only applies to the hinge loss, not to {self.loss}: leave it out"
            )
        weight = self.unsupervised_weight
        if weight != 0.5 and self.loss != "semi-supervised":
            raise ConfigError(
                f"objective.unsupervised_weight={weight} only applies to the semi-supervised loss: leave it out"
            )
        for name, default in (("real_target", 1.0), ("generator_target", None)):
            value = getattr(self, name)
            if value != default and self.loss not in LOSSES_WITH_TARGETS:
                raise ConfigError(
                    f"objective.{name}={value}: the {self.loss} loss compares logits with no target that could be moved: "
                    f"leave it out, or use one of {', '.join(LOSSES_WITH_TARGETS)}"
                )
        if self.feature_layer is not None and self.feature_matching is None:
            raise ConfigError(
                f"objective.feature_layer={self.feature_layer} is for feature matching: set objective.feature_matching too"
            )
        if self.feature_matching is not None and self.generator_target is not None:
            raise ConfigError("objective.generator_target is of no use with feature matching: leave it out")

    def build(self) -> Objective:
        """The objective that this config describes."""
        targets = {"real_target": self.real_target}
        if self.generator_target is not None:
            targets["generator_target"] = self.generator_target
        builders = {
            "hinge": lambda: Hinge(self.margin),
            "non-saturating": lambda: NonSaturating(**targets),
            "least-squares": lambda: LeastSquares(**targets),
            "wasserstein": Wasserstein,
            "relativistic": RelativisticPairing,
            "semi-supervised": lambda: SemiSupervised(**targets, unsupervised_weight=self.unsupervised_weight),
        }
        inner = builders[self.loss]()
        if self.feature_matching is None:
            return inner
        return FeatureMatching(inner, self.feature_matching, self.feature_layer)
