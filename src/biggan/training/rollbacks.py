"""What a run that went back to an earlier checkpoint does otherwise: lower learning rates, and after a collapse R1."""

from typing import NamedTuple

from biggan.configs.run import RunConfig
from biggan.objectives.gradient_penalties import R1

DIVERGENCE_LR_FACTOR = 0.5  # of the learning rates, after each rollback from values that were not finite


class Rollbacks(NamedTuple):
    """How often a run went back to an earlier checkpoint, and why."""

    diverged: int = 0
    collapsed: int = 0

    def lr_factor(self, config: RunConfig) -> float:
        """Of both learning rates."""
        return DIVERGENCE_LR_FACTOR**self.diverged * config.monitor.rollback_lr_factor**self.collapsed

    def penalties(self, config: RunConfig) -> tuple[R1, ...]:
        """The penalty that the discriminator gets: R1, whose gamma doubles with each rollback from a collapse."""
        if not self.collapsed or config.monitor.rollback_r1 is None:
            return ()
        gamma = config.monitor.rollback_r1 * 2 ** (self.collapsed - 1)
        return (R1(gamma, config.monitor.rollback_r1_interval),)

    def describe(self, config: RunConfig) -> str:
        """All that in words."""
        added = [f", R1 with gamma {r1.gamma:g} every {r1.interval} steps" for r1 in self.penalties(config)]
        return f"learning rates x {self.lr_factor(config):g}" + "".join(added)


NO_ROLLBACKS = Rollbacks()
"""Of a run that has only gone forward."""
