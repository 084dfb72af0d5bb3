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
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import Tensors, read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.data.labeled_subset import labeled_subset
from biggan.runtime.distributed import SINGLE_PROCESS, World, any_rank, on_rank_zero, sum_counts_over_ranks
from biggan.runtime.errors import TrainingDiverged
from biggan.runtime.metric_logger import JsonlLog, MetricAverager
from biggan.runtime.progress import ProgressLine
from biggan.sampling.sampler import Sampler
from biggan.training.async_checkpoint import AsyncCheckpointWriter
from biggan.training.classifier_test import ClassifierTest
from biggan.training.ema import EMA
from biggan.training.evaluation import Evaluator
from biggan.training.monitor import CollapseDetected, CollapseMonitor
from biggan.training.resume import Report, RunProgress, describe_rollback, flatten_state, resume
from biggan.training.setup import build_train_state, run_data_dependent_init
from biggan.training.signals import stop_signals
from biggan.training.step import train_step
from biggan.training.train_state import TrainState


def fit(
    config: RunConfig,
    source: Source,
    folder: RunDir,
    report: Report,
    world: World = SINGLE_PROCESS,
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
        state = progress = None  # the old networks go before the new ones come
        state = build_train_state(config, world)
        try:
            progress = resume(state, config, folder, report)
            return run(state, progress, config, source, folder, report, trust_extractor)
        except TrainingDiverged as error:
            returns = progress.returns._replace(diverged=progress.returns.diverged + 1)
            may_return = config.train.on_divergence == "roll-back" and returns.diverged <= config.train.max_rollbacks
            if not may_return or error.last_good is None:
                end = {"rule": NOT_FINITE, "step": error.step, "evidence": error.where, "policy": "stop"}
                on_rank_zero(partial(folder.append_alarms, [end]))
                raise
            on_rank_zero(partial(folder.save_rollbacks, returns._asdict()))
            report(f"{error}; return number {returns.diverged} to {error.last_good}, {describe_rollback(config, returns)}")
        except CollapseDetected as error:
            returns = progress.returns._replace(collapsed=progress.returns.collapsed + 1)
            report(f"{error}; return number {returns.collapsed} to {error.healthy}, {describe_rollback(config, returns)}")
            on_rank_zero(partial(folder.roll_back_to, error.healthy, returns._asdict()))


def run(
    state: TrainState,
    progress: RunProgress,
    config: RunConfig,
    source: Source,
    folder: RunDir,
    report: Report,
    trust_extractor: bool,
) -> int:
    """The loop itself: from `progress` to the end, or to the first sign that the run diverges."""
    train, world, step = config.train, state.plan.world, progress.step
    limit, checkpoint_seconds = minutes_to_seconds(train.minutes), minutes_to_seconds(train.checkpoint_minutes)
    if is_finished(state, progress, config, folder, report):
        return step
    labeled = labeled_images(config, source)
    stream = real_images(state, source, step)
    labels = None if labeled is None else real_images(state, labeled, step)
    run_data_dependent_init(state, source, progress.new)
    with folder.writing():
        stats, log = MetricAverager(), JsonlLog(folder.stats_file, resume_step=step) if world.is_rank_zero else None
    line = ProgressLine(config.preset, step=step, steps=train.steps) if world.is_rank_zero else None
    may_return = config.monitor.on_alarm == "roll-back" and progress.returns.collapsed < config.monitor.max_rollbacks
    evaluator = None
    if config.eval.every is not None:
        evaluator = Evaluator(config, source, folder, state.precision, world, step, report, trust_extractor)
    monitor = CollapseMonitor(config, state, source, folder, step, report, evaluator and evaluator.extractor)
    tester = None if config.classify.test_data is None else ClassifierTest(config, state, source, folder, step, report)
    writer = AsyncCheckpointWriter(folder, keep=train.keep_checkpoints, far=config.monitor.on_alarm != "warn")
    started = interval_started = saved = time.monotonic()

    done = stopped = False
    healthy: Path | None = None
    try:
        with stop_signals() as stop:
            while not done:
                # One generator step, with its discriminator steps.
                step += 1
                stats.add(train_step(state, step, stream, labels))
                now = time.monotonic()
                seconds = progress.seconds + now - started
                asked, over, overdue = any_rank(bool(stop.name), seconds >= limit, now - saved >= checkpoint_seconds)
                done = asked or over or step == train.steps
                alarms: list[Alarm] = []

                # Log. The device is waited for here and nowhere else but for pictures and checkpoints.
                if done or step % train.log_every == 0:
                    images = stats.count * state.plan.real_images
                    values = stats.flush()
                    raise_if_non_finite(state, values, step, folder, writer)
                    now = time.monotonic()
                    values |= sum_counts_over_ranks(source.read_errors())
                    values |= {"images_per_second": images / (now - interval_started), "seconds": seconds}
                    if world.is_rank_zero:
                        with folder.writing():
                            log.write(step, values)
                        line.show(step, values, None if train.minutes is None else limit - seconds)
                    alarms += monitor.observe(step, values)

                # Weights and samples, and scores, now and then. The best model is kept, and its checkpoint.
                if monitor.due(step, seconds):
                    alarms += monitor.measure(step)
                if evaluator is not None and (evaluator.due(step, seconds) or (done and not asked)):
                    best, scores = evaluator.run(build_sampler(state, config), build_model_card(config, step))
                    overdue = best or overdue
                    alarms += monitor.observe(step, scores)

                if tester is not None and (tester.due(step) or (done and not asked)):
                    tester.run(step)

                # What the rules have seen, and what is done about it.
                if alarms:
                    on_rank_zero(writer.finish)
                    healthy = on_rank_zero(partial(monitor.healthy_checkpoint, min(alarms, key=lambda alarm: alarm.healthy)))
                if alarms and config.monitor.on_alarm == "stop":
                    stopped = done = True
                if alarms and may_return and healthy is not None:
                    raise CollapseDetected(alarms[0], healthy)

                # A checkpoint. Nothing non-finite is ever saved. It is written while training goes on.
                if done or overdue or step % train.checkpoint_every == 0:
                    state = flatten_state(state)
                    raise_if_non_finite(state, sums_of(state), step, folder, writer)
                    counters = {"seconds": seconds}
                    on_rank_zero(partial(writer.write, step, state, counters))
                    saved = time.monotonic()

                # A picture, and the model that anyone can sample from: averaged weights, their standing statistics.
                if not stopped and ((done and not asked) or step % train.sample_every == 0):
                    sampler = build_sampler(state, config)
                    sheet = sampler.class_sheet()
                    if world.is_rank_zero:
                        with folder.writing():
                            sheet.save(folder.samples / f"step-{step:08d}.png")
                    save_model(sampler, config, folder, step, state.classifier)

                if step % train.log_every == 0:
                    interval_started = time.monotonic()
        on_rank_zero(writer.finish)
        if stopped:
            if on_rank_zero(folder.best) is None and healthy is not None:
                save_healthy_model(state, healthy, config, folder)
            report(f"stopped at step {step}, as --monitor.on-alarm says; {folder.best_model_hint()}")
        if asked:
            report(f"{stop.name or 'a signal'} was received: saved at step {step}; the same command carries on")
    finally:
        if line is not None:
            line.close()
        if writer.thread is not None:
            writer.thread.join()
    return step


def is_finished(state: TrainState, progress: RunProgress, config: RunConfig, folder: RunDir, report: Report) -> bool:
    """Whether the run has come to its end already, which it then says. Renews the model folder: a run may have been killed
    before it wrote it. All ranks must call it together."""
    step, train = progress.step, config.train
    if config.monitor.on_alarm == "stop" and on_rank_zero(folder.last_alarm_step) == step > 0:
        report(
            f"{folder.path} was stopped by an alarm at step {step}: --monitor.on-alarm warn goes on; {folder.best_model_hint()}"
        )
        return True
    if step < train.steps and progress.seconds < minutes_to_seconds(train.minutes):
        return False
    report(f"{folder.path} is already at step {step}: give more --train.steps or --train.minutes to go on")
    save_model(build_sampler(state, config), config, folder, step, state.classifier)
    return True


def minutes_to_seconds(minutes: float | None) -> float:
    """A limit in seconds; None: none."""
    return math.inf if minutes is None else 60 * minutes


def labeled_images(config: RunConfig, source: Source) -> Source | None:
    """The images whose classes D may learn; None: all, or it learns none."""
    if config.data.labels_per_class is None:
        return None
    return labeled_subset(source, config.data.labels_per_class, config.data.label_seed)


def real_images(state: TrainState, source: Source, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of one micro-batch after the other, from the first that step number `step` + 1 takes."""
    plan = state.plan
    return source.to(state.precision.device).stream(
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


def raise_if_non_finite(
    state: TrainState, values: dict[str, float], step: int, folder: RunDir, writer: AsyncCheckpointWriter
) -> None:
    """Raises TrainingDiverged naming the first gradient, or else the first of the values, that is not finite. All ranks hold
    the same gradients and values, and so agree."""
    bad = state.guard.first_bad()
    if bad is None:
        bad = next(((step, name) for name, value in values.items() if not math.isfinite(value)), None)
    if bad is not None:
        on_rank_zero(writer.finish)
        checkpoints = folder.list_checkpoints()
        raise TrainingDiverged(step=bad[0], where=bad[1], last_good=checkpoints[-1] if checkpoints else None)


def build_sampler(state: TrainState, config: RunConfig) -> Sampler:
    """A sampler over the averaged generator, in the precision of the run."""
    return Sampler(
        state.ema.average,
        latent_dim=config.model.z_dim,
        latent=config.latent,
        class_names=config.dataset.class_names,
        precision=state.precision,
        statistics_passes=config.train.standing_stats_batches,
        world=state.plan.world,
    )


def save_model(sampler: Sampler, config: RunConfig, folder: RunDir, step: int, classifier: EMA | None = None) -> None:
    """Renew the model folder: averaged weights with standing statistics for untruncated sampling, and the averaged
    discriminator where there is one. All ranks must call it."""
    sampler.set_statistics(None)
    if not sampler.world.is_rank_zero:
        return
    parts = {"generator": sampler.generator.state_dict()}
    if classifier is not None:
        parts["classifier"] = classifier.average.state_dict()
    folder.save_model(build_model_card(config, step), parts)


def save_healthy_model(state: TrainState, checkpoint: Path, config: RunConfig, folder: RunDir) -> None:
    """Make the average of an earlier checkpoint the model of the run, where no scores say which is the best. Mutates the
    average. All ranks must call it."""
    saved = read_checkpoint(checkpoint)
    state.ema.average.load_state_dict(split_by_prefix(saved.tensors)["ema"])
    save_model(build_sampler(state, config), config, folder, saved.step)


def build_model_card(config: RunConfig, step: int) -> ModelCard:
    """What a model folder says of itself."""
    return ModelCard(
        model=config.model,
        latent=config.latent,
        class_names=config.dataset.class_names,
        step=step,
        trained_on=config.dataset.name,
    )
