"""The training loop: one run from its first step, or its last checkpoint, to its end.

Everything random is addressed by (seed, purpose, step), so that a resumed run makes the very steps that an undisturbed
one would have made. What one step does is in training/step. Durations are counted in generator steps.
"""

import math
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from biggan.checkpoint import (
    CheckpointWriter,
    ModelCard,
    RunFolder,
    Tensors,
)
from biggan.config import RunConfig
from biggan.data import Source
from biggan.distributed import ALONE, World, any_rank, on_first, sums_over_ranks
from biggan.errors import TrainingDiverged
from biggan.sampling import Sampler
from biggan.stats import ProgressLine, Stats, StatsFile
from biggan.training.evaluation import Evaluator
from biggan.training.guard import stop_signals
from biggan.training.state import ROLLBACK_RATE, Progress, Report, build_game, resume, state_of
from biggan.training.step import Game, train_step


def fit(config: RunConfig, source: Source, folder: RunFolder, report: Report, world: World = ALONE) -> int:
    """Train until the last step, the time limit or a signal; returns the step reached. Writes only below `folder`.

    `config` is checked and resolved, `source` is the data that it was resolved with. Resumes from the newest sound
    checkpoint in the folder. Raises TrainingDiverged when a gradient or a mean over a logging interval is not finite, after
    as many returns to the last checkpoint as the config allows; CheckpointError when the disk does not take a checkpoint.
    What was saved before stays. All ranks must call it together.
    """
    rollbacks = None
    while True:
        game, progress = build_game(config, world), None
        try:
            progress = resume(game, config, folder, report, rollbacks)
            return run(game, progress, config, source, folder, report)
        except TrainingDiverged as error:
            rollbacks = progress.rollbacks + 1
            if config.train.on_divergence == "stop" or rollbacks > config.train.max_rollbacks or error.last_good is None:
                raise
            rates = f"learning rates x {ROLLBACK_RATE**rollbacks:g}"
            report(f"{error}; return number {rollbacks} to {error.last_good}, {rates}")


def run(game: Game, progress: Progress, config: RunConfig, source: Source, folder: RunFolder, report: Report) -> int:
    """The loop itself: from `progress` to the end, or to the first sign that the run diverges."""
    train, world = config.train, game.plan.world
    step, limit = progress.step, math.inf if train.minutes is None else 60 * train.minutes
    if step >= train.steps or progress.seconds >= limit:
        report(f"{folder.path} is already at step {step}: give more --train.steps or --train.minutes to go on")
        save_model(sampler_of(game, config), config, folder, step)  # it may have been killed before it wrote it
        return step
    stream = real_images(game, source, step)
    with folder.writing():
        stats, log = Stats(), StatsFile(folder.stats_file, resume_step=step) if world.is_first else None
    line = ProgressLine(config.preset, step=step, steps=train.steps) if world.is_first else None
    evaluator = None
    if config.eval.every is not None:
        evaluator = Evaluator(config, source, folder, game.precision, world, step, report)
    writer = CheckpointWriter(folder, keep=train.keep_checkpoints)
    checkpoint_seconds = math.inf if train.checkpoint_minutes is None else 60 * train.checkpoint_minutes
    started = interval_started = saved = time.monotonic()

    done = False
    try:
        with stop_signals() as stop:
            while not done:
                # One generator step, with its discriminator steps.
                step += 1
                stats.add(train_step(game, step, stream))
                now = time.monotonic()
                seconds = progress.seconds + now - started
                asked, over, overdue = any_rank(bool(stop.name), seconds >= limit, now - saved >= checkpoint_seconds)
                done = asked or over or step == train.steps

                # Log. The device is waited for here and nowhere else but for pictures and checkpoints.
                if done or step % train.log_every == 0:
                    images = stats.count * game.plan.real_images
                    values = stats.flush()
                    refuse_non_finite(game, values, step, folder, writer)
                    now = time.monotonic()
                    values |= sums_over_ranks(source.faults())
                    values |= {"images_per_second": images / (now - interval_started), "seconds": seconds}
                    if world.is_first:
                        with folder.writing():
                            log.write(step, values)
                        line.show(step, values, None if train.minutes is None else limit - seconds)

                # Scores, now and then. The best model is kept, and its checkpoint.
                if evaluator is not None and evaluator.due(step, seconds):
                    overdue = evaluator.run(sampler_of(game, config), card_of(config, step)) or overdue

                # A checkpoint. Nothing non-finite is ever saved. It is written while training goes on.
                if done or overdue or step % train.checkpoint_every == 0:
                    state = state_of(game)
                    refuse_non_finite(game, sums_of(state), step, folder, writer)
                    counters = {"seconds": seconds, "rollbacks": progress.rollbacks}
                    on_first(partial(writer.write, step, state, counters))
                    saved = time.monotonic()

                # A picture, and the model that anyone can sample from: averaged weights, their standing statistics.
                if (done and not asked) or step % train.sample_every == 0:
                    sampler = sampler_of(game, config)
                    sheet = sampler.class_sheet()
                    if world.is_first:
                        with folder.writing():
                            sheet.save(folder.samples / f"step-{step:08d}.png")
                    save_model(sampler, config, folder, step)

                if step % train.log_every == 0:
                    interval_started = time.monotonic()
        on_first(writer.finish)
        if asked:
            report(f"{stop.name or 'a signal'} was received: saved at step {step}; the same command carries on")
    finally:
        if line is not None:
            line.close()
        if writer.thread is not None:
            writer.thread.join()
    return step


def real_images(game: Game, source: Source, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of one micro-batch after the other, from the first that step number `step` + 1 takes."""
    plan = game.plan
    return source.placed_on(game.precision.device).stream(
        plan.micro_batch,
        rank=plan.world.rank,
        world_size=plan.world.size,
        start_image=step * plan.real_images,
        seed=plan.seed,
    )


def sums_of(tensors: Tensors) -> dict[str, float]:
    """The sum of each tensor: finite only if every value is. Waits for the device once."""
    device = next(iter(tensors.values())).device
    sums = torch.stack([tensor.sum(dtype=torch.float64).to(device) for tensor in tensors.values()])
    return dict(zip(tensors, sums.tolist(), strict=True))


def refuse_non_finite(game: Game, values: dict[str, float], step: int, folder: RunFolder, writer: CheckpointWriter) -> None:
    """Raises TrainingDiverged naming the first gradient, or else the first of the values, that is not finite. All ranks hold
    the same gradients and values, and so agree."""
    bad = game.guard.first_bad()
    if bad is None:
        bad = next(((step, name) for name, value in values.items() if not math.isfinite(value)), None)
    if bad is not None:
        on_first(writer.finish)
        checkpoints = folder.list_checkpoints()
        raise TrainingDiverged(step=bad[0], where=bad[1], last_good=checkpoints[-1] if checkpoints else None)


def sampler_of(game: Game, config: RunConfig) -> Sampler:
    """A sampler over the averaged generator, in the precision of the run."""
    return Sampler(
        game.ema.average,
        latent_dim=config.model.z_dim,
        latent=config.latent,
        class_names=config.found.class_names,
        precision=game.precision,
        statistics_passes=config.train.standing_passes,
        world=game.plan.world,
    )


def save_model(sampler: Sampler, config: RunConfig, folder: RunFolder, step: int) -> None:
    """Renew the model folder: averaged weights with standing statistics for untruncated sampling. All ranks must call it."""
    sampler.set_statistics(None)
    if not sampler.world.is_first:
        return
    folder.save_model(card_of(config, step), sampler.generator.state_dict())


def card_of(config: RunConfig, step: int) -> ModelCard:
    """What a model folder says of itself."""
    return ModelCard(
        model=config.model,
        latent=config.latent,
        class_names=config.found.class_names,
        step=step,
        trained_on=config.found.name,
    )
