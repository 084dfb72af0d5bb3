"""One generator step of GAN training: the algorithm of BigGAN, and nothing else.

Source: BigGAN section 3 and appendix C (docs/papers/biggan.md, "One generator step"): a few discriminator steps, each on
fresh real images, latents and labels, then one generator step, then the moving average. In a discriminator step generated
and real images go through D in one concatenated pass, and G runs without gradients.

DEVIATION from BigGAN appendix C: with accumulation, G's batch statistics are those of a micro-batch, because those of the
whole batch would need every activation at once.

Each optimizer step has two parts: what the host decides and draws (`discriminator_step`, `generator_step`), and the
operations on the device (`discriminator_update`, `generator_update`), which depend on nothing else and which training/
step_runner may capture. Nothing here waits for the device: the numbers returned are tensors. Shapes: A micro-batches, N
batch, Z latent, R resolution."""

from collections.abc import Iterator
from functools import partial, reduce

import torch
from torch import Tensor

from biggan.objectives.regularizer import PenaltyInputs
from biggan.runtime.distributed import no_sync
from biggan.runtime.rng import seed_torch
from biggan.training.forward import (
    discriminate,
    discriminate_fake_and_real,
    discriminate_real,
    logit_statistics,
    with_mean_features,
)
from biggan.training.step_inputs import DISCRIMINATOR_DRAW, GENERATOR_DRAW, Batch, StepInputs, unpack_draw
from biggan.training.step_runner import Scalars
from biggan.training.train_state import TrainState


def train_step(
    state: TrainState, step: int, real_batches: Iterator[Batch], labeled_batches: Iterator[Batch] | None = None
) -> dict[str, Tensor]:
    """Generator step number `step` (from 1); mutates the networks, optimizers and averages. All ranks must call it together.

    `real_batches` yields this rank's micro-batches of real images: uint8 (N, 3, R, R) and their classes (N,).
    `labeled_batches` yields those of the labeled images; None if every image is labeled or the loss is unsupervised.
    Returns scalars, float32 on the device: loss terms of both networks, D's mean logits and accuracies, averaged over the
    optimizer steps.
    """
    plan, means = state.plan, ScalarMeans()
    for index in range(plan.discriminator_steps):
        reals = [next(real_batches) for _ in range(plan.accumulation)]
        means.add(discriminator_step(state, step, index, reals, labeled_batches), plan.discriminator_steps)
        if state.discriminator_ema is not None:
            state.discriminator_ema.update(state.discriminator.network, (step - 1) * plan.discriminator_steps + index + 1)
    for index in range(plan.generator_steps):
        means.add(generator_step(state, step, index, reals), plan.generator_steps)
    state.ema.update(state.generator.network, step)
    return means.by_name()


def discriminator_step(
    state: TrainState, step: int, index: int, reals: list[Batch], labeled_batches: Iterator[Batch] | None = None
) -> Scalars:
    """Optimizer step number `index` of the discriminator within generator step `step`, on one global batch: `reals` are its
    micro-batches. Where classes are learned they are those of `labeled_batches`, or else, None, of all real images."""
    labeled = [] if labeled_batches is None else [next(labeled_batches) for _ in reals]
    inputs = StepInputs(state.latents.get(step, DISCRIMINATOR_DRAW, index), tuple(reals), tuple(labeled))
    kind = state.discriminator.begin(step)
    seed_torch(state.plan.seed, DISCRIMINATOR_DRAW, step, index, state.plan.world.rank)
    return state.runner.run(("discriminator", *kind), partial(discriminator_update, state), inputs)


def generator_step(state: TrainState, step: int, index: int = 0, reals: list[Batch] | None = None) -> Scalars:
    """Optimizer step number `index` of the generator within generator step `step`, on one global batch. `reals`: the real
    images of the last discriminator step, for objectives that compare with them."""
    real = tuple(reals or ()) if state.objective.needs_real else ()
    inputs = StepInputs(state.latents.get(step, GENERATOR_DRAW, index), real)
    kind = state.generator.begin(step)
    seed_torch(state.plan.seed, GENERATOR_DRAW, step, index, state.plan.world.rank)
    return state.runner.run(("generator", *kind), partial(generator_update, state), inputs)


def discriminator_update(state: TrainState, inputs: StepInputs) -> Scalars:
    """The operations of one optimizer step of the discriminator, for inputs on the device."""
    plan, objective, discriminator, sums = state.plan, state.objective, state.discriminator, ScalarSums()
    draw = unpack_draw(inputs.draw, state.latents.shape(DISCRIMINATOR_DRAW))
    prepare_weights(state, training="discriminator")
    for micro_index, (z, fake_labels, batch) in enumerate(zip(draw.z, draw.y, inputs.real, strict=True)):
        real_batches = [batch] if not inputs.labeled else [batch, inputs.labeled[micro_index]]
        attach_weights(state)
        with no_sync(discriminator.ddp, last=micro_index == plan.accumulation - 1):
            fake, real, *labeled = discriminate_fake_and_real(state, z, fake_labels, real_batches)
            terms = objective.discriminator_loss(real.output, fake.output, real.labels)
            if objective.supervised:
                known = labeled[0] if labeled else real
                terms |= objective.supervised_loss(known.output, known.labels)
                correct_N = known.output.class_logits.argmax(1) == known.labels
                sums.add({"D/acc_class": correct_N.float().mean()})
            if micro_index == 0:  # penalties once per optimizer step, at full weight
                penalties = PenaltyInputs(real=real, fake=fake, autocast=state.precision.autocast)
                terms |= discriminator.penalties(penalties, plan.accumulation)
            total_loss(terms, plan.accumulation).backward()
        sums.add({f"D/{name}": term for name, term in terms.items()})
        sums.add(logit_statistics(real.output, fake.output, objective.decision_boundary))
    detach_weights(state)
    edits = discriminator.optimizer_step(draw.step)
    return sums.mean(plan.accumulation, {f"D/{name}": value for name, value in edits.items()})


def generator_update(state: TrainState, inputs: StepInputs) -> Scalars:
    """The operations of one optimizer step of the generator, for inputs on the device."""
    plan, objective, generator, sums = state.plan, state.objective, state.generator, ScalarSums()
    draw = unpack_draw(inputs.draw, state.latents.shape(GENERATOR_DRAW))
    prepare_weights(state, training="generator")
    for micro_index, (z, labels) in enumerate(zip(draw.z, draw.y, strict=True)):
        attach_weights(state)
        with no_sync(generator.ddp, last=micro_index == plan.accumulation - 1):
            with state.precision.autocast():
                fake = discriminate(state, generator.ddp(z, labels), labels)
                real = None
                if objective.needs_real:
                    real = discriminate_real(state, inputs.real[micro_index % len(inputs.real)], len(z))
            if objective.matches_batch_means:
                fake, real = with_mean_features(fake), with_mean_features(real)
            terms = objective.generator_loss(real, fake)
            if micro_index == 0:
                terms |= generator.penalties(PenaltyInputs(), plan.accumulation)
            total_loss(terms, plan.accumulation).backward()
        sums.add({f"G/{name}": term for name, term in terms.items()})
    detach_weights(state)
    edits = generator.optimizer_step(draw.step)
    return sums.mean(plan.accumulation, {f"G/{name}": value for name, value in edits.items()})


def total_loss(terms: dict[str, Tensor], accumulation: int) -> Tensor:
    """The sum of the terms, as the share of one of `accumulation` micro-batches."""
    total = reduce(torch.add, terms.values())
    return total / accumulation if accumulation > 1 else total


def prepare_weights(state: TrainState, *, training: str) -> None:
    """Prepare the weights of both networks, of which the one named is to be trained and the other to be left alone."""
    for trainer in state.trainers:
        trainer.network.requires_grad_(trainer.name == training)
    getattr(state, training).network.requires_grad_(True)  # a table that both networks share would be frozen otherwise
    for trainer in state.trainers:
        trainer.weights.prepare()


def attach_weights(state: TrainState) -> None:
    """Give the layers of both networks their prepared weights, for the passes of one micro-batch."""
    for trainer in state.trainers:
        trainer.weights.attach()


def detach_weights(state: TrainState) -> None:
    """Take the prepared weights away, before the weights change."""
    for trainer in state.trainers:
        trainer.weights.detach()


class ScalarSums:
    """Sums of named scalars over the micro-batches of one optimizer step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the values of one micro-batch."""
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def mean(self, count: int, edits: dict[str, Tensor]) -> Scalars:
        """The sums divided by the number of micro-batches, and the values of the step as a whole."""
        names = (*self.sums, *edits)
        values = torch.stack([value.float() for value in (*self.sums.values(), *edits.values())])
        if count > 1:
            values[: len(self.sums)] /= count
        return Scalars(names, values)


class ScalarMeans:
    """Means of scalars over optimizer steps. The tensors added may be overwritten afterwards."""

    def __init__(self) -> None:
        self.means: dict[tuple[str, ...], Tensor] = {}

    def add(self, scalars: Scalars, count: int) -> None:
        """Add the scalars of one of `count` optimizer steps."""
        names, values = scalars
        if names in self.means:
            self.means[names].add_(values, alpha=1 / count)
        else:
            self.means[names] = values / count

    def by_name(self) -> dict[str, Tensor]:
        """The means, by name."""
        return {
            name: value for names, values in self.means.items() for name, value in zip(names, values.unbind(), strict=True)
        }
