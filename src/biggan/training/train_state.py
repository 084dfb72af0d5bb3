"""Everything that one training step reads and changes: the two networks with their optimizers, averages, and how a batch is
cut up.

Shapes: N batch, Z latent, R resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from biggan.objectives.diffaugment import Augmentation
from biggan.objectives.losses import Objective
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.environment import SINGLE_PROCESS, World
from biggan.runtime.precision import Precision, to_device
from biggan.runtime.rng import addressed_rng
from biggan.sampling.latents import Prior, draw_labels
from biggan.training.ema import EMA
from biggan.training.guard import GradientGuard

NETWORKS = ("generator", "discriminator")


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


@dataclass(frozen=True)
class LearningRate:
    """A learning rate: constant, or from step `decay_start` falling linearly to 0 at step `end`."""

    base: float
    decay_start: int | None = None
    end: int = 0

    def at(self, step: int) -> float:
        """The rate of generator step number `step` (from 1)."""
        if self.decay_start is None or step <= self.decay_start:
            return self.base
        return self.base * max(0.0, (self.end - step) / (self.end - self.decay_start))


@dataclass
class NetworkTrainer:
    """A network, its optimizer and its regularizers. `ddp` is the network as its own step runs it: with gradients averaged
    over ranks where there are several."""

    name: str
    network: nn.Module
    ddp: nn.Module
    optimizer: torch.optim.Adam
    regularizers: tuple[Regularizer, ...]
    learning_rate: LearningRate
    guard: GradientGuard

    def active_regularizers(self, step: int) -> list[Regularizer]:
        """The regularizers whose interval divides this step."""
        return [regularizer for regularizer in self.regularizers if step % regularizer.interval == 0]

    def penalties(self, inputs: PenaltyInputs) -> dict[str, Tensor]:
        """Penalties due at this step, by the name of their regularizer; of two of one name the sum."""
        penalties: dict[str, Tensor] = {}
        for regularizer in self.active_regularizers(inputs.step):
            penalty = regularizer.penalty(self.network, inputs)
            if penalty is not None:
                name = regularizer.name
                penalties[name] = penalties[name] + penalty if name in penalties else penalty
        return penalties

    def optimizer_step(self, step: int) -> None:
        """The optimizer's step at the learning rate of generator step `step`, with the regularizers' edits before and after
        it; gradients are dropped. At rate 0 the network is frozen."""
        rate = self.learning_rate.at(step)
        named = [(name, p.grad) for name, p in self.network.named_parameters() if p.grad is not None]
        names, gradients = zip(*named, strict=True)
        found_inf = self.guard.check(self.name, names, gradients, step)  # 1: the weights stay
        self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # read by fused optimizers, as GradScaler sets it
        if rate > 0:
            for regularizer in self.active_regularizers(step):
                regularizer.before_step(self.network)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            # Fused optimizers do not bump the version counters of weights, by which layers know that a cached product is
            # stale.
            increment_version(list(self.network.parameters()))
            for regularizer in self.active_regularizers(step):
                regularizer.after_step(self.network)
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class TrainState:
    """The state of a run between two steps. `ema` averages the generator; `discriminator_ema` the discriminator, where that
    is to be a classifier."""

    generator: NetworkTrainer
    discriminator: NetworkTrainer
    ema: EMA
    discriminator_ema: EMA | None
    guard: GradientGuard
    objective: Objective
    augment: Augmentation
    precision: Precision
    plan: BatchPlan
    prior: Prior
    latent_dim: int
    num_classes: int

    @property
    def trainers(self) -> tuple[NetworkTrainer, NetworkTrainer]:
        """Generator, discriminator."""
        return self.generator, self.discriminator

    def latents_and_labels(
        self, step: int, purpose: str, index: int, multiplier: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh z (N, Z) and labels (N,) for one optimizer step, number `index` of its kind in this generator step: this
        rank's share of each micro-batch (`multiplier` times as large as usual), on the device. Every rank draws them all, so
        that they do not depend on the number of ranks."""
        rng, plan = addressed_rng(self.plan.seed, purpose, step, index), self.plan
        z_NZ = self.prior.draw((multiplier * plan.batch, self.latent_dim), rng, step=step)
        y_N = draw_labels(multiplier * plan.batch, self.num_classes, rng)
        device, size = self.precision.device, multiplier * plan.micro_batch
        for z, y in zip(z_NZ.split(size), y_N.split(size), strict=True):
            yield to_device(plan.world.local_slice(z), device), to_device(plan.world.local_slice(y), device)

    def averages(self) -> dict[str, nn.Module]:
        """The averaged networks, by their name in a checkpoint."""
        averages = {"ema": self.ema, "classifier": self.discriminator_ema}
        return {name: ema.average for name, ema in averages.items() if ema is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, named "part/name" as in a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for trainer in self.trainers:
            name = trainer.name
            tensors |= {f"{name}/{key}": value for key, value in trainer.network.state_dict().items()}
            names = [key for key, _ in trainer.network.named_parameters()]
            for index, slots in trainer.optimizer.state_dict()["state"].items():
                tensors |= {f"{name}_optimizer/{names[index]}/{key}": value for key, value in slots.items()}
            for index, regularizer in enumerate(trainer.regularizers):
                kept = regularizer.state_dict()
                tensors |= {f"{name}_regularizers/{index}/{key}": value for key, value in kept.items()}
        for name, average in self.averages().items():
            tensors |= {f"{name}/{key}": value for key, value in average.state_dict().items()}
        return tensors
