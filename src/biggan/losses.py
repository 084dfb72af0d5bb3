"""What the players minimise. Pure functions of verdicts: no module, no state, no rank.

Each returns named terms whose sum is the loss, each a mean over the batch, so that logs can show them apart.
Shapes: N batch.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from biggan.nn.heads import Verdict


class Objective(Protocol):
    """The losses of both players."""

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        """Named scalar terms; `y_N` are the classes of the real images."""
        ...

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        """Named scalar terms; `real` is given only to objectives that need it."""
        ...


@dataclass(frozen=True)
class Hinge:
    """E[relu(1 - D(x, y))] + E[relu(1 + D(G(z, y), y))] for D, -E[D(G(z, y), y)] for G. BigGAN section 2; spec section 1."""

    def for_discriminator(self, real: Verdict, fake: Verdict, y_N: Tensor) -> dict[str, Tensor]:
        return {"real": F.relu(1 - real.score_N).mean(), "fake": F.relu(1 + fake.score_N).mean()}

    def for_generator(self, real: Verdict | None, fake: Verdict) -> dict[str, Tensor]:
        return {"fake": -fake.score_N.mean()}


ObjectiveName = Literal["hinge"]
OBJECTIVES: dict[ObjectiveName, Objective] = {"hinge": Hinge()}
