"""What the players minimise. Pure functions of verdicts: no module, no state, no rank.

Each returns named terms whose sum is the loss, each a mean over the batch, so that logs can show them apart. Sources: BigGAN
section 2 and appendix H (hinge, its margin, Wasserstein); Goodfellow et al. 2014 (non-saturating); Mao et al. 2017 (least
squares); Huang et al. 2024, R3GAN (relativistic pairing, meant to go with R1 and R2). Shapes: N batch.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from biggan.errors import ConfigError
from biggan.nn.heads import Verdict


class Objective(Protocol):
    """The losses of both players."""

    pairs: bool
    """Whether the generator's loss needs real images too."""
    boundary: float | None
    """The score above which D calls an image real; None: only differences of scores mean anything."""

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        """Named scalar terms; `y_N` are the classes of the real images."""
        ...

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        """Named scalar terms; `real` is given, in equal number, only to objectives that need it."""
        ...


@dataclass(frozen=True)
class Hinge:
    """E[relu(m - D(x, y))] + E[relu(m + D(G(z, y), y))] for D, -E[D(G(z, y), y)] for G; the margin m is 1 in BigGAN.

    Half of it hurts, up to 3 is no cure for collapse, more is unstable (BigGAN section 4.2; spec section 10)."""

    margin: float = 1.0
    pairs = False
    boundary = 0.0

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"real": F.relu(self.margin - real.score_N).mean(), "fake": F.relu(self.margin + fake.score_N).mean()}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"fake": -fake.score_N.mean()}


@dataclass(frozen=True)
class NonSaturating:
    """-E[log s(D(x))] - E[log(1 - s(D(G)))] for D, -E[log s(D(G))] for G, s the logistic function, from logits."""

    pairs = False
    boundary = 0.0

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"real": F.softplus(-real.score_N).mean(), "fake": F.softplus(fake.score_N).mean()}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"fake": F.softplus(-fake.score_N).mean()}


@dataclass(frozen=True)
class LeastSquares:
    """E[(D(x) - 1)^2] / 2 + E[D(G)^2] / 2 for D, E[(D(G) - 1)^2] / 2 for G: equation 9 of Mao et al."""

    pairs = False
    boundary = 0.5

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"real": (real.score_N - 1).square().mean() / 2, "fake": fake.score_N.square().mean() / 2}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"fake": (fake.score_N - 1).square().mean() / 2}


@dataclass(frozen=True)
class Wasserstein:
    """E[D(G)] - E[D(x)] for D, -E[D(G)] for G; spectral normalisation, or a penalty, keeps D Lipschitz."""

    pairs = False
    boundary = None

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"real": -real.score_N.mean(), "fake": fake.score_N.mean()}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"fake": -fake.score_N.mean()}


@dataclass(frozen=True)
class RelativisticPairing:
    """E[f(D(G) - D(x))] for D, E[f(D(x) - D(G))] for G, f the softplus, over pairs of one generated and one real image.

    R3GAN adds R1 and R2: --regularization.discriminator.r1 and .r2. DEVIATION from Huang et al.: the images of a pair may
    be of different classes, because fakes have labels of their own here."""

    pairs = True
    boundary = None

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"pair": F.softplus(fake.score_N - real.score_N).mean()}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"pair": F.softplus(real.score_N - fake.score_N).mean()}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which losses."""

    loss: Literal["hinge", "non-saturating", "least-squares", "wasserstein", "relativistic"] = "hinge"
    margin: float = 1.0
    """Of the hinge."""

    def check(self) -> None:
        """Raises ConfigError on a margin that makes no sense."""
        if not self.margin > 0:
            raise ConfigError(f"objective.margin={self.margin} must be above 0")
        if self.margin != 1 and self.loss != "hinge":
            raise ConfigError(f"objective.margin={self.margin} is of the hinge loss, not of {self.loss}: leave it out")

    def objective(self) -> Objective:
        """The losses themselves."""
        others = {
            "non-saturating": NonSaturating,
            "least-squares": LeastSquares,
            "wasserstein": Wasserstein,
            "relativistic": RelativisticPairing,
        }
        return Hinge(self.margin) if self.loss == "hinge" else others[self.loss]()
