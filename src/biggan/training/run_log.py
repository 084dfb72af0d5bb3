"""RUN/stats.jsonl and the progress line: the metrics of an interval of steps, how fast they were, and what held them up."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.runtime.distributed import max_over_ranks, on_rank_zero, sum_counts_over_ranks
from biggan.runtime.metric_logger import JsonlLog, MetricAverager
from biggan.runtime.precision import Precision
from biggan.runtime.progress import ProgressLine
from biggan.runtime.speed import peak_flops
from biggan.training.flops import footprint
from biggan.training.step_inputs import Batch
from biggan.training.train_state import TrainState

PEAK_SECONDS = 0.1
"""Of the measurement of the peak, which takes about twice as long."""


class TimedBatches:
    """The batches of a stream; `seconds` is how long `next` has taken so far."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> "TimedBatches":
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - started
        return batch


class RunLog:
    """RUN/stats.jsonl and the progress line: metrics averaged over an interval of steps. All ranks call it together."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        source: Source,
        run_dir: RunDir,
        step: int,
        streams: Sequence[TimedBatches],
    ) -> None:
        """`streams`: those that the steps take images from. Measures the peak of rank 0's device, within half a second."""
        self.averager, self.source, self.run_dir, self.streams = MetricAverager(), source, run_dir, streams
        self.images_per_step, self.has_limit = state.plan.real_images, config.train.minutes is not None
        peak = on_rank_zero(partial(images_per_second_at_peak, config, state.precision, self.images_per_step))
        self.peak_rate = peak * state.plan.world.size
        self.file = self.line = None
        if state.plan.world.is_rank_zero:
            with run_dir.writing():
                self.file = JsonlLog(run_dir.stats_file, resume_step=step)
            self.line = ProgressLine(config.preset, step=step, steps=config.train.steps)
        self.rate, self.data_wait = 0.0, 0.0
        self.restart_interval()

    def add(self, metrics: dict[str, Tensor]) -> None:
        """One step's metrics; nothing waits for the device."""
        self.averager.add(metrics)

    def mean(self) -> dict[str, float]:
        """The means over the interval and the ranks. Waits for the device."""
        images = self.averager.count * self.images_per_step
        metrics = self.averager.flush()
        seconds = max(time.monotonic() - self.interval_started, 1e-6)  # coarse clocks
        self.rate, self.data_wait = images / seconds, (self.waited() - self.waited_before) / seconds
        return metrics

    def write(self, step: int, metrics: dict[str, float], seconds: float, seconds_left: float) -> None:
        """Log the metrics, with what could not be read, images per second, the share of the measured peak that they take
        (mfu, counting the FLOP of training/flops), the share of the time in which the rank that waited longest waited for
        real images (data_wait), and seconds of training; adds them to `metrics`."""
        (data_wait,) = max_over_ranks(self.data_wait)
        metrics |= sum_counts_over_ranks(self.source.read_errors())
        metrics |= {"images_per_second": self.rate, "mfu": self.rate / self.peak_rate, "data_wait": data_wait}
        metrics |= {"seconds": seconds}
        if self.file is not None:
            with self.run_dir.writing():
                self.file.write(step, metrics)
            self.line.show(step, metrics, seconds_left if self.has_limit else None)

    def restart_interval(self) -> None:
        """Start a new interval, so that the time of hooks does not count as training time."""
        self.interval_started, self.waited_before = time.monotonic(), self.waited()

    def waited(self) -> float:
        """Seconds that the steps have waited for real images so far."""
        return sum(stream.seconds for stream in self.streams)

    def close(self) -> None:
        """Leave the last progress on the screen."""
        if self.line is not None:
            self.line.close()


def images_per_second_at_peak(config: RunConfig, precision: Precision, images_per_step: int) -> float:
    """Real images per second of this process if every operation of a step ran at the rate that is measured here."""
    return peak_flops(precision, seconds=PEAK_SECONDS) * images_per_step / footprint(config).flop_per_step
