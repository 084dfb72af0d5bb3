"""Everything that one training step reads and changes: the two networks with their optimizers, averages, latents."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from biggan.nn.prepared_weights import PreparedWeights
from biggan.objectives.diffaugment import Augmentation
from biggan.objectives.losses import Objective
from biggan.objectives.regularizer import PenaltyInputs, Regularizer
from biggan.runtime.precision import Precision
from biggan.sampling.latents import Prior
from biggan.training.batch_plan import BatchPlan
from biggan.training.ema import EMA
from biggan.training.guard import GradientGuard
from biggan.training.step_inputs import LatentSource
from biggan.training.step_runner import StepRunner

NETWORKS = ("generator", "discriminator")


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
    over ranks where there are several. `weights` prepares its weights for the passes of an optimizer step."""

    name: str
    network: nn.Module
    ddp: nn.Module
    optimizer: torch.optim.Adam
    regularizers: tuple[Regularizer, ...]
    learning_rate: LearningRate
    guard: GradientGuard
    weights: PreparedWeights
    active: tuple[Regularizer, ...] = ()
    frozen: bool = False

    def begin(self, step: int) -> tuple[object, ...]:
        """Before an optimizer step within generator step `step`: set its learning rate, and choose the regularizers whose
        interval divides the step. At rate 0 the network is frozen. Returns what the operations of the step depend on."""
        rate = self.learning_rate.at(step)
        self.active = tuple(regularizer for regularizer in self.regularizers if step % regularizer.interval == 0)
        self.frozen = rate <= 0
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # on a GPU: the operations of a step stay the same at other rates
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return self.frozen, *(self.regularizers.index(regularizer) for regularizer in self.active)

    def penalties(self, inputs: PenaltyInputs, weight: int) -> dict[str, Tensor]:
        """Penalties due at this step times a weight, by the name of their regularizer; of two of one name the sum."""
        penalties: dict[str, Tensor] = {}
        for regularizer in self.active:
            add_value(penalties, regularizer.name, regularizer.penalty(self.network, inputs))
        return {name: weight * value for name, value in penalties.items()} if weight > 1 else penalties

    def optimizer_step(self, step: Tensor) -> dict[str, Tensor]:
        """The optimizer's step, with the regularizers' edits before and after it; gradients are dropped. `step`: the number
        of the generator step, a float32 scalar on the device. Returns what the edits have to log, by name."""
        named = [(name, p.grad) for name, p in self.network.named_parameters() if p.grad is not None]
        names, gradients = zip(*named, strict=True)
        found_inf = self.guard.check(self.name, names, gradients, step)  # 1: the weights stay
        self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # read by fused optimizers, as GradScaler sets it
        values: dict[str, Tensor] = {}
        if not self.frozen:
            for regularizer in self.active:
                add_value(values, regularizer.name, regularizer.before_step(self.network))
            self.optimizer.step()
            self.note_update()
            for regularizer in self.active:
                regularizer.after_step(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        return values

    def note_update(self) -> None:
        """Bump the version counters of the weights, by which layers know that a cached product is stale: neither fused
        optimizers nor captured steps do."""
        increment_version(list(self.network.parameters()))


def add_value(values: dict[str, Tensor], name: str, value: Tensor | None) -> None:
    """Add a scalar to the one of this name, if there is one. Mutates `values`."""
    if value is not None:
        values[name] = values[name] + value if name in values else value


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
    latents: LatentSource
    runner: StepRunner

    @property
    def trainers(self) -> tuple[NetworkTrainer, NetworkTrainer]:
        """Generator, discriminator."""
        return self.generator, self.discriminator

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
