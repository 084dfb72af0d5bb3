"""What the players minimise. Pure functions of verdicts: no module, no state, no rank.

Each returns named terms whose sum is the loss, each a mean over the batch, so that logs can show them apart. Sources:
BigGAN section 2 and appendix H (hinge, its margin, Wasserstein); Goodfellow et al. 2014 (non-saturating); Mao et al. 2017
(least squares); Huang et al. 2024, R3GAN (relativistic pairing, meant to go with R1 and R2); Salimans et al. 2016,
sections 3.1, 3.4 and 5 (feature matching, one-sided label smoothing, K + 1 classes; docs/papers/improved_gan.md). Section
4 there warns of one that is not here: a generator that is trained to raise the Inception Score makes adversarial examples
for that network. Shapes: N batch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from biggan.nn.heads import DiscriminatorOutput
from biggan.runtime.constraints import PositiveFloat, Remedy, check_fields
from biggan.runtime.errors import ConfigError


class Objective:
    """The losses of both players."""

    needs_real: bool = False
    """Whether the generator's loss needs real images too."""
    matches_batch_means: bool = False
    """Whether it needs only the means of features, those of the batch of all ranks: features are then (1, F)."""
    decision_boundary: float | None = None
    """The score above which D calls an image real; None: only differences of scores mean anything."""
    supervised: bool = False
    """Whether D learns from the classes of real images, those of which the classes are known."""
    feature_layer: str | None = None
    """The layer of D, by name, whose outputs stand for the features in the generator's turn; None: those of the verdict."""

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        """Named scalar terms; `y_N` are the classes of the real images."""
        raise NotImplementedError

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        """Named scalar terms; `real` is given, in equal number, only to objectives that need it."""
        raise NotImplementedError

    def supervised_loss(self, labeled: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        """Named scalar terms of D for real images of known classes; asked for of objectives that are `supervised`."""
        raise NotImplementedError


def cross_entropy_to_target(logits_N: Tensor, target: float) -> Tensor:
    """E[-t log s(score) - (1 - t) log(1 - s(score))], s the logistic function: cross-entropy with a target t in [0, 1]. From
    logits: softplus(x) is -log s(-x), and stays finite for any score."""
    loss_N = target * F.softplus(-logits_N) if target > 0 else torch.zeros_like(logits_N)
    return (loss_N + (1 - target) * F.softplus(logits_N) if target < 1 else loss_N).mean()


def chance_logit(real_target: float) -> float:
    """The score of an image that is as likely real as generated, where the targets are `real_target` and 0: D's optimum is
    then real_target / 2 (section 3.4), of which this is the logit."""
    return math.log(real_target / (2 - real_target))


@dataclass(frozen=True)
class Hinge(Objective):
    """E[relu(m - D(x, y))] + E[relu(m + D(G(z, y), y))] for D, -E[D(G(z, y), y)] for G; the margin m is 1 in BigGAN.

    Half of it hurts, up to 3 is no cure for collapse, more is unstable (BigGAN section 4.2 and appendix G)."""

    margin: float = 1.0
    decision_boundary = 0.0

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_real": F.relu(self.margin - real.logits).mean(), "loss_fake": F.relu(self.margin + fake.logits).mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": -fake.logits.mean()}


@dataclass(frozen=True)
class NonSaturating(Objective):
    """-E[log s(D(x))] - E[log(1 - s(D(G)))] for D, -E[log s(D(G))] for G, s the logistic function, from logits.

    One-sided label smoothing: D's target for real images is `real_target`, below 1; generated ones keep 0, because with a
    target above 0 D's optimum would rise where only generated images are, and hold them there (Salimans et al. 2016, section
    3.4). G's target for its images is `generator_target`; published for ImageNet: half of `real_target`, where D's optimum
    ends up. Targets below 1 leave the constant entropy of the target in the loss."""

    real_target: float = 1.0
    generator_target: float = 1.0

    @property
    def decision_boundary(self) -> float:
        return chance_logit(self.real_target)

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {
            "loss_real": cross_entropy_to_target(real.logits, self.real_target),
            "loss_fake": cross_entropy_to_target(fake.logits, 0.0),
        }

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": cross_entropy_to_target(fake.logits, self.generator_target)}


@dataclass(frozen=True)
class LeastSquares(Objective):
    """E[(D(x) - t)^2] / 2 + E[D(G)^2] / 2 for D, E[(D(G) - u)^2] / 2 for G: equation 9 of Mao et al., with t = u = 1
    there."""

    real_target: float = 1.0
    generator_target: float = 1.0

    @property
    def decision_boundary(self) -> float:
        return self.real_target / 2

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        real_loss = (real.logits - self.real_target).square().mean() / 2
        return {"loss_real": real_loss, "loss_fake": fake.logits.square().mean() / 2}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": (fake.logits - self.generator_target).square().mean() / 2}


@dataclass(frozen=True)
class Wasserstein(Objective):
    """E[D(G)] - E[D(x)] for D, -E[D(G)] for G; spectral normalisation, or a penalty, keeps D Lipschitz."""

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_real": -real.logits.mean(), "loss_fake": fake.logits.mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": -fake.logits.mean()}


@dataclass(frozen=True)
class RelativisticPairing(Objective):
    """E[f(D(G) - D(x))] for D, E[f(D(x) - D(G))] for G, f the softplus, over pairs of one generated and one real image.

    R3GAN adds R1 and R2: --regularization.discriminator.r1 and .r2. DEVIATION from Huang et al.: the images of a pair may
    be of different classes, because fakes have labels of their own here."""

    needs_real = True

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_pair": F.softplus(fake.logits - real.logits).mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": F.softplus(real.logits - fake.logits).mean()}


@dataclass(frozen=True)
class SemiSupervised(Objective):
    """K classes and one more, "generated", whose logit is held at 0; score = log Z, Z the sum of exp of the others.

    D: -E[log p(y | x, real)] over images of known class, plus `unsupervised_weight` times -E[log s(log Z(x))] - E[log(1 -
    s(log Z(G)))], s the logistic function: Z / (Z + 1) is the probability of "real" (Salimans et al. 2016, section 5,
    where the weight is 1; in the published code it is a half, but for ImageNet). G: E[log(1 - s(log Z(G)))], which
    saturates, as the published minibatch scripts have it, or, with `generator_target`, a cross-entropy with that target."""

    real_target: float = 1.0
    generator_target: float | None = None
    unsupervised_weight: float = 0.5
    supervised = True

    @property
    def decision_boundary(self) -> float:
        return chance_logit(self.real_target)

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        terms = {
            "loss_real": cross_entropy_to_target(real.logits, self.real_target),
            "loss_fake": cross_entropy_to_target(fake.logits, 0.0),
        }
        return {name: self.unsupervised_weight * term for name, term in terms.items()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        if self.generator_target is None:
            return {"loss": -cross_entropy_to_target(fake.logits, 0.0)}
        return {"loss": cross_entropy_to_target(fake.logits, self.generator_target)}

    def supervised_loss(self, labeled: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_class": F.cross_entropy(labeled.class_logits, y_N)}


@dataclass(frozen=True)
class FeatureMatching(Objective):
    """G's images shall have the mean features of real ones: || E f(x) - E f(G(z)) ||^2, or the mean over features of the
    absolute difference (l1) or its square (mean-square); D plays another objective, `inner`.

    Salimans et al. 2016, section 3.1, has the squared length; the published code l1 (CIFAR-10, SVHN) and mean-square
    (MNIST). DEVIATION from that code: the real images are those of D's last turn, not a batch drawn apart. With accumulation
    the means are those of a micro-batch, whose loss is larger by the variance of such means."""

    inner: Objective
    norm: Literal["squared-l2", "mean-square", "l1"] = "squared-l2"
    feature_layer: str | None = None
    needs_real = True
    matches_batch_means = True

    @property
    def decision_boundary(self) -> float | None:
        return self.inner.decision_boundary

    @property
    def supervised(self) -> bool:
        return self.inner.supervised

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return self.inner.discriminator_loss(real, fake, y_N)

    def supervised_loss(self, labeled: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return self.inner.supervised_loss(labeled, y_N)

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        difference_F = real.features.float().mean(0) - fake.features.float().mean(0)
        if self.norm == "l1":
            return {"feature_matching": difference_F.abs().mean()}
        squares_F = difference_F.square()
        return {"feature_matching": squares_F.mean() if self.norm == "mean-square" else squares_F.sum()}


WITH_TARGETS = ("non-saturating", "least-squares", "semi-supervised")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which losses."""

    loss: Literal["hinge", "non-saturating", "least-squares", "wasserstein", "relativistic", "semi-supervised"] = "hinge"
    """The adversarial loss. semi-supervised: K + 1 classes, for families whose D gives class logits."""
    margin: PositiveFloat = 1.0
    """Margin of the hinge loss."""
    real_target: Annotated[float, Gt(0), Le(1), Remedy("generated images have the target 0")] = 1.0
    """D's target for real images; below 1: one-sided label smoothing."""
    generator_target: Annotated[float, Ge(0), Le(1)] | None = None
    """Target that the generator wants D to give its images; None: the loss's own, which is 1, but for the semi-supervised
    loss, where the generator then minimizes D's probability of "generated", a loss that saturates."""
    unsupervised_weight: Annotated[float, Ge(0), Remedy("0 learns from labels alone")] = 0.5
    """Weight of the real/fake loss in the semi-supervised loss, where the weight of the class loss is 1; 0: labels alone."""
    feature_matching: Literal["squared-l2", "mean-square", "l1"] | None = None
    """The generator matches D's mean features on real images instead of minimizing the adversarial loss: by squared L2
    distance (the paper), mean square (the published code, MNIST) or mean absolute difference (CIFAR-10, SVHN). None: off."""
    feature_layer: str | None = None
    """The layer of D whose outputs are matched, by its name in the network; None: the features before D's last layer."""

    def check(self) -> None:
        """Raises ConfigError on numbers out of range, or on settings that the loss does not have."""
        check_fields(self, "objective")
        if self.margin != 1 and self.loss != "hinge":
            raise ConfigError(f"objective.margin={self.margin} is of the hinge loss, not of {self.loss}: leave it out")
        weight = self.unsupervised_weight
        if weight != 0.5 and self.loss != "semi-supervised":
            raise ConfigError(f"objective.unsupervised_weight={weight} is of the semi-supervised loss: leave it out")
        for name, none in (("real_target", 1.0), ("generator_target", None)):
            value = getattr(self, name)
            if value != none and self.loss not in WITH_TARGETS:
                raise ConfigError(
                    f"objective.{name}={value}: the {self.loss} loss compares logits with no target that could be moved: "
                    f"leave it out, or use one of {', '.join(WITH_TARGETS)}"
                )
        if self.feature_layer is not None and self.feature_matching is None:
            raise ConfigError(
                f"objective.feature_layer={self.feature_layer} is for feature matching: name a norm for that too"
            )
        if self.feature_matching is not None and self.generator_target is not None:
            raise ConfigError("objective.generator_target is of no use with feature matching: leave it out")

    def build(self) -> Objective:
        """The losses themselves."""
        targets = {"real_target": self.real_target}
        if self.generator_target is not None:
            targets["generator_target"] = self.generator_target
        makers = {
            "hinge": lambda: Hinge(self.margin),
            "non-saturating": lambda: NonSaturating(**targets),
            "least-squares": lambda: LeastSquares(**targets),
            "wasserstein": Wasserstein,
            "relativistic": RelativisticPairing,
            "semi-supervised": lambda: SemiSupervised(**targets, unsupervised_weight=self.unsupervised_weight),
        }
        inner = makers[self.loss]()
        if self.feature_matching is None:
            return inner
        return FeatureMatching(inner, self.feature_matching, self.feature_layer)
