"""How the batch of an optimizer step is cut up."""

from typing import NamedTuple

from biggan.runtime.environment import SINGLE_PROCESS, World


class BatchPlan(NamedTuple):
    """How one global batch is cut up: batch = micro_batch x accumulation, micro_batch = share of a rank x ranks."""

    batch: int
    micro_batch: int
    accumulation: int
    discriminator_steps: int
    generator_steps: int
    generator_batch_multiplier: int
    seed: int
    world: World = SINGLE_PROCESS

    @property
    def real_images(self) -> int:
        """Real images used per generator step, by all ranks together."""
        return self.batch * self.discriminator_steps
