"""A profile of a few training steps: a trace of every operation, and a table of those that take the most time."""

import logging

import torch
from torch.profiler import ProfilerActivity, profile

from biggan.checkpoints.run_dir import RunDir, refuse_links
from biggan.runtime.atomic_io import atomic_path, write_file
from biggan.training.hooks import HookResult, RunEnd
from biggan.training.train_state import TrainState

WARM_UP_STEPS = 5
"""After a start of the run, before the first step that is profiled."""

ROWS = 40
"""Of the table."""

logger = logging.getLogger(__name__)


class ProfileHook:
    """The hook that records, on rank 0, the `steps` steps after WARM_UP_STEPS with torch.profiler, into RUN/profile/:
    step-K.json.gz, a trace for chrome://tracing or Perfetto, and step-K.txt, a table; K is the last step recorded. A run
    that ends earlier writes what there is. It never changes what the steps compute."""

    at_end: frozenset[RunEnd] = frozenset({"completed", "signal", "alarm"})

    def __init__(self, steps: int, state: TrainState, run_dir: RunDir, step: int) -> None:
        """`step`: the one from which the run starts now."""
        self.first, self.last = step + WARM_UP_STEPS, step + WARM_UP_STEPS + steps
        self.run_dir, self.is_rank_zero = run_dir, state.plan.world.is_rank_zero
        self.on_gpu = state.precision.device.type == "cuda"
        self.profiler: profile | None = None

    def due(self, step: int, seconds: float) -> bool:
        return step in (self.first, self.last)

    def run(self, step: int) -> HookResult:
        """Begin with the next step, or end with this one and write the files."""
        if self.profiler is not None:
            self.save(step)
        elif step == self.first and self.is_rank_zero:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.on_gpu
            self.profiler = profile(activities=activities)
            self.profiler.start()
        return HookResult()

    def save(self, step: int) -> None:
        """End the recording and write it. Raises CheckpointError when the disk does not take it."""
        recorded = self.profiler
        self.close()
        table = recorded.key_averages().table(
            sort_by="self_device_time_total" if self.on_gpu else "self_cpu_time_total", row_limit=ROWS
        )
        folder = self.run_dir.path / "profile"
        refuse_links(self.run_dir.path, folder.name)
        with self.run_dir.writing():
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / f"step-{step:08d}.json.gz") as file:
                recorded.export_chrome_trace(str(file))
            write_file(folder / f"step-{step:08d}.txt", table.encode())
        logger.info("steps %d to %d were profiled: %s", self.first + 1, step, folder)

    def close(self) -> None:
        """End a recording, if there is one: a process can have but one at a time."""
        profiler, self.profiler = self.profiler, None
        if profiler is not None:
            if self.on_gpu:
                torch.cuda.synchronize()
            profiler.stop()
