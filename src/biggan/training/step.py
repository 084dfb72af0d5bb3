"""One generator step of BigGAN training: the alternation of the two players, and accumulation of gradients.

Source: BigGAN section 3 and appendix C; the order of events is docs/papers/biggan.md, "One generator step": a few
discriminator steps, each on fresh real images, latents and labels, then one generator step, then the moving average. In a
discriminator step generated and real images go through D in one concatenated pass, and G runs without gradients.

DEVIATION from BigGAN appendix C: with accumulation, G's batch statistics are those of a micro-batch, because those of the
whole batch would need every activation at once.

Nothing here waits for the device: the numbers returned are tensors. Shapes: N batch, Z latent, R resolution.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from biggan.nn.heads import DiscriminatorOutput
from biggan.objectives.regularizer import PenaltyInputs
from biggan.runtime.distributed import mean_over_ranks, no_sync
from biggan.runtime.precision import to_device
from biggan.runtime.rng import seed_torch
from biggan.training.train_state import TrainState

Batch = tuple[Tensor, Tensor]  # images and labels


def train_step(
    state: TrainState, step: int, reals: Iterator[Batch], labeled: Iterator[Batch] | None = None
) -> dict[str, Tensor]:
    """Generator step number `step` (from 1); mutates the players and the average. All ranks must call it together.

    `reals` gives this rank's share of one micro-batch of real images after the other: uint8 (N, 3, R, R) and their classes;
    `labeled` the same of images whose classes D may learn, None where that is all of them, or none.
    Returns scalars, float32 on the device: loss terms of both players, D's mean scores and the share of images that it calls
    what they are, averaged over turns.
    """
    plan, scalars = state.plan, MeanAccumulator()
    for turn in range(plan.discriminator_steps):
        real_batches: list[Batch] = []
        scalars.add(
            discriminator_step(state, step, turn, record_batches(reals, real_batches), labeled), plan.discriminator_steps
        )
        if state.classifier is not None:
            state.classifier.update(state.discriminator.network, (step - 1) * plan.discriminator_steps + turn + 1)
    for turn in range(plan.generator_steps):
        scalars.add(generator_step(state, step, turn, real_batches), plan.generator_steps)
    state.ema.update(state.generator.network, step)
    return scalars.totals


def discriminator_step(
    state: TrainState, step: int, turn: int, reals: Iterator[Batch], labeled: Iterator[Batch] | None = None
) -> dict[str, Tensor]:
    """One optimiser step of the discriminator on one global batch. Where classes are learned they are those of the batches
    `labeled`, or else, None, of all real images."""
    plan, player, scalars = state.plan, state.discriminator, MeanAccumulator()
    player.network.requires_grad_(True)
    seed_torch(plan.seed, "discriminator turn", step, turn, plan.world.rank)
    for index, (z, fake_labels) in enumerate(state.draw(step, "discriminator turn", turn)):
        batches = [next(reals)] if labeled is None else [next(reals), next(labeled)]
        images, labels = zip(*(to_device_batch(state, batch) for batch in batches), strict=True)
        with no_sync(player.reduced, last=index == plan.accumulation - 1):
            with state.precision.autocast():
                with torch.no_grad():
                    fake = state.generator.network(z, fake_labels)  # (N, 3, R, R)
                every = state.augment(torch.cat([fake, *images]))  # (2N or 3N, 3, R, R)
                every = every.contiguous(memory_format=state.precision.memory_format)  # the same
                parts = 1 + len(images)
                output = player.reduced(every, torch.cat([fake_labels, *labels]), parts)
            fake_output, real_output, *_ = findings_agreement = split_output(output, parts)
            terms = state.objective.discriminator_loss(real_output, fake_output, labels[0])
            if state.objective.supervised:
                terms |= state.objective.supervised_loss(findings_agreement[-1], labels[-1])
                right_N = findings_agreement[-1].class_logits.argmax(1) == labels[-1]
                scalars.add({"D_classes_right": right_N.float().mean()}, plan.accumulation)
            if index == 0:  # penalties once per optimiser step, at full weight
                fakes, reals_seen, *_ = every.chunk(parts)
                context = penalty_inputs(
                    state, step, (fakes, fake_labels, fake_output), (reals_seen, labels[0], real_output)
                )
                terms |= {name: plan.accumulation * value for name, value in player.penalties(context).items()}
            (sum(terms.values()) / plan.accumulation).backward()
        scalars.add({f"D_loss_{name}": term for name, term in terms.items()}, plan.accumulation)
        decision_boundary = state.objective.decision_boundary
        scalars.add(logit_statistics(real_output.score_N, fake_output.score_N, decision_boundary), plan.accumulation)
    player.step(step)
    return scalars.totals


def generator_step(
    state: TrainState, step: int, turn: int = 0, real_batches: list[Batch] | None = None
) -> dict[str, Tensor]:
    """One optimiser step of the generator on one global batch. `real_batches`: the real images of the discriminator's last turn,
    for objectives that compare with them."""
    plan, player, scalars = state.plan, state.generator, MeanAccumulator()
    state.discriminator.network.requires_grad_(False)
    player.network.requires_grad_(True)  # a table that both players own would be frozen otherwise
    seed_torch(plan.seed, "generator turn", step, turn, plan.world.rank)
    for index, (z, labels) in enumerate(state.draw(step, "generator turn", turn, plan.generator_batch_multiplier)):
        with no_sync(player.reduced, last=index == plan.accumulation - 1):
            with state.precision.autocast():
                fake = player.reduced(z, labels)  # (N, 3, R, R)
                output = discriminate(state, state.augment(fake), labels)
                real_output = (
                    discriminate_real(state, real_batches[index % len(real_batches)], len(z))
                    if state.objective.needs_real_outputs
                    else None
                )
            if state.objective.matches_batch_means:
                output, real_output = with_mean_features(output), with_mean_features(real_output)
            terms = state.objective.generator_loss(real_output, output)
            if index == 0:
                context = PenaltyInputs(step=step)
                terms |= {name: plan.accumulation * value for name, value in player.penalties(context).items()}
            (sum(terms.values()) / plan.accumulation).backward()
        scalars.add({f"G_loss_{name}": term for name, term in terms.items()}, plan.accumulation)
    player.step(step)
    return scalars.totals


def discriminate_real(state: TrainState, batch: Batch, count: int) -> DiscriminatorOutput:
    """D's verdict on as many real images as there are generated ones: those of a micro-batch, again and again if need be."""
    images, labels = to_device_batch(state, batch)
    if count != len(images):
        turns = -(-count // len(images))
        images, labels = images.repeat(turns, 1, 1, 1)[:count], labels.repeat(turns)[:count]  # (N, 3, R, R)
    with torch.no_grad():
        return discriminate(state, state.augment(images), labels)


def discriminate(state: TrainState, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
    """D's verdict in the generator's turn, its features those of the layer that the objective names."""
    network, name = state.discriminator.network, state.objective.feature_layer
    if name is None:
        return network(images, labels)
    outputs: list[Tensor] = []
    with network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: outputs.append(output)):
        output = network(images, labels)
    return output._replace(features=outputs[-1].flatten(1))


def with_mean_features(output: DiscriminatorOutput) -> DiscriminatorOutput:
    """The verdict with the mean features (1, F) of the batch of all ranks, float32. All ranks must call it together."""
    return output._replace(features=mean_over_ranks(output.features.float().mean(0, keepdim=True)))


def to_device_batch(state: TrainState, batch: Batch) -> Batch:
    """Real images as the networks see them, float32 (N, 3, R, R) in [-1, 1], and their classes."""
    images, labels = (to_device(values, state.precision.device) for values in batch)
    return uint8_to_float(images, state.precision.memory_format), labels


def record_batches(batches: Iterator[Batch], real_batches: list[Batch]) -> Iterator[Batch]:
    """The same batches, each noted in `real_batches` as it comes."""
    for batch in batches:
        real_batches.append(batch)
        yield batch


def penalty_inputs(
    state: TrainState,
    step: int,
    fake: tuple[Tensor, Tensor, DiscriminatorOutput],
    real: tuple[Tensor, Tensor, DiscriminatorOutput],
) -> PenaltyInputs:
    """What D's penalties may look at: images, their classes and the verdict on them."""
    return PenaltyInputs(
        step=step,
        real=real[0],
        real_labels=real[1],
        real_output=real[2],
        fake=fake[0],
        fake_labels=fake[1],
        fake_output=fake[2],
        autocast=state.precision.autocast,
    )


def logit_statistics(real_N: Tensor, fake_N: Tensor, decision_boundary: float | None) -> dict[str, Tensor]:
    """D's mean scores and, where a score tells real from fake, the shares of real images above that and of others below."""
    means = {"D_real": real_N.mean(), "D_fake": fake_N.mean()}
    if decision_boundary is None:
        return means
    right = {
        "D_real_right": (real_N > decision_boundary).float().mean(),
        "D_fake_right": (fake_N < decision_boundary).float().mean(),
    }
    return means | right


class MeanAccumulator:
    """Means over equal parts, micro-batches or turns, kept on the device."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], parts: int) -> None:
        """Add one of `parts` parts."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() / parts


def split_output(output: DiscriminatorOutput, parts: int) -> list[DiscriminatorOutput]:
    """The verdict on a concatenated batch as verdicts on its equal parts."""
    fields = (field.chunk(parts) if field is not None else [None] * parts for field in output)
    return [DiscriminatorOutput(*part) for part in zip(*fields, strict=True)]


def uint8_to_float(images_uint8: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images_uint8.to(torch.float32, memory_format=memory_format).div_(127.5).sub_(1)
