"""Where a run begins: its newest checkpoint, the weights of another model, or weights just drawn."""

import logging
from typing import Any, NamedTuple

import torch
from torch import nn

from biggan.checkpoints.init_from import load_initial_weights, parse_init_from, read_model_config
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import Checkpoint, Tensors, check_fits, loading_checkpoint, read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.environment import World
from biggan.runtime.errors import CheckpointError
from biggan.training.rollbacks import NO_ROLLBACKS, Rollbacks
from biggan.training.train_state import NETWORKS, NetworkTrainer, TrainState

logger = logging.getLogger(__name__)


class RunProgress(NamedTuple):
    """How far a run has come: generator steps, seconds of training, rollbacks, and which networks are new, their weights
    just drawn."""

    step: int
    seconds: float
    rollbacks: Rollbacks
    new_networks: tuple[str, ...] = ()


def resume(state: TrainState, config: RunConfig, run_dir: RunDir, rollbacks: Rollbacks = NO_ROLLBACKS) -> RunProgress:
    """Load the newest sound checkpoint of the run into the state, which was built for `rollbacks`; returns how far it had
    come. A run without one starts from the weights of `init_from`, if that is given.

    Mutates the state; all ranks must call it together. Raises CheckpointError where the tensors do not fit."""
    checkpoint = newest_checkpoint(run_dir, state.plan.world)
    if checkpoint is None:
        new = NETWORKS if config.init_from is None else initialize_from(state, config)
        return RunProgress(0, 0.0, rollbacks, new)
    parts = split_by_prefix(checkpoint.tensors)
    with loading_checkpoint(checkpoint.path):
        for name, network in (state.averages() | {trainer.name: trainer.network for trainer in state.trainers}).items():
            check_fits(parts[name], network.state_dict(), f"checkpoint {checkpoint.path}, the {name}")
            network.load_state_dict(parts[name])
        for trainer in state.trainers:
            optimizer = parts.get(f"{trainer.name}_optimizer", {})
            if not optimizer and trainer.learning_rate.base > 0 and checkpoint.step > 0:
                raise CheckpointError(f"checkpoint {checkpoint.path} holds no optimizer state of the {trainer.name}")
            load_optimizer(trainer, optimizer)
            load_regularizers(trainer, parts)
    logger.info("resuming from step %d (%s)", checkpoint.step, checkpoint.path)
    return RunProgress(checkpoint.step, checkpoint.counters.get("seconds", 0.0), rollbacks)


def newest_checkpoint(run_dir: RunDir, world: World) -> Checkpoint | None:
    """The newest sound checkpoint, the same on all ranks: rank 0 looks for it, because that sets corrupt ones aside."""
    if world.size == 1:
        return run_dir.load_newest()
    path = on_rank_zero(lambda: (newest := run_dir.load_newest()) and newest.path)
    return None if path is None else read_checkpoint(path)


def load_regularizers(trainer: NetworkTrainer, parts: dict[str, Tensors]) -> None:
    """Put back the state of a network's regularizers; mutates them."""
    states = split_by_prefix(parts.get(f"{trainer.name}_regularizers", {}))
    for index, regularizer in enumerate(trainer.regularizers):
        regularizer.load_state_dict(states.get(str(index), {}))


def load_optimizer(trainer: NetworkTrainer, tensors: Tensors) -> None:
    """Put back the optimizer state that a checkpoint holds; a network that never moved (its rate is 0) has none."""
    if not tensors:
        return
    state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(trainer.network.named_parameters()):
        # The fused optimizer walks weights and moments side by side in memory: both need the same layout.
        moments = {key: torch.empty_like(parameter).copy_(tensors[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")}
        state[index] = {"step": tensors[f"{name}/step"], **moments}
    whole = trainer.optimizer.state_dict()
    trainer.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


# Weights of another model


def initialize_from(state: TrainState, config: RunConfig) -> tuple[str, ...]:
    """Load the weights that `init_from` names, and the optimizer state if that is to be kept; what depends on the number of
    classes stays as drawn if that differs. Returns which networks are new, because the model has none.

    Mutates the state. Raises CheckpointError where the weights do not fit, or there is no optimizer state."""
    path, step = start = parse_init_from(config.init_from)
    weights = load_initial_weights(start)
    classes = read_model_config(path)[0].num_classes
    networks = {trainer.name: trainer.network for trainer in state.trainers} | state.averages()
    for name, network in networks.items():
        if name == "classifier" and name not in weights:
            network.load_state_dict(state.discriminator.network.state_dict())
            continue
        if name not in weights:
            logger.info("%s holds no %s: it starts from new weights", path, name)
            continue
        drawn = load_except_class_tables(network, weights[name], (classes, state.num_classes), f"the {name} of {path}")
        if drawn:
            more = f" and {len(drawn) - 3} more" if len(drawn) > 3 else ""
            names = ", ".join(sorted(drawn)[:3]) + more
            text = "%s: initialized anew for %d classes instead of %d: %s"
            logger.info(text, name, state.num_classes, classes, names)
    if config.train.optimizer_state == "keep":
        if classes != state.num_classes or not any(f"{name}_optimizer" in weights for name in NETWORKS):
            raise CheckpointError(f"{path} has no optimizer state for these networks: use --train.optimizer-state reset")
        with loading_checkpoint(path):
            for trainer in state.trainers:
                load_optimizer(trainer, weights.get(f"{trainer.name}_optimizer", {}))
                load_regularizers(trainer, weights)
    logger.info("starting from the weights of %s%s", path, "" if step is None else f" at step {step}")
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
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{what} does not fit: {name} is {tensor.dtype} there, {state[name].dtype} here")
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
