"""The training loop: one run from its first step, or its last checkpoint, to its end.

Everything random is addressed by (seed, purpose, step), so that a resumed run makes the very steps that an undisturbed
one would have made. What one step does is in training/step. Durations are counted in generator steps.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from biggan.analysis.collapse_rules import NOT_FINITE, Alarm
from biggan.checkpoints.model_dir import ModelCard
from biggan.checkpoints.run_dir import RunFolder
from biggan.checkpoints.tensors import Tensors, read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.data.labeled_subset import labelled_part
from biggan.runtime.distributed import ALONE, World, any_rank, on_first, sums_over_ranks
from biggan.runtime.errors import TrainingDiverged
from biggan.runtime.metric_logger import Stats, StatsFile
from biggan.runtime.progress import ProgressLine
from biggan.sampling.sampler import Sampler
from biggan.training.async_checkpoint import CheckpointWriter
from biggan.training.classifier_test import Tester
from biggan.training.ema import EMA
from biggan.training.evaluation import Evaluator
from biggan.training.monitor import Collapsing, Watch
from biggan.training.resume import Progress, Report, remedies, resume, state_of
from biggan.training.setup import begin_from_data, build_game
from biggan.training.signals import stop_signals
from biggan.training.step import train_step
from biggan.training.train_state import Game


def fit(
    config: RunConfig,
    source: Source,
    folder: RunFolder,
    report: Report,
    world: World = ALONE,
    *,
    trust_extractor: bool = False,
) -> int:
    """Train until the last step, the time limit or a signal; returns the step reached. Writes only below `folder`.

    `config` is checked and resolved, `source` is the data that it was resolved with. Resumes from the newest sound
    checkpoint in the folder. Raises TrainingDiverged when a gradient or a mean over a logging interval is not finite, after
    as many returns to the last checkpoint as the config allows; CheckpointError when the disk does not take a checkpoint.
    What was saved before stays. An alarm (see watch) may end the run too, or make it return to a healthy checkpoint.
    `trust_extractor`: the code in an extractor module:FILE may be run. All ranks must call it together.
    """
    while True:
        game = progress = None  # the old networks go before the new ones come
        game = build_game(config, world)
        try:
            progress = resume(game, config, folder, report)
            return run(game, progress, config, source, folder, report, trust_extractor)
        except TrainingDiverged as error:
            returns = progress.returns._replace(diverged=progress.returns.diverged + 1)
            may_return = config.train.on_divergence == "roll-back" and returns.diverged <= config.train.max_rollbacks
            if not may_return or error.last_good is None:
                end = {"rule": NOT_FINITE, "step": error.step, "evidence": error.where, "policy": "stop"}
                on_first(partial(folder.note_alarms, [end]))
                raise
            on_first(partial(folder.note_returns, returns._asdict()))
            report(f"{error}; return number {returns.diverged} to {error.last_good}, {remedies(config, returns)}")
        except Collapsing as error:
            returns = progress.returns._replace(collapsed=progress.returns.collapsed + 1)
            report(f"{error}; return number {returns.collapsed} to {error.healthy}, {remedies(config, returns)}")
            on_first(partial(folder.return_to, error.healthy, returns._asdict()))


def run(
    game: Game,
    progress: Progress,
    config: RunConfig,
    source: Source,
    folder: RunFolder,
    report: Report,
    trust_extractor: bool,
) -> int:
    """The loop itself: from `progress` to the end, or to the first sign that the run diverges."""
    train, world, step = config.train, game.plan.world, progress.step
    limit, checkpoint_seconds = seconds_of(train.minutes), seconds_of(train.checkpoint_minutes)
    if is_over(game, progress, config, folder, report):
        return step
    labelled = labelled_images(config, source)
    stream = real_images(game, source, step)
    labels = None if labelled is None else real_images(game, labelled, step)
    begin_from_data(game, source, progress.new)
    with folder.writing():
        stats, log = Stats(), StatsFile(folder.stats_file, resume_step=step) if world.is_first else None
    line = ProgressLine(config.preset, step=step, steps=train.steps) if world.is_first else None
    may_return = config.watch.on_alarm == "roll-back" and progress.returns.collapsed < config.watch.max_rollbacks
    evaluator = None
    if config.eval.every is not None:
        evaluator = Evaluator(config, source, folder, game.precision, world, step, report, trust_extractor)
    watch = Watch(config, game, source, folder, step, report, evaluator and evaluator.extractor)
    tester = None if config.classify.test is None else Tester(config, game, source, folder, step, report)
    writer = CheckpointWriter(folder, keep=train.keep_checkpoints, far=config.watch.on_alarm != "warn")
    started = interval_started = saved = time.monotonic()

    done = stopped = False
    healthy: Path | None = None
    try:
        with stop_signals() as stop:
            while not done:
                # One generator step, with its discriminator steps.
                step += 1
                stats.add(train_step(game, step, stream, labels))
                now = time.monotonic()
                seconds = progress.seconds + now - started
                asked, over, overdue = any_rank(bool(stop.name), seconds >= limit, now - saved >= checkpoint_seconds)
                done = asked or over or step == train.steps
                alarms: list[Alarm] = []

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
                    alarms += watch.see(step, values)

                # Weights and samples, and scores, now and then. The best model is kept, and its checkpoint.
                if watch.due(step, seconds):
                    alarms += watch.measure(step)
                if evaluator is not None and (evaluator.due(step, seconds) or (done and not asked)):
                    best, scores = evaluator.run(sampler_of(game, config), card_of(config, step))
                    overdue = best or overdue
                    alarms += watch.see(step, scores)

                if tester is not None and (tester.due(step) or (done and not asked)):
                    tester.run(step)

                # What the rules have seen, and what is done about it.
                if alarms:
                    on_first(writer.finish)
                    healthy = on_first(partial(watch.healthy_checkpoint, min(alarms, key=lambda alarm: alarm.healthy)))
                if alarms and config.watch.on_alarm == "stop":
                    stopped = done = True
                if alarms and may_return and healthy is not None:
                    raise Collapsing(alarms[0], healthy)

                # A checkpoint. Nothing non-finite is ever saved. It is written while training goes on.
                if done or overdue or step % train.checkpoint_every == 0:
                    state = state_of(game)
                    refuse_non_finite(game, sums_of(state), step, folder, writer)
                    counters = {"seconds": seconds}
                    on_first(partial(writer.write, step, state, counters))
                    saved = time.monotonic()

                # A picture, and the model that anyone can sample from: averaged weights, their standing statistics.
                if not stopped and ((done and not asked) or step % train.sample_every == 0):
                    sampler = sampler_of(game, config)
                    sheet = sampler.class_sheet()
                    if world.is_first:
                        with folder.writing():
                            sheet.save(folder.samples / f"step-{step:08d}.png")
                    save_model(sampler, config, folder, step, game.classifier)

                if step % train.log_every == 0:
                    interval_started = time.monotonic()
        on_first(writer.finish)
        if stopped:
            if on_first(folder.best) is None and healthy is not None:
                save_healthy(game, healthy, config, folder)
            report(f"stopped at step {step}, as --watch.on-alarm says; {folder.advice()}")
        if asked:
            report(f"{stop.name or 'a signal'} was received: saved at step {step}; the same command carries on")
    finally:
        if line is not None:
            line.close()
        if writer.thread is not None:
            writer.thread.join()
    return step


def is_over(game: Game, progress: Progress, config: RunConfig, folder: RunFolder, report: Report) -> bool:
    """Whether the run has come to its end already, which it then says. Renews the model folder: a run may have been killed
    before it wrote it. All ranks must call it together."""
    step, train = progress.step, config.train
    if config.watch.on_alarm == "stop" and on_first(folder.alarmed_at) == step > 0:
        report(f"{folder.path} was stopped by an alarm at step {step}: --watch.on-alarm warn goes on; {folder.advice()}")
        return True
    if step < train.steps and progress.seconds < seconds_of(train.minutes):
        return False
    report(f"{folder.path} is already at step {step}: give more --train.steps or --train.minutes to go on")
    save_model(sampler_of(game, config), config, folder, step, game.classifier)
    return True


def seconds_of(minutes: float | None) -> float:
    """A limit in seconds; None: none."""
    return math.inf if minutes is None else 60 * minutes


def labelled_images(config: RunConfig, source: Source) -> Source | None:
    """The images whose classes D may learn; None: all, or it learns none."""
    if config.data.labels_per_class is None:
        return None
    return labelled_part(source, config.data.labels_per_class, config.data.labels_seed)


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


def save_model(sampler: Sampler, config: RunConfig, folder: RunFolder, step: int, classifier: EMA | None = None) -> None:
    """Renew the model folder: averaged weights with standing statistics for untruncated sampling, and the averaged
    discriminator where there is one. All ranks must call it."""
    sampler.set_statistics(None)
    if not sampler.world.is_first:
        return
    parts = {"generator": sampler.generator.state_dict()}
    if classifier is not None:
        parts["classifier"] = classifier.average.state_dict()
    folder.save_model(card_of(config, step), parts)


def save_healthy(game: Game, checkpoint: Path, config: RunConfig, folder: RunFolder) -> None:
    """Make the average of an earlier checkpoint the model of the run, where no scores say which is the best. Mutates the
    average. All ranks must call it."""
    saved = read_checkpoint(checkpoint)
    game.ema.average.load_state_dict(split_by_prefix(saved.tensors)["ema"])
    save_model(sampler_of(game, config), config, folder, saved.step)


def card_of(config: RunConfig, step: int) -> ModelCard:
    """What a model folder says of itself."""
    return ModelCard(
        model=config.model,
        latent=config.latent,
        class_names=config.found.class_names,
        step=step,
        trained_on=config.found.name,
    )
