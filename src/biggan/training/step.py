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

from biggan.nn.heads import Verdict
from biggan.objectives.regularizer import Context
from biggan.runtime.distributed import mean_over_ranks, unreduced
from biggan.runtime.precision import to_device
from biggan.runtime.rng import seed_networks
from biggan.training.train_state import Game

Batch = tuple[Tensor, Tensor]  # images and labels


def train_step(game: Game, step: int, reals: Iterator[Batch], labelled: Iterator[Batch] | None = None) -> dict[str, Tensor]:
    """Generator step number `step` (from 1); mutates the players and the average. All ranks must call it together.

    `reals` gives this rank's share of one micro-batch of real images after the other: uint8 (N, 3, R, R) and their classes;
    `labelled` the same of images whose classes D may learn, None where that is all of them, or none.
    Returns scalars, float32 on the device: loss terms of both players, D's mean scores and the share of images that it calls
    what they are, averaged over turns.
    """
    plan, scalars = game.plan, Means()
    for turn in range(plan.discriminator_steps):
        seen: list[Batch] = []
        scalars.add(discriminator_turn(game, step, turn, kept(reals, seen), labelled), plan.discriminator_steps)
        if game.classifier is not None:
            game.classifier.update(game.discriminator.network, (step - 1) * plan.discriminator_steps + turn + 1)
    for turn in range(plan.generator_steps):
        scalars.add(generator_turn(game, step, turn, seen), plan.generator_steps)
    game.ema.update(game.generator.network, step)
    return scalars.totals


def discriminator_turn(
    game: Game, step: int, turn: int, reals: Iterator[Batch], labelled: Iterator[Batch] | None = None
) -> dict[str, Tensor]:
    """One optimiser step of the discriminator on one global batch. Where classes are learned they are those of the batches
    `labelled`, or else, None, of all real images."""
    plan, player, scalars = game.plan, game.discriminator, Means()
    player.network.requires_grad_(True)
    seed_networks(plan.seed, "discriminator turn", step, turn, plan.world.rank)
    for index, (z, fake_labels) in enumerate(game.draw(step, "discriminator turn", turn)):
        batches = [next(reals)] if labelled is None else [next(reals), next(labelled)]
        images, labels = zip(*(on_device(game, batch) for batch in batches), strict=True)
        with unreduced(player.reduced, last=index == plan.accumulation - 1):
            with game.precision.autocast():
                with torch.no_grad():
                    fake = game.generator.network(z, fake_labels)  # (N, 3, R, R)
                every = game.augment(torch.cat([fake, *images]))  # (2N or 3N, 3, R, R)
                every = every.contiguous(memory_format=game.precision.memory_format)  # the same
                parts = 1 + len(images)
                verdict = player.reduced(every, torch.cat([fake_labels, *labels]), parts)
            fake_verdict, real_verdict, *_ = verdicts = split(verdict, parts)
            terms = game.objective.for_discriminator(real_verdict, fake_verdict, labels[0])
            if game.objective.supervised:
                terms |= game.objective.for_labelled(verdicts[-1], labels[-1])
                right_N = verdicts[-1].class_logits_NK.argmax(1) == labels[-1]
                scalars.add({"D_classes_right": right_N.float().mean()}, plan.accumulation)
            if index == 0:  # penalties once per optimiser step, at full weight
                fakes, reals_seen, *_ = every.chunk(parts)
                context = context_of(game, step, (fakes, fake_labels, fake_verdict), (reals_seen, labels[0], real_verdict))
                terms |= {name: plan.accumulation * value for name, value in player.penalties(context).items()}
            (sum(terms.values()) / plan.accumulation).backward()
        scalars.add({f"D_loss_{name}": term for name, term in terms.items()}, plan.accumulation)
        boundary = game.objective.boundary
        scalars.add(calls(real_verdict.score_N, fake_verdict.score_N, boundary), plan.accumulation)
    player.step(step)
    return scalars.totals


def generator_turn(game: Game, step: int, turn: int = 0, seen: list[Batch] | None = None) -> dict[str, Tensor]:
    """One optimiser step of the generator on one global batch. `seen`: the real images of the discriminator's last turn,
    for objectives that compare with them."""
    plan, player, scalars = game.plan, game.generator, Means()
    game.discriminator.network.requires_grad_(False)
    player.network.requires_grad_(True)  # a table that both players own would be frozen otherwise
    seed_networks(plan.seed, "generator turn", step, turn, plan.world.rank)
    for index, (z, labels) in enumerate(game.draw(step, "generator turn", turn, plan.generator_batches)):
        with unreduced(player.reduced, last=index == plan.accumulation - 1):
            with game.precision.autocast():
                fake = player.reduced(z, labels)  # (N, 3, R, R)
                verdict = judged(game, game.augment(fake), labels)
                real_verdict = verdict_on_real(game, seen[index % len(seen)], len(z)) if game.objective.pairs else None
            if game.objective.matches_means:
                verdict, real_verdict = with_mean_features(verdict), with_mean_features(real_verdict)
            terms = game.objective.for_generator(real_verdict, verdict)
            if index == 0:
                context = Context(step=step)
                terms |= {name: plan.accumulation * value for name, value in player.penalties(context).items()}
            (sum(terms.values()) / plan.accumulation).backward()
        scalars.add({f"G_loss_{name}": term for name, term in terms.items()}, plan.accumulation)
    player.step(step)
    return scalars.totals


def verdict_on_real(game: Game, batch: Batch, count: int) -> Verdict:
    """D's verdict on as many real images as there are generated ones: those of a micro-batch, again and again if need be."""
    images, labels = on_device(game, batch)
    if count != len(images):
        turns = -(-count // len(images))
        images, labels = images.repeat(turns, 1, 1, 1)[:count], labels.repeat(turns)[:count]  # (N, 3, R, R)
    with torch.no_grad():
        return judged(game, game.augment(images), labels)


def judged(game: Game, images: Tensor, labels: Tensor) -> Verdict:
    """D's verdict in the generator's turn, its features those of the layer that the objective names."""
    network, name = game.discriminator.network, game.objective.feature_layer
    if name is None:
        return network(images, labels)
    outputs: list[Tensor] = []
    with network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: outputs.append(output)):
        verdict = network(images, labels)
    return verdict._replace(features_NF=outputs[-1].flatten(1))


def with_mean_features(verdict: Verdict) -> Verdict:
    """The verdict with the mean features (1, F) of the batch of all ranks, float32. All ranks must call it together."""
    return verdict._replace(features_NF=mean_over_ranks(verdict.features_NF.float().mean(0, keepdim=True)))


def on_device(game: Game, batch: Batch) -> Batch:
    """Real images as the networks see them, float32 (N, 3, R, R) in [-1, 1], and their classes."""
    images, labels = (to_device(values, game.precision.device) for values in batch)
    return to_signed_range(images, game.precision.memory_format), labels


def kept(batches: Iterator[Batch], seen: list[Batch]) -> Iterator[Batch]:
    """The same batches, each noted in `seen` as it comes."""
    for batch in batches:
        seen.append(batch)
        yield batch


def context_of(game: Game, step: int, fake: tuple[Tensor, Tensor, Verdict], real: tuple[Tensor, Tensor, Verdict]) -> Context:
    """What D's penalties may look at: images, their classes and the verdict on them."""
    return Context(
        step=step,
        real=real[0],
        real_labels=real[1],
        real_verdict=real[2],
        fake=fake[0],
        fake_labels=fake[1],
        fake_verdict=fake[2],
        autocast=game.precision.autocast,
    )


def calls(real_N: Tensor, fake_N: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """D's mean scores and, where a score tells real from fake, the shares of real images above that and of others below."""
    means = {"D_real": real_N.mean(), "D_fake": fake_N.mean()}
    if boundary is None:
        return means
    right = {"D_real_right": (real_N > boundary).float().mean(), "D_fake_right": (fake_N < boundary).float().mean()}
    return means | right


class Means:
    """Means over equal parts, micro-batches or turns, kept on the device."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], parts: int) -> None:
        """Add one of `parts` parts."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() / parts


def split(verdict: Verdict, parts: int) -> list[Verdict]:
    """The verdict on a concatenated batch as verdicts on its equal parts."""
    fields = (field.chunk(parts) if field is not None else [None] * parts for field in verdict)
    return [Verdict(*part) for part in zip(*fields, strict=True)]


def to_signed_range(images_uint8: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images_uint8.to(torch.float32, memory_format=memory_format).div_(127.5).sub_(1)
