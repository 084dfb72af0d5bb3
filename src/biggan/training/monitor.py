"""Monitoring a run for collapse: weights and samples measured every so often into RUN/monitor.jsonl, the rules of
analysis/collapse_rules over all logs of the run, alarms into RUN/alarms.jsonl, and the policy that acts on them.

It never changes what the steps compute, until the policy says so. Measuring takes at most a given fraction of the time; the
first measurement is made in any case. Shapes: N batch, Z latent, R resolution.
"""

import logging
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.analysis.collapse_rules import Alarm, CollapseDetector, Line
from biggan.analysis.spectra import SpectrumTracker, class_embedding_norms, optimizer_moments, sample_diversity
from biggan.checkpoints.init_from import parse_init_from
from biggan.checkpoints.run_dir import RunDir, checkpoint_step, read_run_logs
from biggan.configs.monitor import MonitorConfig
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source, open_data
from biggan.metrics.features import Extractor
from biggan.nn.noise import disable_noise
from biggan.nn.spectral_norm import freeze_power_iteration
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import BigganError, DataError
from biggan.runtime.metric_logger import JsonlLog
from biggan.runtime.precision import to_device, uint8_to_float
from biggan.runtime.rng import addressed_rng
from biggan.sampling.image_io import to_uint8
from biggan.training.async_checkpoint import AsyncCheckpointWriter
from biggan.training.hooks import HookResult, RunEnd
from biggan.training.outputs import save_healthy_model
from biggan.training.train_state import TrainState

CLASSES, PER_CLASS = 8, 8  # of the fixed batch of samples
REAL_IMAGES = 256  # of each set, to see whether D tells images it was trained on from others

logger = logging.getLogger(__name__)


class CollapseDetected(BigganError):
    """A run with the policy to roll back has raised an alarm; it returns to the checkpoint `healthy`."""

    def __init__(self, alarm: Alarm, healthy: Path) -> None:
        super().__init__(f"step {alarm.step}: {alarm.rule} ({alarm.evidence})")
        self.alarm, self.healthy = alarm, healthy


class FixedBatch(NamedTuple):
    """What is measured again and again: latents (N, Z) and classes (N,), real images that the run is trained on ("train")
    and held-out ones ("held_out")."""

    z_NZ: Tensor
    y_N: Tensor
    real: dict[str, tuple[Tensor, Tensor]]


class CollapseMonitor:
    """The hook that measures weights and samples, and the rules' view of every number of the run. `alarms` are those raised
    and not yet acted on. All ranks must call its methods together."""

    at_end: frozenset[RunEnd] = frozenset()

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        source: Source,
        run_dir: RunDir,
        step: int,
        classifier: Extractor | None,
    ) -> None:
        """`classifier`: classifies the fixed batch of samples, to measure conditional accuracy; not used if it has another
        number of classes. Raises DataError if the held-out images cannot be read or are of other classes."""
        self.config, self.run_dir, self.is_rank_zero = config.monitor, run_dir, state.plan.world.is_rank_zero
        self.classifier, self.state = classifier, state
        self.spectra = SpectrumTracker(config.monitor.singular_values)
        self.detector = CollapseDetector(config.monitor)
        self.alarms: list[Alarm] = []
        self.log = None
        if self.is_rank_zero:
            with run_dir.writing():
                self.log = JsonlLog(run_dir.path / "monitor.jsonl", resume_step=step)
        past = [line for line in read_run_logs(run_dir.path) if line["step"] <= step] if self.is_rank_zero else []
        before, self.offset = read_initial_run_log(config) if self.is_rank_zero else ([], 0)
        for line in before + [line | {"step": line["step"] + self.offset} for line in past]:
            self.detector.observe(line)
        self.spent = sum(line.get("monitor_seconds", 0.0) for line in past)
        self.pending = False
        self.fixed = None if self.config.every is None else build_fixed_batch(config, state, source)

    def due(self, step: int, seconds: float) -> bool:
        if self.fixed is None:
            return False
        self.pending = self.pending or step % self.config.every == 0
        return self.pending and on_rank_zero(lambda: self.spent <= self.config.max_time_fraction * seconds)

    def run(self, step: int) -> HookResult:
        """Weights, gradients, optimizer moments, samples and D's accuracies, logged."""
        started, self.pending = time.monotonic(), False
        state = self.state
        networks = {trainer.name: trainer.network for trainer in state.trainers}
        values: Line = self.spectra.measure(networks)
        for trainer in state.trainers:
            values |= optimizer_moments(trainer.name, trainer.network, trainer.optimizer)
            norms = state.guard.gradient_norms(trainer.name)
            values |= {f"grad_norm/{trainer.name}/{name}": value for name, value in norms.items()}
        values |= class_embedding_norms(networks)
        samples = self.draw_fixed_batch()
        values |= sample_diversity(samples.float().cpu(), PER_CLASS) | self.conditional_accuracy(samples)
        if state.objective.decision_boundary is not None:
            values |= {f"D/acc_{name}": self.accuracy_on_real(*batch) for name, batch in self.fixed.real.items()}
        seconds = time.monotonic() - started
        self.spent += seconds
        values["monitor_seconds"] = seconds
        if self.log is not None:
            with self.run_dir.writing():
                self.log.write(step, values)
        return HookResult(metrics=values)

    @torch.no_grad()
    def draw_fixed_batch(self) -> Tensor:
        """The fixed batch (N, 3, R, R) as the generator now draws it, with the batch statistics of this very batch."""
        network = self.state.generator.network
        with freeze_power_iteration(network), self.state.precision.autocast():
            return network(self.fixed.z_NZ, self.fixed.y_N)

    def conditional_accuracy(self, samples: Tensor) -> dict[str, float]:
        """The share of the fixed batch that the classifier names as the class asked for, where it knows these classes and
        the generator is conditional on them."""
        has_classes = self.state.generator.network.config.has_class_input
        classifier = self.classifier if has_classes else None
        logits = None if classifier is None else classifier.outputs(to_uint8(samples)).cpu().logits
        if logits is None or logits.shape[1] != self.state.num_classes or not logits.isfinite().all():
            return {}
        return {"conditional_accuracy": (logits.argmax(1) == self.fixed.y_N.cpu()).float().mean().item()}

    @torch.no_grad()
    def accuracy_on_real(self, images: Tensor, y_N: Tensor) -> float:
        """The fraction of real uint8 images (N, 3, R, R) that D classifies as real, without noise or dropout; batch
        statistics, if it has any, are those of these images."""
        device, network = self.state.precision.device, self.state.discriminator.network
        x = uint8_to_float(to_device(images, device), self.state.precision.memory_format)  # (N, 3, R, R)
        with disable_noise(network), freeze_power_iteration(network), self.state.precision.autocast():
            logits_N = network(x, to_device(y_N, device)).logits
        return self.state.objective.classified_as_real(logits_N).float().mean().item()

    def observe(self, step: int, metrics: Line | None) -> None:
        """Show the rules these numbers of a step; alarms are written down, logged and added to `alarms`, on every rank."""
        if metrics:
            self.alarms += on_rank_zero(lambda: self.apply_rules(step, metrics))

    def apply_rules(self, step: int, metrics: Line) -> list[Alarm]:
        """What rank 0, which has the log, does with them."""
        found = self.detector.observe({"step": step + self.offset} | metrics)
        alarms = [alarm._replace(step=step, healthy=alarm.healthy - self.offset) for alarm in found]
        for alarm in alarms:
            checkpoint = self.healthy_checkpoint(alarm)
            kept = checkpoint or "no checkpoint from then (--monitor.on-alarm stop or roll-back keeps some)"
            text = "alarm at step %d: %s (%s); healthy until step %d, %s"
            logger.warning(text, step, alarm.rule, alarm.evidence, alarm.healthy, kept)
            outcome = {"policy": self.config.on_alarm, "checkpoint": checkpoint and str(checkpoint)}
            self.run_dir.append_alarms([alarm._asdict() | outcome])
        return alarms

    def healthy_checkpoint(self, alarm: Alarm) -> Path | None:
        """The newest checkpoint from before what the alarm is about began; None where there is none."""
        before = [path for path in self.run_dir.list_checkpoints() if checkpoint_step(path) <= alarm.healthy]
        return before[-1] if before else None


class AlarmPolicy:
    """The hook that acts on alarms: warn, stop the run, or roll it back to the last healthy checkpoint, `max_rollbacks`
    times."""

    at_end: frozenset[RunEnd] = frozenset()

    def __init__(
        self, config: MonitorConfig, monitor: CollapseMonitor, writer: AsyncCheckpointWriter, rollbacks: int
    ) -> None:
        self.policy, self.monitor, self.writer = config.on_alarm, monitor, writer
        self.may_roll_back = config.on_alarm == "roll-back" and rollbacks < config.max_rollbacks
        self.healthy: Path | None = None

    def due(self, step: int, seconds: float) -> bool:
        return bool(self.monitor.alarms)

    def run(self, step: int) -> HookResult:
        """Raises CollapseDetected where the run is to roll back."""
        alarms, self.monitor.alarms = self.monitor.alarms, []
        on_rank_zero(self.writer.finish)
        first = min(alarms, key=lambda alarm: alarm.healthy)
        self.healthy = on_rank_zero(partial(self.monitor.healthy_checkpoint, first))
        if self.may_roll_back and self.healthy is not None:
            raise CollapseDetected(alarms[0], self.healthy)
        return HookResult(stop=self.policy == "stop")

    def keep_healthy_model(self, state: TrainState, config: RunConfig, run_dir: RunDir) -> None:
        """After a stop, where no scores say which model is the best: the last healthy checkpoint's becomes RUN/model."""
        if on_rank_zero(run_dir.best) is None and self.healthy is not None:
            save_healthy_model(state, self.healthy, config, run_dir)


def build_fixed_batch(config: RunConfig, state: TrainState, source: Source) -> FixedBatch:
    """Eight latents for each of up to eight classes, evenly chosen; the first real images of each set. Raises DataError
    where the held-out images cannot be read or are of other classes."""
    rng = addressed_rng(config.train.seed, "watched samples")
    count = min(CLASSES, state.num_classes)
    classes = torch.arange(count) * state.num_classes // count
    y_N = classes.repeat_interleave(PER_CLASS)
    z_NZ = state.prior.draw((len(y_N), state.latent_dim), rng)
    real, spec = {}, config.monitor.held_out
    if spec is not None:
        held_out = open_data(config.data, config.model.resolution, spec, filters=None, flip=False)
        if held_out.class_names != source.class_names:
            raise DataError(
                f"monitor.held_out={spec} has other classes than {source.name}: its class folders must have the same names"
            )
        batches = {"train": source, "held_out": held_out}
        real = {name: next(images.iterate_once(REAL_IMAGES)) for name, images in batches.items()}
    device = state.precision.device
    return FixedBatch(to_device(z_NZ, device), to_device(y_N, device), real)


def read_initial_run_log(config: RunConfig) -> tuple[list[Line], int]:
    """The log of the run that this one starts from, up to there, and its step: what this run is to be compared with.
    Nothing, 0 where it starts from no run."""
    if config.init_from is None:
        return [], 0
    start = parse_init_from(config.init_from)
    checkpoints = [checkpoint_step(path) for path in RunDir(start.path).list_checkpoints()]
    step = start.step or max(checkpoints, default=0)
    return [line for line in read_run_logs(start.path) if line["step"] <= step], step
