"""The state of a training run: built from a config, flattened for a checkpoint, put back from one, or started from the
weights of another model."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from biggan import models
from biggan.checkpoint import (
    Checkpoint,
    RunFolder,
    Tensors,
    read_checkpoint,
    split_by_prefix,
)
from biggan.config import RunConfig
from biggan.data import Source
from biggan.distributed import ALONE, World, on_first, reduced, rows_of_all_ranks, sums_within
from biggan.errors import CheckpointError, ConfigError
from biggan.latents import draw_labels
from biggan.nn.minibatch import compare_across_ranks
from biggan.nn.norm import compares_rows, together_with
from biggan.nn.virtual import Reference
from biggan.nn.weight_norm import starting_from_data, starts_from_data
from biggan.precision import choose_precision, to_device
from biggan.randomness import addressed_generator, seed_networks
from biggan.regularizers.images import R1
from biggan.starting import initial_weights, model_of, parse_start
from biggan.training.ema import EMA
from biggan.training.guard import Guard
from biggan.training.recompute import recomputing
from biggan.training.step import Game, Plan, Player, Schedule, on_device

Report = Callable[[str], None]
START_IMAGES = 500  # Salimans et al. 2016, published code
START_BATCHES = 5  # but no more micro-batches at once than these, for the sake of memory
PLAYERS = ("generator", "discriminator")
ROLLBACK_RATE = 0.5  # learning rates after each return from values that were not finite


class Returns(NamedTuple):
    """How often a run went back to an earlier checkpoint, and why."""

    diverged: int = 0
    collapsed: int = 0


class Progress(NamedTuple):
    """How far a run has come: generator steps, seconds of training, how often it went back, and which networks are new,
    weights just drawn."""

    step: int
    seconds: float
    returns: Returns
    new: tuple[str, ...] = ()


def build_game(config: RunConfig, world: World = ALONE) -> Game:
    """Networks with weights drawn from the seed, their optimisers, and the average, on the device. With several ranks,
    batch statistics and gradients are those of all; all ranks must call it together."""
    train = config.train
    precision = choose_precision(train.device, train.precision, train.memory_format)
    generator, discriminator = models.build(config.model, addressed_generator(train.seed, "initial weights"))
    if isinstance(generator.reference, Reference):
        stream = addressed_generator(train.seed, "reference batch")
        size = len(generator.reference.y)
        z_BZ = config.latent.prior().draw((size, config.model.z_dim), stream, step=0)
        generator.reference.put(z_BZ, draw_labels(size, config.model.num_classes, stream))
    # Groups of one rank need no sums: each normalises its own images.
    apart, plan = world.size == 1 or train.statistics_ranks == 1, plan_of(config, world)
    if apart and plan.micro_batch == world.size and compares_rows(generator):
        raise ConfigError(f"train.micro_batch={plan.micro_batch}: G's norms need two or more for each rank: leave it out")
    sums = None if apart else sums_within(train.statistics_ranks)
    ema, players, guard = None, [], Guard(precision.device)
    for name, network, lr, regularizers in (
        ("generator", generator, train.generator_lr, config.regularization.generator.regularizers()),
        ("discriminator", discriminator, train.discriminator_lr, config.regularization.discriminator.regularizers()),
    ):
        precision.place(network)
        # The average is of the generator, as it is before ranks come in. Weights that are good already are averaged at once.
        start = train.ema_start if config.init_from is None else 0
        ema = ema or EMA(network, decay=train.ema_decay, start=start)
        if sums is not None:
            together_with(network, sums)
        if train.compare_across_ranks and world.size > 1:
            compare_across_ranks(network, rows_of_all_ranks)
        if train.recompute:
            recomputing(network)
        betas = (float(train.adam_beta1), float(train.adam_beta2))
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=train.adam_epsilon, fused=True)
        schedule = Schedule(lr, train.lr_decay_start, train.steps)
        wrapped = reduced(network, precision.device)
        players.append(Player(name, network, wrapped, optimizer, regularizers, schedule, guard))
    decay = train.discriminator_average
    return Game(
        generator=players[0],
        discriminator=players[1],
        ema=ema,
        classifier=None if decay is None else EMA(players[1].network, decay=decay, start=0),
        guard=guard,
        objective=config.objective.objective(),
        augment=config.augment.augmentation(),
        precision=precision,
        plan=plan,
        prior=config.latent.prior(),
        latent_dim=config.model.z_dim,
        num_classes=config.model.num_classes,
    )


def plan_of(config: RunConfig, world: World = ALONE) -> Plan:
    """The arithmetic of the batch: batch = micro_batch x accumulation. Raises ConfigError where a micro-batch does not
    divide by the ranks."""
    train = config.train
    micro_batch = train.micro_batch or train.batch
    if micro_batch % world.size:
        name = "micro_batch" if train.micro_batch else "batch"
        near = -(-micro_batch // world.size) * world.size
        raise ConfigError(
            f"train.{name}={micro_batch} is not divisible by {world.size} ranks: use --train.{name.replace('_', '-')} {near}"
        )
    if world.size % (train.statistics_ranks or 1):
        raise ConfigError(f"train.statistics_ranks={train.statistics_ranks} does not divide {world.size} ranks")
    return Plan(
        batch=train.batch,
        micro_batch=micro_batch,
        accumulation=train.batch // micro_batch,
        discriminator_steps=train.discriminator_steps,
        generator_steps=train.generator_steps,
        generator_batches=train.generator_batches,
        seed=train.seed,
        world=world,
    )


def state_of(game: Game) -> Tensors:
    """Every tensor that the next step depends on."""
    tensors = {}
    for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
        tensors |= {f"{name}/{key}": value for key, value in player.network.state_dict().items()}
        names = [key for key, _ in player.network.named_parameters()]
        for index, state in player.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}_optimizer/{names[index]}/{key}": value for key, value in state.items()}
        for index, regularizer in enumerate(player.regularizers):
            kept = regularizer.memory()
            tensors |= {f"{name}_regularizers/{index}/{key}": value for key, value in kept.items()}
    for name, average in averages_of(game).items():
        tensors |= {f"{name}/{key}": value for key, value in average.state_dict().items()}
    return tensors


def averages_of(game: Game) -> dict[str, nn.Module]:
    """The averaged networks, by their name in a checkpoint."""
    averages = {"ema": game.ema, "classifier": game.classifier}
    return {name: ema.average for name, ema in averages.items() if ema is not None}


def resume(game: Game, config: RunConfig, folder: RunFolder, report: Report) -> Progress:
    """Load the newest sound checkpoint, if there is one, into the game; returns how far it had come.

    A run without one starts from the weights of `init_from`, if that is given."""
    checkpoint = newest_checkpoint(folder, report, game.plan.world)
    if checkpoint is None:
        new = PLAYERS if config.init_from is None else start_from(game, config, report)
        return Progress(0, 0.0, Returns(), new)
    parts = split_by_prefix(checkpoint.tensors)
    returns = Returns(**on_first(folder.returns))
    remedy(game, config, returns)
    try:
        for name, average in averages_of(game).items():
            average.load_state_dict(parts[name])
        for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
            player.network.load_state_dict(parts[name])
            load_optimizer(player, parts.get(f"{name}_optimizer", {}))
            remind(player, parts)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this version of the networks: {error}") from error
    report(f"resuming from step {checkpoint.step} ({checkpoint.path})")
    return Progress(checkpoint.step, checkpoint.counters["seconds"], returns)


@torch.no_grad()
def begin_from_data(game: Game, source: Source, new: tuple[str, ...] = PLAYERS) -> None:
    """Before the first step: the layers of the `new` networks that start from data see up to START_IMAGES images, or
    latents, and their averages begin there. Mutates the game; the same on all ranks."""
    networks = {name: getattr(game, name).network for name in new}
    wanted = [name for name, network in networks.items() if starts_from_data(network)]
    if not wanted:
        return
    seed_networks(game.plan.seed, "start from data", 0)
    x, y_N = on_device(game, next(source.once(min(START_IMAGES, START_BATCHES * game.plan.micro_batch))))
    stream = addressed_generator(game.plan.seed, "start from data", 1)
    z_NZ = to_device(game.prior.draw((len(x), game.latent_dim), stream, step=0), game.precision.device)
    for name in wanted:
        with starting_from_data(networks[name]):
            networks[name](z_NZ if name == "generator" else x, y_N)
    for name, average in averages_of(game).items():
        if (averaged := "generator" if name == "ema" else "discriminator") in new:
            average.load_state_dict(networks[averaged].state_dict())


def remedy(game: Game, config: RunConfig, returns: Returns) -> None:
    """What a run that came back does otherwise: lower learning rates, and after a collapse R1. Mutates the players."""
    factor = ROLLBACK_RATE**returns.diverged * config.watch.remedy_rates**returns.collapsed
    for player in (game.generator, game.discriminator):
        player.schedule = dataclasses.replace(player.schedule, base=player.schedule.base * factor)
    if returns.collapsed and config.watch.remedy_r1 is not None:
        game.discriminator.regularizers += (R1(gamma_of(config, returns), config.watch.remedy_r1_every),)


def gamma_of(config: RunConfig, returns: Returns) -> float:
    """Of the R1 that is added: doubled with each return."""
    return config.watch.remedy_r1 * 2 ** (returns.collapsed - 1)


def remedies(config: RunConfig, returns: Returns) -> str:
    """The same in words."""
    factor = ROLLBACK_RATE**returns.diverged * config.watch.remedy_rates**returns.collapsed
    words = f"learning rates x {factor:g}"
    if returns.collapsed and config.watch.remedy_r1 is not None:
        words += f", R1 with gamma {gamma_of(config, returns):g} every {config.watch.remedy_r1_every} steps"
    return words


def newest_checkpoint(folder: RunFolder, report: Report, world: World) -> Checkpoint | None:
    """The newest sound checkpoint, the same on all ranks: rank 0 looks for it, because that sets damaged ones aside."""
    if world.size == 1:
        return folder.load_newest(report)
    path = on_first(lambda: (found := folder.load_newest(report)) and found.path)
    return None if path is None else read_checkpoint(path)


def start_from(game: Game, config: RunConfig, report: Report) -> tuple[str, ...]:
    """Load the weights of another model, and the optimisers' moments if they are to be kept; what depends on the number of
    classes stays as drawn if that differs. Returns which players' networks are new, because the model has none.

    Raises CheckpointError where the weights do not fit, or there are no moments."""
    path, step = start = parse_start(config.init_from)
    weights = initial_weights(start, report)
    classes = model_of(path)[0].num_classes
    networks = {"generator": game.generator.network, "discriminator": game.discriminator.network} | averages_of(game)
    for name, network in networks.items():
        if name == "classifier" and name not in weights:
            network.load_state_dict(game.discriminator.network.state_dict())
            continue
        if name not in weights:
            report(f"{path} holds no {name}: it starts from new weights")
            continue
        drawn = load_but_classes(network, weights[name], (classes, game.num_classes), f"the {name} of {path}")
        if drawn:
            more = f" and {len(drawn) - 3} more" if len(drawn) > 3 else ""
            names = ", ".join(sorted(drawn)[:3]) + more
            report(f"{name}: drawn anew for {game.num_classes} classes instead of {classes}: {names}")
    if config.train.moments == "keep":
        if classes != game.num_classes or not any(f"{name}_optimizer" in weights for name in PLAYERS):
            raise CheckpointError(f"{path} has no moments for these networks: use --train.moments reset")
        for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
            load_optimizer(player, weights.get(f"{name}_optimizer", {}))
            remind(player, weights)
    report(f"starting from the weights of {path}{'' if step is None else f' at step {step}'}")
    return tuple(name for name in PLAYERS if name not in weights)


def load_but_classes(network: nn.Module, tensors: Tensors, classes: tuple[int, int], what: str) -> list[str]:
    """Load a state whose shapes may differ where they count classes (there, here); returns the names not loaded, among them
    those of class numbers, which mean nothing where the classes are others.

    Mutates the network. Raises CheckpointError on any other difference."""
    state, left = network.state_dict(), []
    if set(state) != set(tensors):
        name = sorted(set(state) ^ set(tensors))[0]
        raise CheckpointError(f"{what} is another network: {name} is only {'here' if name in state else 'there'}")
    for name, tensor in tensors.items():
        here, there = state[name].shape, tensor.shape
        if classes[0] != classes[1] and not tensor.is_floating_point():
            left.append(name)
        elif here == there:
            state[name] = tensor
        elif len(here) == len(there) and all(a == b or (b, a) == classes for a, b in zip(here, there, strict=True)):
            left.append(name)
        else:
            raise CheckpointError(f"{what} does not fit: {name} is {tuple(there)} there, {tuple(here)} here")
    network.load_state_dict(state)
    return left


def remind(player: Player, parts: dict[str, Tensors]) -> None:
    """Put back what the regularisers of a player remembered; mutates them."""
    remembered = split_by_prefix(parts.get(f"{player.name}_regularizers", {}))
    for index, regularizer in enumerate(player.regularizers):
        regularizer.remember(remembered.get(str(index), {}))


def load_optimizer(player: Player, tensors: Tensors) -> None:
    """Put back the moments that `state_of` flattened; a player that never moved (its rate is 0) has none."""
    if not tensors:
        return
    state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(player.network.named_parameters()):
        # The fused optimiser walks weights and moments side by side in memory: both need the same layout.
        moments = {key: torch.empty_like(parameter).copy_(tensors[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")}
        state[index] = {"step": tensors[f"{name}/step"], **moments}
    whole = player.optimizer.state_dict()
    player.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
