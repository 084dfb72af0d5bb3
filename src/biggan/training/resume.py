"""The state of a training run: built from a config, flattened for a checkpoint, put back from one, or started from the
weights of another model."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from biggan.checkpoints.init_from import load_initial_weights, parse_init_from, read_model_config
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import Checkpoint, Tensors, read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.objectives.gradient_penalties import R1
from biggan.runtime.distributed import World, on_rank_zero
from biggan.runtime.errors import CheckpointError
from biggan.training.train_state import NETWORKS, NetworkTrainer, TrainState, averaged_networks

Report = Callable[[str], None]

ROLLBACK_RATE = 0.5  # learning rates after each return from values that were not finite


class Rollbacks(NamedTuple):
    """How often a run went back to an earlier checkpoint, and why."""

    diverged: int = 0
    collapsed: int = 0


class RunProgress(NamedTuple):
    """How far a run has come: generator steps, seconds of training, how often it went back, and which networks are new,
    weights just drawn."""

    step: int
    seconds: float
    returns: Rollbacks
    new: tuple[str, ...] = ()


def flatten_state(state: TrainState) -> Tensors:
    """Every tensor that the next step depends on."""
    tensors = {}
    for name, player in (("generator", state.generator), ("discriminator", state.discriminator)):
        tensors |= {f"{name}/{key}": value for key, value in player.network.state_dict().items()}
        names = [key for key, _ in player.network.named_parameters()]
        for index, state in player.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}_optimizer/{names[index]}/{key}": value for key, value in state.items()}
        for index, regularizer in enumerate(player.regularizers):
            kept = regularizer.state_dict()
            tensors |= {f"{name}_regularizers/{index}/{key}": value for key, value in kept.items()}
    for name, average in averaged_networks(state).items():
        tensors |= {f"{name}/{key}": value for key, value in average.state_dict().items()}
    return tensors


def resume(state: TrainState, config: RunConfig, folder: RunDir, report: Report) -> RunProgress:
    """Load the newest sound checkpoint, if there is one, into the game; returns how far it had come.

    A run without one starts from the weights of `init_from`, if that is given."""
    checkpoint = newest_checkpoint(folder, report, state.plan.world)
    if checkpoint is None:
        new = NETWORKS if config.init_from is None else start_from(state, config, report)
        return RunProgress(0, 0.0, Rollbacks(), new)
    parts = split_by_prefix(checkpoint.tensors)
    returns = Rollbacks(**on_rank_zero(folder.returns))
    apply_rollback(state, config, returns)
    try:
        for name, average in averaged_networks(state).items():
            average.load_state_dict(parts[name])
        for name, player in (("generator", state.generator), ("discriminator", state.discriminator)):
            player.network.load_state_dict(parts[name])
            load_optimizer(player, parts.get(f"{name}_optimizer", {}))
            load_regularizer_state(player, parts)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this version of the networks: {error}") from error
    report(f"resuming from step {checkpoint.step} ({checkpoint.path})")
    return RunProgress(checkpoint.step, checkpoint.counters["seconds"], returns)


def apply_rollback(state: TrainState, config: RunConfig, returns: Rollbacks) -> None:
    """What a run that came back does otherwise: lower learning rates, and after a collapse R1. Mutates the players."""
    factor = ROLLBACK_RATE**returns.diverged * config.monitor.rollback_lr_factor**returns.collapsed
    for player in (state.generator, state.discriminator):
        player.schedule = dataclasses.replace(player.schedule, base=player.schedule.base * factor)
    if returns.collapsed and config.monitor.rollback_r1 is not None:
        state.discriminator.regularizers += (R1(rollback_r1_gamma(config, returns), config.monitor.rollback_r1_interval),)


def rollback_r1_gamma(config: RunConfig, returns: Rollbacks) -> float:
    """Of the R1 that is added: doubled with each return."""
    return config.monitor.rollback_r1 * 2 ** (returns.collapsed - 1)


def describe_rollback(config: RunConfig, returns: Rollbacks) -> str:
    """The same in words."""
    factor = ROLLBACK_RATE**returns.diverged * config.monitor.rollback_lr_factor**returns.collapsed
    words = f"learning rates x {factor:g}"
    if returns.collapsed and config.monitor.rollback_r1 is not None:
        words += f", R1 with gamma {rollback_r1_gamma(config, returns):g} every {config.monitor.rollback_r1_interval} steps"
    return words


def newest_checkpoint(folder: RunDir, report: Report, world: World) -> Checkpoint | None:
    """The newest sound checkpoint, the same on all ranks: rank 0 looks for it, because that sets damaged ones aside."""
    if world.size == 1:
        return folder.load_newest(report)
    path = on_rank_zero(lambda: (found := folder.load_newest(report)) and found.path)
    return None if path is None else read_checkpoint(path)


def start_from(state: TrainState, config: RunConfig, report: Report) -> tuple[str, ...]:
    """Load the weights of another model, and the optimisers' moments if they are to be kept; what depends on the number of
    classes stays as drawn if that differs. Returns which players' networks are new, because the model has none.

    Raises CheckpointError where the weights do not fit, or there are no moments."""
    path, step = start = parse_init_from(config.init_from)
    weights = load_initial_weights(start, report)
    classes = read_model_config(path)[0].num_classes
    networks = {"generator": state.generator.network, "discriminator": state.discriminator.network} | averaged_networks(
        state
    )
    for name, network in networks.items():
        if name == "classifier" and name not in weights:
            network.load_state_dict(state.discriminator.network.state_dict())
            continue
        if name not in weights:
            report(f"{path} holds no {name}: it starts from new weights")
            continue
        generated_images = load_except_class_tables(
            network, weights[name], (classes, state.num_classes), f"the {name} of {path}"
        )
        if generated_images:
            more = f" and {len(generated_images) - 3} more" if len(generated_images) > 3 else ""
            names = ", ".join(sorted(generated_images)[:3]) + more
            report(f"{name}: drawn anew for {state.num_classes} classes instead of {classes}: {names}")
    if config.train.optimizer_state == "keep":
        if classes != state.num_classes or not any(f"{name}_optimizer" in weights for name in NETWORKS):
            raise CheckpointError(f"{path} has no moments for these networks: use --train.optimizer_state reset")
        for name, player in (("generator", state.generator), ("discriminator", state.discriminator)):
            load_optimizer(player, weights.get(f"{name}_optimizer", {}))
            load_regularizer_state(player, weights)
    report(f"starting from the weights of {path}{'' if step is None else f' at step {step}'}")
    return tuple(name for name in NETWORKS if name not in weights)


def load_except_class_tables(network: nn.Module, tensors: Tensors, classes: tuple[int, int], what: str) -> list[str]:
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


def load_regularizer_state(player: NetworkTrainer, parts: dict[str, Tensors]) -> None:
    """Put back what the regularisers of a player remembered; mutates them."""
    remembered = split_by_prefix(parts.get(f"{player.name}_regularizers", {}))
    for index, regularizer in enumerate(player.regularizers):
        regularizer.load_state_dict(remembered.get(str(index), {}))


def load_optimizer(player: NetworkTrainer, tensors: Tensors) -> None:
    """Put back the moments that `flatten_state` flattened; a player that never moved (its rate is 0) has none."""
    if not tensors:
        return
    state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(player.network.named_parameters()):
        # The fused optimiser walks weights and moments side by side in memory: both need the same layout.
        moments = {key: torch.empty_like(parameter).copy_(tensors[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")}
        state[index] = {"step": tensors[f"{name}/step"], **moments}
    whole = player.optimizer.state_dict()
    player.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
