"""The training loop: one run from its first step, or its last checkpoint, to its end.

Everything random is addressed by (seed, purpose, step), so that a resumed run makes the very steps that an undisturbed one
would have made. What one step computes is in training/step, what happens every so often in training/hooks and its neighbors.
Durations are counted in generator steps.
"""

import gc
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch

from biggan.analysis.collapse_rules import NOT_FINITE
from biggan.checkpoints.run_dir import RunDir, checkpoint_step
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.data.labeled_subset import labeled_subset
from biggan.runtime.distributed import max_over_ranks, on_rank_zero
from biggan.runtime.environment import SINGLE_PROCESS, World
from biggan.runtime.errors import TrainingDiverged
from biggan.runtime.precision import apply_numerics
from biggan.training.async_checkpoint import AsyncCheckpointWriter
from biggan.training.classifier_test import ClassifierTest
from biggan.training.evaluation import Evaluator
from biggan.training.guard import raise_if_non_finite
from biggan.training.hooks import CheckpointHook, Hook, RunEnd, SampleSheetHook, minutes_to_seconds
from biggan.training.monitor import AlarmPolicy, CollapseDetected, CollapseMonitor
from biggan.training.out_of_memory import reporting_out_of_memory
from biggan.training.outputs import build_sampler, save_model
from biggan.training.profile_hook import ProfileHook
from biggan.training.resume import RunProgress, resume
from biggan.training.rollbacks import Rollbacks
from biggan.training.run_log import RunLog, TimedBatches
from biggan.training.setup import build_train_state, run_data_dependent_init
from biggan.training.signals import StopRequest, stop_signals
from biggan.training.step import train_step
from biggan.training.step_inputs import Batch
from biggan.training.train_state import TrainState

logger = logging.getLogger(__name__)


def fit(
    config: RunConfig,
    source: Source,
    run_dir: RunDir,
    world: World = SINGLE_PROCESS,
    *,
    trust_extractor: bool = False,
) -> int:
    """Train until the last step, the time limit or a signal; returns the step reached. Writes only below `run_dir`. Ctrl-C
    (SIGINT) raises KeyboardInterrupt, after the step is finished and saved; a second one ends the process at once.

    `config` is checked and resolved, `source` is the data that it was resolved with. Resumes from the newest sound
    checkpoint of the run. Raises TrainingDiverged when a gradient or a mean over a logging interval is not finite, after
    as many rollbacks to the last checkpoint as the config allows; CheckpointError when the disk does not take a
    checkpoint. What was saved before stays. An alarm (training/monitor) may end the run too, or roll it back to a healthy
    checkpoint. `trust_extractor`: the code in an extractor module:FILE may be run. All ranks must call it together."""
    apply_numerics(config.train.numerics)
    while True:
        rollbacks = Rollbacks(**on_rank_zero(run_dir.load_rollbacks))
        state = None
        free_memory()  # of the old networks, before the new ones are built
        with reporting_out_of_memory(config, run_dir, world, "while the networks are made"):
            state = build_train_state(config, world, rollbacks)
        try:
            with reporting_out_of_memory(config, run_dir, world, "in training"):
                progress = resume(state, config, run_dir, rollbacks)
                return train(state, progress, config, source, run_dir, trust_extractor)
        except TrainingDiverged as error:
            rollbacks = rollbacks._replace(diverged=rollbacks.diverged + 1)
            may_roll_back = config.train.on_divergence == "roll-back" and rollbacks.diverged <= config.train.max_rollbacks
            if not may_roll_back or error.last_good is None:
                alarm = {"rule": NOT_FINITE, "step": error.step, "evidence": error.quantity, "policy": "stop"}
                on_rank_zero(partial(run_dir.append_alarms, [alarm]))
                raise
            on_rank_zero(partial(run_dir.save_rollbacks, rollbacks._asdict()))
            why = rollbacks.describe(config)
            logger.warning("%s; rollback %d to %s, %s", error, rollbacks.diverged, error.last_good, why)
        except CollapseDetected as error:
            rollbacks = rollbacks._replace(collapsed=rollbacks.collapsed + 1)
            why = rollbacks.describe(config)
            logger.warning("%s; rollback %d to %s, %s", error, rollbacks.collapsed, error.healthy, why)
            on_rank_zero(partial(run_dir.roll_back_to, error.healthy, rollbacks._asdict()))


def free_memory() -> None:
    """Of what nobody refers to any more: networks are in reference cycles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def train(
    state: TrainState,
    progress: RunProgress,
    config: RunConfig,
    source: Source,
    run_dir: RunDir,
    trust_extractor: bool,
) -> int:
    """The loop itself: from `progress` to the end of the run, or to the first sign that it diverges."""
    step, log_every = progress.step, config.train.log_every
    if is_finished(state, progress, config, run_dir):
        return step
    real_batches, labeled_batches = streams = open_streams(state, config, source, step)
    run_data_dependent_init(state, source, progress.new_networks)
    writer = AsyncCheckpointWriter(
        run_dir, keep=config.train.keep_checkpoints, keep_history=config.monitor.on_alarm != "warn"
    )
    stop = StopRequest()
    hooks = build_hooks(state, progress, config, source, run_dir, writer, trust_extractor, stop)
    log = RunLog(config, state, source, run_dir, step, [stream for stream in streams if stream is not None])
    clock, end = Clock(progress.seconds, config), None
    try:
        with stop_signals(stop):
            while end is None:
                # Step: one generator step, with its discriminator steps.
                step += 1
                log.add(train_step(state, step, real_batches, labeled_batches))
                seconds, end = clock.check_end(step, stop)

                # Log. The host waits for the device here and in the hooks, nowhere else.
                if end or step % log_every == 0:
                    metrics = log.mean()
                    raise_if_non_finite(state.guard, metrics, step, writer)
                    log.write(step, metrics, seconds, clock.limit - seconds)
                    hooks.monitor.observe(step, metrics)

                # Hooks: profile, monitor, evaluator, classifier test, alarm policy, checkpoints, sample sheets.
                for hook in hooks.in_order():
                    if is_due(hook, step, seconds, end):
                        result = hook.run(step)
                        hooks.monitor.observe(step, result.metrics)

                        # Decide: a checkpoint on request, and whether an alarm ends the run.
                        hooks.checkpoints.requested |= result.save_checkpoint
                        end = "alarm" if result.stop else end
                if end or step % log_every == 0:
                    log.restart_interval()
                if end == "completed":  # but a signal may have come in the last hooks, which then gave up
                    _, end = clock.check_end(step, stop)
            on_rank_zero(writer.finish)
            log_end(end, stop, step, config, state, run_dir, hooks.policy)
    finally:
        log.close()
        hooks.close()
        writer.join()
    if end == "signal" and stop.interrupted:
        max_over_ranks(0.0)  # no rank leaves before the others are here
        raise KeyboardInterrupt
    return step


class Hooks(NamedTuple):
    """The hooks of a run in the order in which they run; None: the run has none of that kind."""

    profile: ProfileHook | None
    monitor: CollapseMonitor
    evaluator: Evaluator | None
    classifier_test: ClassifierTest | None
    policy: AlarmPolicy
    checkpoints: CheckpointHook
    sheets: SampleSheetHook

    def in_order(self) -> list[Hook]:
        """Those that there are."""
        return [hook for hook in self if hook is not None]

    def close(self) -> None:
        """End what a hook has left open."""
        if self.profile is not None:
            self.profile.close()


def build_hooks(
    state: TrainState,
    progress: RunProgress,
    config: RunConfig,
    source: Source,
    run_dir: RunDir,
    writer: AsyncCheckpointWriter,
    trust_extractor: bool,
    stop: StopRequest,
) -> Hooks:
    """Every hook from its part of the config. Raises UserError where one cannot do its work: no extractor, other classes."""
    step = progress.step
    evaluator = None
    if config.eval.every is not None:
        evaluator = Evaluator(config, state, source, run_dir, step, trust_extractor, stop)
    monitor = CollapseMonitor(config, state, source, run_dir, step, evaluator and evaluator.extractor)
    test = None if config.classify.test_data is None else ClassifierTest(config, state, source, run_dir, step, stop)
    steps = config.train.profile
    return Hooks(
        profile=None if steps is None else ProfileHook(steps, state, run_dir, step),
        monitor=monitor,
        evaluator=evaluator,
        classifier_test=test,
        policy=AlarmPolicy(config.monitor, monitor, writer, progress.rollbacks.collapsed),
        checkpoints=CheckpointHook(config, state, writer, progress.seconds),
        sheets=SampleSheetHook(config, state, run_dir),
    )


def is_due(hook: Hook, step: int, seconds: float, end: RunEnd | None) -> bool:
    """Whether a hook runs now. An alarm that ends the run leaves only what is done at that end."""
    if end == "alarm":
        return "alarm" in hook.at_end
    return hook.due(step, seconds) or end in hook.at_end


class Clock:
    """Seconds of training over all starts of a run, agreed on by all ranks, and the end that they lead to."""

    def __init__(self, seconds_before: float, config: RunConfig) -> None:
        self.limit, self.steps = minutes_to_seconds(config.train.minutes), config.train.steps
        self.started = time.monotonic() - seconds_before

    def check_end(self, step: int, stop: StopRequest) -> tuple[float, RunEnd | None]:
        """The seconds, and why the run ends with this step, if it does. All ranks must call it together."""
        asked = 2.0 if stop.interrupted else float(stop.is_set())
        seconds, stopped = max_over_ranks(time.monotonic() - self.started, asked)
        if stopped:
            stop.interrupted = stopped == 2
            return seconds, "signal"
        return seconds, "completed" if step == self.steps or seconds >= self.limit else None


def is_finished(state: TrainState, progress: RunProgress, config: RunConfig, run_dir: RunDir) -> bool:
    """Whether the run has come to its end already, which is then logged. Renews the model directory: a run may have been
    killed before it wrote it. All ranks must call it together."""
    step, train = progress.step, config.train
    if config.monitor.on_alarm == "stop" and on_rank_zero(run_dir.last_alarm_step) == step > 0:
        hint = run_dir.best_model_hint()
        logger.info("%s was stopped by an alarm at step %d: --monitor.on-alarm warn goes on; %s", run_dir.path, step, hint)
        return True
    if step < train.steps and progress.seconds < minutes_to_seconds(train.minutes):
        return False
    logger.info("%s is already at step %d: give more --train.steps or --train.minutes to go on", run_dir.path, step)
    save_model(build_sampler(state, config), config, run_dir, step, state.discriminator_ema)
    return True


def log_end(
    end: RunEnd,
    stop: StopRequest,
    step: int,
    config: RunConfig,
    state: TrainState,
    run_dir: RunDir,
    policy: AlarmPolicy,
) -> None:
    """Log what an alarm or a signal has led to; after an alarm the model of the run is a healthy one."""
    if end == "alarm":
        policy.keep_healthy_model(state, config, run_dir)
        logger.info("stopped at step %d, as --monitor.on-alarm says; %s", step, run_dir.best_model_hint())
    elif end == "signal":
        logger.info("%s was received: %s", stop.name or "a signal", on_rank_zero(partial(describe_save, run_dir, step)))


def describe_save(run_dir: RunDir, step: int) -> str:
    """What there is to go on from after a stop at `step`, as the folder is now."""
    if step in map(checkpoint_step, run_dir.list_checkpoints()):
        return f"saved at step {step}; run the same command again to resume"
    hint = run_dir.resume_hint()
    return f"stopped at step {step}, whose checkpoint is no longer in {run_dir.path}; run the same command again: {hint}"


def open_streams(
    state: TrainState, config: RunConfig, source: Source, step: int
) -> tuple[TimedBatches, TimedBatches | None]:
    """This rank's micro-batches from the first that step number `step` + 1 takes: of all real images, and of those whose
    classes D may learn (None: all, or it learns none)."""
    real_batches = TimedBatches(stream_batches(state, source, step))
    if config.data.labels_per_class is None:
        return real_batches, None
    labeled = labeled_subset(source, config.data.labels_per_class, config.data.label_seed)
    return real_batches, TimedBatches(stream_batches(state, labeled, step))


def stream_batches(state: TrainState, source: Source, step: int) -> Iterator[Batch]:
    """This rank's share of one micro-batch after the other: uint8 (N, 3, R, R) and classes (N,)."""
    plan = state.plan
    return source.to(state.precision.device).stream(
        plan.micro_batch,
        rank=plan.world.rank,
        world_size=plan.world.size,
        start_image=step * plan.real_images,
        seed=plan.seed,
    )
