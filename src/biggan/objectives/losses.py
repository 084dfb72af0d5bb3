"""Losses of the discriminator and the generator: pure functions of discriminator outputs.

Each loss returns named terms, each a mean over the batch; their sum is minimized, and the log shows each term. Sources:
BigGAN section 2 and appendix H (hinge, its margin, Wasserstein); Goodfellow et al. 2014 (non-saturating); Mao et al. 2017
(least squares); Huang et al. 2024, R3GAN (relativistic pairing, to be combined with R1 and R2); Salimans et al. 2016,
sections 3.1, 3.4 and 5 (feature matching, one-sided label smoothing, K + 1 classes; docs/papers/improved_gan.md).
The Inception Score is no loss here: a generator trained to raise it makes adversarial examples for the Inception network
(Salimans et al. 2016, section 4). Shapes: N batch, K classes, F features.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from biggan.nn.heads import DiscriminatorOutput
from biggan.runtime.errors import ConfigError


class Objective:
    """The losses of the discriminator D and the generator G."""

    needs_real: bool = False
    """Whether the generator's loss takes D's output for real images too."""
    matches_batch_means: bool = False
    """Whether the generator's loss takes mean features of the global batch, of shape (1, F), instead of (N, F)."""
    feature_layer: str | None = None
    """Name of the layer of D whose outputs are the features in the generator step; None: the features before the head."""

    @property
    def name(self) -> str:
        """The loss as `ObjectiveConfig.loss` names it."""
        raise NotImplementedError

    @property
    def decision_boundary(self) -> float | None:
        """The logit above which D classifies an image as real; None: only differences between logits have a meaning."""
        return None

    @property
    def supervised(self) -> bool:
        """Whether D is also trained to classify the labeled real images."""
        return False

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        """D's loss as {name: scalar}; `y_N` are the class labels of the real images."""
        raise NotImplementedError

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        """G's loss as {name: scalar}; `real` holds as many images as `fake`, or is None unless `needs_real`."""
        raise NotImplementedError

    def supervised_loss(self, labeled: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        """D's classification loss on labeled real images as {name: scalar}, for objectives that are `supervised`."""
        raise NotImplementedError

    def classified_as_real(self, logits_N: Tensor) -> Tensor:
        """(N,) bool: whether D classifies each image as real, by its logit and the decision boundary.

        Raises ConfigError where the loss has no decision boundary."""
        self.check_decision_boundary()
        return logits_N > self.decision_boundary

    def check_decision_boundary(self) -> None:
        """Raises ConfigError where the loss has no decision boundary."""
        if self.decision_boundary is None:
            raise ConfigError(
                f"the {self.name} loss gives logits without a decision boundary: only differences between logits have a "
                "meaning, so no image can be classified as real or generated; use a run with another objective.loss"
            )


def cross_entropy_to_target(logits_N: Tensor, target: float) -> Tensor:
    """E[-t log s(logit) - (1 - t) log(1 - s(logit))], the cross-entropy with a target t in [0, 1], s the logistic function.
    Computed as softplus(x) = -log s(-x), which stays finite for any logit."""
    loss_N = target * F.softplus(-logits_N) if target > 0 else torch.zeros_like(logits_N)
    return (loss_N + (1 - target) * F.softplus(logits_N) if target < 1 else loss_N).mean()


def chance_logit(real_target: float) -> float:
    """The logit that an optimal D gives to an image that is as likely real as generated, where D's targets are `real_target`
    for real images and 0 for generated ones: the logit of real_target / 2 (Salimans et al. 2016, section 3.4)."""
    return math.log(real_target / (2 - real_target))


@dataclass(frozen=True)
class Hinge(Objective):
    """E[relu(m - D(x, y))] + E[relu(m + D(G(z, y), y))] for D, -E[D(G(z, y), y)] for G; the margin m is 1 in BigGAN.

    With m = 0.5 results were worse, up to 3 did not prevent collapse, and more was unstable (BigGAN section 4.2, appendix
    G)."""

    name = "hinge"
    margin: float = 1.0
    decision_boundary = 0.0

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_real": F.relu(self.margin - real.logits).mean(), "loss_fake": F.relu(self.margin + fake.logits).mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": -fake.logits.mean()}


@dataclass(frozen=True)
class NonSaturating(Objective):
    """-E[log s(D(x))] - E[log(1 - s(D(G)))] for D, -E[log s(D(G))] for G, s the logistic function of the logits D.

    One-sided label smoothing: D's target for real images is `real_target`, below 1. The target of generated images stays 0:
    a target above 0 would give G no reason to move samples away from where there are no real images (Salimans et al. 2016,
    section 3.4). G wants D to give its images `generator_target`; the published ImageNet code has half of `real_target`,
    the value of an optimal D at equilibrium. With a target below 1, the minimum of the loss is the entropy of the target,
    not 0."""

    name = "non-saturating"
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
    """E[(D(x) - t)^2] / 2 + E[D(G)^2] / 2 for D, E[(D(G) - u)^2] / 2 for G, t = `real_target`, u = `generator_target`:
    equation 9 of Mao et al. 2017, where t = u = 1."""

    name = "least-squares"
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
    """E[D(G)] - E[D(x)] for D, -E[D(G)] for G; spectral normalization or a gradient penalty keeps D Lipschitz."""

    name = "wasserstein"

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_real": -real.logits.mean(), "loss_fake": fake.logits.mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": -fake.logits.mean()}


@dataclass(frozen=True)
class RelativisticPairing(Objective):
    """E[f(D(G) - D(x))] for D, E[f(D(x) - D(G))] for G, f the softplus, over pairs of one generated and one real image.

    R3GAN adds R1 and R2: --regularization.discriminator.r1 and .r2. DEVIATION from Huang et al. 2024: the two images of a
    pair may have different classes, because labels of generated images are drawn independently here."""

    name = "relativistic"
    needs_real = True

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput, y_N: Tensor) -> dict[str, Tensor]:
        return {"loss_pair": F.softplus(fake.logits - real.logits).mean()}

    def generator_loss(self, real: DiscriminatorOutput | None, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        return {"loss": F.softplus(real.logits - fake.logits).mean()}


@dataclass(frozen=True)
class SemiSupervised(Objective):
    """A classifier of K classes and one more, "generated", whose logit is fixed at 0. D's real/fake logit is log Z, where Z
    is the sum of the exponentials of the K class logits, so that Z / (Z + 1) is the probability of "real".

    D: -E[log p(y | x, real)] over labeled images, plus `unsupervised_weight` times -E[log s(log Z(x))] - E[log(1 - s(log
    Z(G)))], s the logistic function (Salimans et al. 2016, section 5; the weight is 1 in the paper and 0.5 in the published
    code, except for ImageNet). G: E[log(1 - s(log Z(G)))], the saturating loss of the published scripts with minibatch
    discrimination, or, with `generator_target`, the cross-entropy to that target."""

    name = "semi-supervised"
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
    """G minimizes the distance between the mean features f of real and of generated images; D has the objective `inner`.

    The distance is || E f(x) - E f(G(z)) ||^2 (squared-l2; Salimans et al. 2016, section 3.1), or the mean over features of
    the absolute difference (l1; published code for CIFAR-10 and SVHN) or of its square (mean-square; for MNIST). DEVIATION
    from that code: the real images are those of the last discriminator step, not a separate batch. With gradient
    accumulation the means are those of a micro-batch, which adds the variance of such means to the loss."""

    inner: Objective
    norm: Literal["squared-l2", "mean-square", "l1"] = "squared-l2"
    feature_layer: str | None = None
    needs_real = True
    matches_batch_means = True

    @property
    def name(self) -> str:
        return self.inner.name

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
