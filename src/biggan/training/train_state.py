"""TODO: split from training.step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from biggan.objectives.diffaugment import Augmentation
from biggan.objectives.losses import Objective
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.distributed import (
    SINGLE_PROCESS,
    World,
)
from biggan.runtime.precision import Precision, to_device
from biggan.runtime.rng import addressed_rng
from biggan.sampling.latents import Prior, draw_labels
from biggan.training.ema import EMA
from biggan.training.guard import GradientGuard


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
class Schedule:
    """A learning rate: constant, or from step `decay_start` falling evenly to 0 at step `end`."""

    base: float
    decay_start: int | None = None
    end: int = 0

    def rate(self, step: int) -> float:
        """The rate of generator step number `step` (from 1)."""
        if self.decay_start is None or step <= self.decay_start:
            return self.base
        return self.base * max(0.0, (self.end - step) / (self.end - self.decay_start))


@dataclass
class NetworkTrainer:
    """A network, its optimiser and its regularisers. `reduced` is the network as its own turn runs it: with gradients
    averaged over ranks where there are several."""

    name: str
    network: nn.Module
    reduced: nn.Module
    optimizer: torch.optim.Optimizer
    regularizers: tuple[Regularizer, ...]
    schedule: Schedule
    guard: GradientGuard

    def acting(self, step: int) -> list[Regularizer]:
        """The regularisers whose turn this step is."""
        return [regularizer for regularizer in self.regularizers if step % regularizer.every == 0]

    def penalties(self, context: PenaltyInputs) -> dict[str, Tensor]:
        """Named penalties due at this step; of two of one name the sum."""
        found: dict[str, Tensor] = {}
        for regularizer in self.acting(context.step):
            penalty = regularizer.penalty(self.network, context)
            if penalty is not None:
                name = type(regularizer).__name__.lower()
                found[name] = found[name] + penalty if name in found else penalty
        return found

    def step(self, step: int) -> None:
        """The optimiser's step at the rate of generator step `step`, with the regularisers' edits before and after it;
        gradients are dropped. At rate 0 the player is frozen."""
        rate = self.schedule.rate(step)
        named = [(name, p.grad) for name, p in self.network.named_parameters() if p.grad is not None]
        self.optimizer.found_inf = self.guard.check(self.name, *zip(*named, strict=True), step)  # 1: the weights stay
        if rate > 0:
            for regularizer in self.acting(step):
                regularizer.before_step(self.network)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            # Fused optimisers change weights without a word; layers that keep what they made of a weight have to be told.
            increment_version(list(self.network.parameters()))
            for regularizer in self.acting(step):
                regularizer.after_step(self.network)
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class TrainState:
    """Everything that one step reads and changes. `ema` averages the generator; `classifier` the discriminator, where that
    is to tell classes."""

    generator: NetworkTrainer
    discriminator: NetworkTrainer
    ema: EMA
    classifier: EMA | None
    guard: GradientGuard
    objective: Objective
    augment: Augmentation
    precision: Precision
    plan: BatchPlan
    prior: Prior
    latent_dim: int
    num_classes: int

    def draw(self, step: int, purpose: str, turn: int, batches: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh z (N, Z) and labels (N,) for one turn of one player: this rank's share of each micro-batch (`batches` times
        as large as usual), on the device. Every rank draws them all, so that they do not depend on the number of ranks."""
        stream = addressed_rng(self.plan.seed, purpose, step, turn)
        z_NZ = self.prior.draw((batches * self.plan.batch, self.latent_dim), stream, step=step)
        y_N = draw_labels(batches * self.plan.batch, self.num_classes, stream)
        device, size, share = self.precision.device, batches * self.plan.micro_batch, self.plan.world.share
        for z, y in zip(z_NZ.split(size), y_N.split(size), strict=True):
            yield to_device(share(z), device), to_device(share(y), device)


NETWORKS = ("generator", "discriminator")


def averaged_networks(state: TrainState) -> dict[str, nn.Module]:
    """The averaged networks, by their name in a checkpoint."""
    averages = {"ema": state.ema, "classifier": state.classifier}
    return {name: ema.average for name, ema in averages.items() if ema is not None}
