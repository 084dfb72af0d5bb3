"""Watching a run: weights and samples measured now and then into RUN/watch.jsonl, alarms of analysis/collapse over all its
logs into RUN/alarms.jsonl, and what is done about them.

It never changes what the steps do, until a policy says so. Measuring takes at most a given share of the time; the first is
made in any case.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.analysis.collapse_rules import Alarm, CollapseDetector, Line
from biggan.analysis.spectra import Spectra, class_norms, moments, spread
from biggan.checkpoints.init_from import parse_init_from
from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source, open_source
from biggan.metrics.features import Extractor
from biggan.nn.noise import disable_noise
from biggan.nn.spectral_norm import freeze_power_iteration
from biggan.runtime.distributed import any_rank, on_rank_zero
from biggan.runtime.errors import BigganError, DataError
from biggan.runtime.metric_logger import JsonlLog, read_run
from biggan.runtime.precision import to_device
from biggan.runtime.rng import addressed_rng
from biggan.sampling.image_io import to_uint8
from biggan.training.step import uint8_to_float
from biggan.training.train_state import TrainState

CLASSES, PER_CLASS = 8, 8  # of the fixed batch of samples

REAL_IMAGES = 256  # of each set, to see whether D tells images it was trained on from others


class CollapseDetected(BigganError):
    """A run with the policy to roll back has raised an alarm; it returns to the checkpoint `healthy`."""

    def __init__(self, alarm: Alarm, healthy: Path) -> None:
        super().__init__(f"step {alarm.step}: {alarm.rule} ({alarm.evidence})")
        self.alarm, self.healthy = alarm, healthy


class FixedBatch(NamedTuple):
    """What is looked at again and again: latents and classes, real images that the run is trained on, and held out."""

    z_NZ: Tensor
    y_N: Tensor
    real: dict[str, tuple[Tensor, Tensor]]


class CollapseMonitor:
    """Measures, remembers, raises alarms. All ranks must call its methods together."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        source: Source,
        folder: RunDir,
        step: int,
        report: Callable[[str], None],
        classifier: Extractor | None,
    ) -> None:
        """`classifier`: tells by its logits how many of the fixed batch are what they were asked for, if it knows as many
        classes. Raises DataError where the held-out images cannot be read or are of other classes."""
        self.config, self.folder, self.is_rank_zero = config.monitor, folder, state.plan.world.is_rank_zero
        self.report, self.classifier = report, classifier
        self.state, self.spectra = state, Spectra(config.monitor.singular_values)
        self.detectors = CollapseDetector(config.monitor)
        self.log = None
        if self.is_rank_zero:
            with folder.writing():
                self.log = JsonlLog(folder.path / "monitor.jsonl", resume_step=step)
        past = [line for line in read_run(folder.path) if line["step"] <= step] if self.is_rank_zero else []
        before, self.offset = read_initial_run_log(config) if self.is_rank_zero else ([], 0)
        for line in before + [line | {"step": line["step"] + self.offset} for line in past]:
            self.detectors.observe(line)
        self.spent = sum(line.get("watch_seconds", 0.0) for line in past)
        self.pending = False
        self.fixed = self.fixed_batch(config, source) if self.config.every is not None else None

    def fixed_batch(self, config: RunConfig, source: Source) -> FixedBatch:
        """Eight latents for each of up to eight classes, evenly chosen; the first real images of each set."""
        stream = addressed_rng(config.train.seed, "watched samples")
        count = min(CLASSES, self.state.num_classes)
        classes = torch.arange(count) * self.state.num_classes // count
        y_N = classes.repeat_interleave(PER_CLASS)
        z_NZ = self.state.prior.draw((len(y_N), self.state.latent_dim), stream)
        real = {}
        if self.config.held_out is not None:
            held_out = open_source(self.config.held_out, config.model.resolution, cache=config.data.cache)
            if held_out.class_names != source.class_names:
                raise DataError(f"monitor.held_out={self.config.held_out} has other classes than {source.name}")
            real = {"trained": next(source.iterate_once(REAL_IMAGES)), "held_out": next(held_out.iterate_once(REAL_IMAGES))}
        device = self.state.precision.device
        return FixedBatch(to_device(z_NZ, device), to_device(y_N, device), real)

    def due(self, step: int, seconds: float) -> bool:
        """Whether to measure now; `seconds`: of training so far."""
        if self.fixed is None:
            return False
        self.pending = self.pending or step % self.config.every == 0
        if not self.pending:
            return False
        (now,) = any_rank(self.is_rank_zero and self.spent <= self.config.max_time_fraction * seconds)
        return now

    def measure(self, step: int) -> list[Alarm]:
        """Weights, gradients, moments, samples and D's calls, logged; what the rules say."""
        started, self.pending = time.monotonic(), False
        state = self.state
        networks = {player.name: player.network for player in (state.generator, state.discriminator)}
        values: Line = self.spectra.measure(networks)
        for player in (state.generator, state.discriminator):
            values |= moments(player.name, player.network, player.optimizer)
            values |= {f"gradient/{player.name}/{n}": value for n, value in state.guard.gradient_norms(player.name).items()}
        values |= class_norms(networks)
        samples = self.samples()
        values |= spread(samples.float().cpu(), PER_CLASS) | self.conditional_accuracy(samples)
        if state.objective.decision_boundary is not None:
            values |= {f"D_{name}_right": self.share_called_real(*batch) for name, batch in self.fixed.real.items()}
        seconds = time.monotonic() - started
        self.spent += seconds
        values["watch_seconds"] = seconds
        if self.log is not None:
            with self.folder.writing():
                self.log.write(step, values)
        return self.observe(step, values)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """The fixed batch (N, 3, R, R) as the generator now draws it, with the statistics of this very batch."""
        network = self.state.generator.network
        with freeze_power_iteration(network), self.state.precision.autocast():
            return network(self.fixed.z_NZ, self.fixed.y_N)

    def conditional_accuracy(self, samples: Tensor) -> dict[str, float]:
        """The share of the fixed batch that the classifier names as asked, where there is one for these classes."""
        logits = None if self.classifier is None else self.classifier(to_uint8(samples)).logits
        if logits is None or logits.shape[1] != self.state.num_classes:
            return {}
        return {"recognised": (logits.argmax(1) == self.fixed.y_N.cpu()).float().mean().item()}

    @torch.no_grad()
    def share_called_real(self, images: Tensor, y_N: Tensor) -> float:
        """The share of uint8 images that D calls real, with all its features; batch statistics, if it has any, are those of
        these images."""
        device, network = self.state.precision.device, self.state.discriminator.network
        x = uint8_to_float(to_device(images, device), self.state.precision.memory_format)  # (N, 3, R, R)
        with disable_noise(network), freeze_power_iteration(network), self.state.precision.autocast():
            score_N = network(x, to_device(y_N, device)).score_N
        return (score_N > self.state.objective.decision_boundary).float().mean().item()

    def observe(self, step: int, values: Line) -> list[Alarm]:
        """What the rules say of these numbers, on every rank; written down, and told."""

        def decide() -> list[Alarm]:
            """On the first rank, which has the log."""
            found = self.detectors.observe({"step": step + self.offset} | values)
            alarms = [alarm._replace(step=step, healthy=alarm.healthy - self.offset) for alarm in found]
            for alarm in alarms:
                checkpoint = self.healthy_checkpoint(alarm)
                kept = checkpoint or "no checkpoint from then (--monitor.on-alarm stop or roll-back keeps some)"
                healthy = f"healthy until step {alarm.healthy}, {kept}"
                self.report(f"alarm at step {step}: {alarm.rule} ({alarm.evidence}); {healthy}")
                noted = alarm._asdict() | {"policy": self.config.on_alarm, "checkpoint": checkpoint and str(checkpoint)}
                self.folder.append_alarms([noted])
            return alarms

        return on_rank_zero(decide)

    def healthy_checkpoint(self, alarm: Alarm) -> Path | None:
        """The newest checkpoint from before what the alarm is about began; None where there is none."""
        before = [path for path in self.folder.list_checkpoints() if checkpoint_step(path) <= alarm.healthy]
        return before[-1] if before else None


def read_initial_run_log(config: RunConfig) -> tuple[list[Line], int]:
    """The log of the run that this one starts from, up to there, and its step: what this run is to be compared with.
    Nothing, 0 where it starts from no run."""
    if config.init_from is None:
        return [], 0
    start = parse_init_from(config.init_from)
    checkpoints = [checkpoint_step(path) for path in RunDir(start.path).list_checkpoints()]
    step = start.step or max(checkpoints, default=0)
    return [line for line in read_run(start.path) if line["step"] <= step], step


def checkpoint_step(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
