"""The state of a training run: built from a config, flattened for a checkpoint, put back from one, or started from the
weights of another model."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from biggan.checkpoints.init_from import initial_weights, model_of, parse_start
from biggan.checkpoints.run_dir import RunFolder
from biggan.checkpoints.tensors import Checkpoint, Tensors, read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.objectives.gradient_penalties import R1
from biggan.runtime.distributed import World, on_first
from biggan.runtime.errors import CheckpointError
from biggan.training.train_state import PLAYERS, Game, Player, averages_of

Report = Callable[[str], None]

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
