"""One generator step of GAN training: the algorithm of BigGAN, and nothing else.

Source: BigGAN section 3 and appendix C (docs/papers/biggan.md, "One generator step"): a few discriminator steps, each on
fresh real images, latents and labels, then one generator step, then the moving average. In a discriminator step generated
and real images go through D in one concatenated pass, and G runs without gradients.

DEVIATION from BigGAN appendix C: with accumulation, G's batch statistics are those of a micro-batch, because those of the
whole batch would need every activation at once.

Nothing here waits for the device: the numbers returned are tensors. The names of the random streams ("discriminator turn",
"generator turn") are part of every seed: changing one changes every run. Shapes: N batch, R
resolution."""

from collections.abc import Iterator

from torch import Tensor

from biggan.objectives.regularizer import PenaltyInputs
from biggan.runtime.distributed import no_sync
from biggan.runtime.metric_logger import MeanAccumulator
from biggan.runtime.rng import seed_torch
from biggan.training.forward import (
    Batch,
    discriminate,
    discriminate_fake_and_real,
    discriminate_real,
    logit_statistics,
    with_mean_features,
)
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
    plan, means = state.plan, MeanAccumulator()
    for index in range(plan.discriminator_steps):
        reals = [next(real_batches) for _ in range(plan.accumulation)]
        means.add(discriminator_step(state, step, index, reals, labeled_batches), plan.discriminator_steps)
        if state.discriminator_ema is not None:
            state.discriminator_ema.update(state.discriminator.network, (step - 1) * plan.discriminator_steps + index + 1)
    for index in range(plan.generator_steps):
        means.add(generator_step(state, step, index, reals), plan.generator_steps)
    state.ema.update(state.generator.network, step)
    return means.totals


def discriminator_step(
    state: TrainState, step: int, index: int, reals: list[Batch], labeled_batches: Iterator[Batch] | None = None
) -> dict[str, Tensor]:
    """Optimizer step number `index` of the discriminator within generator step `step`, on one global batch: `reals` are its
    micro-batches. Where classes are learned they are those of `labeled_batches`, or else, None, of all real images."""
    plan, objective, discriminator, means = state.plan, state.objective, state.discriminator, MeanAccumulator()
    discriminator.network.requires_grad_(True)
    seed_torch(plan.seed, "discriminator turn", step, index, plan.world.rank)
    latents = state.latents_and_labels(step, "discriminator turn", index)
    for micro_index, ((z, fake_labels), batch) in enumerate(zip(latents, reals, strict=True)):
        real_batches = [batch] if labeled_batches is None else [batch, next(labeled_batches)]
        with no_sync(discriminator.ddp, last=micro_index == plan.accumulation - 1):
            fake, real, *labeled = discriminate_fake_and_real(state, z, fake_labels, real_batches)
            terms = objective.discriminator_loss(real.output, fake.output, real.labels)
            if objective.supervised:
                known = labeled[0] if labeled else real
                terms |= objective.supervised_loss(known.output, known.labels)
                correct_N = known.output.class_logits.argmax(1) == known.labels
                means.add({"D/acc_class": correct_N.float().mean()}, plan.accumulation)
            if micro_index == 0:  # penalties once per optimizer step, at full weight
                inputs = PenaltyInputs(step=step, real=real, fake=fake, autocast=state.precision.autocast)
                penalties = discriminator.penalties(inputs)
                terms |= {name: plan.accumulation * value for name, value in penalties.items()}
            (sum(terms.values()) / plan.accumulation).backward()
        means.add({f"D/{name}": term for name, term in terms.items()}, plan.accumulation)
        means.add(logit_statistics(real.output, fake.output, objective.decision_boundary), plan.accumulation)
    discriminator.optimizer_step(step)
    return means.totals


def generator_step(state: TrainState, step: int, index: int = 0, reals: list[Batch] | None = None) -> dict[str, Tensor]:
    """Optimizer step number `index` of the generator within generator step `step`, on one global batch. `reals`: the real
    images of the last discriminator step, for objectives that compare with them."""
    plan, objective, generator, means = state.plan, state.objective, state.generator, MeanAccumulator()
    state.discriminator.network.requires_grad_(False)
    generator.network.requires_grad_(True)  # a table that both networks share would be frozen otherwise
    seed_torch(plan.seed, "generator turn", step, index, plan.world.rank)
    latents = state.latents_and_labels(step, "generator turn", index, plan.generator_batch_multiplier)
    for micro_index, (z, labels) in enumerate(latents):
        with no_sync(generator.ddp, last=micro_index == plan.accumulation - 1):
            with state.precision.autocast():
                fake = discriminate(state, generator.ddp(z, labels), labels)
                real = discriminate_real(state, reals[micro_index % len(reals)], len(z)) if objective.needs_real else None
            if objective.matches_batch_means:
                fake, real = with_mean_features(fake), with_mean_features(real)
            terms = objective.generator_loss(real, fake)
            if micro_index == 0:
                penalties = generator.penalties(PenaltyInputs(step=step))
                terms |= {name: plan.accumulation * value for name, value in penalties.items()}
            (sum(terms.values()) / plan.accumulation).backward()
        means.add({f"G/{name}": term for name, term in terms.items()}, plan.accumulation)
    generator.optimizer_step(step)
    return means.totals
