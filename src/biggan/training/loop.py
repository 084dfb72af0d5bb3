"""The training loop: one run from its first step, or its last checkpoint, to its end.

Everything random is addressed by (seed, purpose, step), so that a resumed run makes the very steps that an undisturbed
one would have made. What one step does is in training/step. Durations are counted in generator steps.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from biggan import models
from biggan.checkpoint import ModelCard, ModelFolder, RunFolder, Tensors, initial_weights, split_by_prefix
from biggan.config import RunConfig
from biggan.data import Source
from biggan.errors import CheckpointError, TrainingDiverged
from biggan.losses import OBJECTIVES
from biggan.precision import choose_precision
from biggan.randomness import addressed_generator
from biggan.sampling import Sampler
from biggan.stats import ProgressLine, Stats, StatsFile
from biggan.training.ema import EMA
from biggan.training.step import Game, Plan, Player, Schedule, train_step

Report = Callable[[str], None]


def fit(config: RunConfig, source: Source, folder: RunFolder, report: Report) -> int:
    """Train until the last step or the time limit; returns the step reached. Writes only below `folder`.

    `config` is checked and resolved, `source` is the data that it was resolved with. Resumes from the newest sound
    checkpoint in the folder. Raises TrainingDiverged when a mean over a logging interval is not finite, CheckpointError
    when the disk does not take a checkpoint; what was saved before stays.
    """
    train = config.train
    game = build_game(config)
    step, seconds_before = resume(game, config, folder, report)
    limit = math.inf if train.minutes is None else 60 * train.minutes
    if step >= train.steps or seconds_before >= limit:
        report(f"{folder.path} is already at step {step}: give more --train.steps or --train.minutes to go on")
        save_model(sampler_of(game, config), config, folder, step)  # it may have been killed before it wrote it
        return step
    stream = source.placed_on(game.precision.device).stream(
        game.plan.real_images, start_image=step * game.plan.real_images, seed=train.seed
    )
    with folder.writing():
        stats, log = Stats(), StatsFile(folder.stats_file, resume_step=step)
    line = ProgressLine(config.preset, step=step, steps=train.steps)
    started = interval_started = time.monotonic()

    done = False
    try:
        while not done:
            # One generator step, with its discriminator steps.
            step += 1
            stats.add(train_step(game, step, *next(stream)))
            seconds = seconds_before + time.monotonic() - started
            done = step == train.steps or seconds >= limit

            # Log. The device is waited for here and nowhere else but for pictures and checkpoints.
            if done or step % train.log_every == 0:
                images = stats.count * game.plan.real_images
                values = stats.flush()
                refuse_non_finite(values, step, folder)
                values["images_per_second"] = images / (time.monotonic() - interval_started)
                values["seconds"] = seconds_before + time.monotonic() - started
                with folder.writing():
                    log.write(step, values)
                line.show(step, values, None if train.minutes is None else limit - seconds)

            # A picture, with the averaged weights and their standing statistics.
            picture_due, checkpoint_due = (
                done or step % every == 0 for every in (train.sample_every, train.checkpoint_every)
            )
            if picture_due or checkpoint_due:
                sampler = sampler_of(game, config)
            if picture_due:
                sheet = sampler.class_sheet()
                with folder.writing():
                    sheet.save(folder.samples / f"step-{step:08d}.png")

            # A checkpoint, and the model that anyone can sample from. Nothing non-finite is ever saved.
            if checkpoint_due:
                state = state_of(game)
                refuse_non_finite(sums_of(state), step, folder)
                seconds = seconds_before + time.monotonic() - started
                folder.save(step, state, {"seconds": seconds}, keep=train.keep_checkpoints)
                save_model(sampler, config, folder, step)

            if step % train.log_every == 0:
                interval_started = time.monotonic()
    finally:
        line.close()
    return step


def build_game(config: RunConfig) -> Game:
    """Networks with weights drawn from the seed, their optimisers, and the average, on the device."""
    train = config.train
    precision = choose_precision(train.device, train.precision, train.memory_format)
    generator, discriminator = models.build(config.model, addressed_generator(train.seed, "initial weights"))
    players = []
    for network, lr, regularizers in (
        (generator, train.generator_lr, config.regularization.for_generator()),
        (discriminator, train.discriminator_lr, config.regularization.for_discriminator()),
    ):
        precision.place(network)
        betas = (float(train.adam_beta1), float(train.adam_beta2))
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=train.adam_epsilon, fused=True)
        players.append(Player(network, optimizer, regularizers, Schedule(lr, train.lr_decay_start, train.steps)))
    return Game(
        generator=players[0],
        discriminator=players[1],
        ema=EMA(generator, decay=train.ema_decay, start=train.ema_start),
        objective=OBJECTIVES[config.objective],
        precision=precision,
        plan=plan_of(config),
        prior=config.latent.prior(),
        latent_dim=config.model.z_dim,
        num_classes=config.model.num_classes,
    )


def plan_of(config: RunConfig) -> Plan:
    """The arithmetic of the batch: batch = micro_batch x accumulation."""
    train = config.train
    micro_batch = train.micro_batch or train.batch
    return Plan(
        batch=train.batch,
        micro_batch=micro_batch,
        accumulation=train.batch // micro_batch,
        discriminator_steps=train.discriminator_steps,
        generator_batches=train.generator_batches,
        seed=train.seed,
    )


def state_of(game: Game) -> Tensors:
    """Every tensor that the next step depends on."""
    tensors = {}
    for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
        tensors |= {f"{name}/{key}": value for key, value in player.network.state_dict().items()}
        names = [key for key, _ in player.network.named_parameters()]
        for index, state in player.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}_optimizer/{names[index]}/{key}": value for key, value in state.items()}
    return tensors | {f"ema/{key}": value for key, value in game.ema.average.state_dict().items()}


def resume(game: Game, config: RunConfig, folder: RunFolder, report: Report) -> tuple[int, float]:
    """Load the newest sound checkpoint, if there is one, into the game; returns its step and training seconds.

    A run without one starts from the weights of `init_from`, if that is given."""
    checkpoint = folder.load_newest(report)
    if checkpoint is None:
        if config.init_from is not None:
            start_from(game, Path(config.init_from), report)
        return 0, 0.0
    parts = split_by_prefix(checkpoint.tensors)
    try:
        game.ema.average.load_state_dict(parts["ema"])
        for name, player in (("generator", game.generator), ("discriminator", game.discriminator)):
            player.network.load_state_dict(parts[name])
            load_optimizer(player, parts[f"{name}_optimizer"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this version of the networks: {error}") from error
    report(f"resuming from step {checkpoint.step} ({checkpoint.path})")
    return checkpoint.step, checkpoint.counters["seconds"]


def start_from(game: Game, path: Path, report: Report) -> None:
    """Load the weights of another model; what depends on the number of classes stays as drawn if that differs.

    Raises CheckpointError where the weights do not fit."""
    weights = initial_weights(path, report)
    classes = ModelFolder(path).card.model.num_classes
    networks = {"generator": game.generator.network, "ema": game.ema.average, "discriminator": game.discriminator.network}
    for name, network in networks.items():
        if name not in weights:
            report(f"{path} holds no {name}: it starts from new weights")
            continue
        drawn = load_but_classes(network, weights[name], (classes, game.num_classes), f"the {name} of {path}")
        if drawn:
            report(f"{name}: drawn anew for {game.num_classes} classes instead of {classes}: {', '.join(drawn)}")
    report(f"starting from the weights of {path}")


def load_but_classes(network: nn.Module, tensors: Tensors, classes: tuple[int, int], what: str) -> list[str]:
    """Load a state whose shapes may differ where they count classes (there, here); returns the names not loaded.

    Mutates the network. Raises CheckpointError on any other difference."""
    state, left = network.state_dict(), []
    if set(state) != set(tensors):
        name = sorted(set(state) ^ set(tensors))[0]
        raise CheckpointError(f"{what} is another network: {name} is only {'here' if name in state else 'there'}")
    for name, tensor in tensors.items():
        here, there = state[name].shape, tensor.shape
        if here == there:
            state[name] = tensor
        elif classes[0] != classes[1] and here == tuple(classes[1] if size == classes[0] else size for size in there):
            left.append(name)
        else:
            raise CheckpointError(f"{what} does not fit: {name} is {tuple(there)} there, {tuple(here)} here")
    network.load_state_dict(state)
    return left


def load_optimizer(player: Player, tensors: Tensors) -> None:
    """Put back the moments that `state_of` flattened."""
    state: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(player.network.named_parameters()):
        # The fused optimiser walks weights and moments side by side in memory: both need the same layout.
        moments = {key: torch.empty_like(parameter).copy_(tensors[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")}
        state[index] = {"step": tensors[f"{name}/step"], **moments}
    whole = player.optimizer.state_dict()
    player.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def sums_of(tensors: Tensors) -> dict[str, float]:
    """The sum of each tensor: finite only if every value is. Waits for the device once."""
    device = next(iter(tensors.values())).device
    sums = torch.stack([tensor.sum(dtype=torch.float64).to(device) for tensor in tensors.values()])
    return dict(zip(tensors, sums.tolist(), strict=True))


def refuse_non_finite(values: dict[str, float], step: int, folder: RunFolder) -> None:
    """Raises TrainingDiverged naming the first value that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            checkpoints = folder.list_checkpoints()
            raise TrainingDiverged(step=step, where=name, last_good=checkpoints[-1] if checkpoints else None)


def sampler_of(game: Game, config: RunConfig) -> Sampler:
    """A sampler over the averaged generator, in the precision of the run."""
    return Sampler(
        game.ema.average,
        latent_dim=config.model.z_dim,
        latent=config.latent,
        class_names=config.found.class_names,
        device=game.precision.device,
        autocast=game.precision.autocast(),
        statistics_passes=config.train.standing_passes,
    )


def save_model(sampler: Sampler, config: RunConfig, folder: RunFolder, step: int) -> None:
    """Renew the model folder: averaged weights with standing statistics for untruncated sampling."""
    sampler.set_statistics(None)
    card = ModelCard(
        model=config.model,
        latent=config.latent,
        class_names=config.found.class_names,
        step=step,
        trained_on=config.found.name,
    )
    folder.save_model(card, sampler.generator.state_dict())
