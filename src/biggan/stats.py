"""Scalars of a run: collected on the device, averaged over an interval, written to stats.jsonl and one progress line.

The device is waited for once per interval, in `flush`. Not here: what the scalars mean.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from biggan.distributed import mean_over_ranks

LOGS = ("stats.jsonl", "watch.jsonl", "evaluations.jsonl", "tests.jsonl")


class Stats:
    """Means over the steps since the last flush."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        """One step's scalars; nothing waits for the device."""
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def flush(self) -> dict[str, float]:
        """The means, over ranks too, and start again. Waits for the device once. All ranks must call it."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = mean_over_ranks(torch.stack([self.sums[name].float() for name in names]) / self.count)
        self.sums, self.count = {}, 0
        return dict(zip(names, means.tolist(), strict=True))


class StatsFile:
    """stats.jsonl: one JSON object per line, each with its step; flushed line by line."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Opens for appending; lines after `resume_step`, from before a kill, are dropped."""
        kept = [line for line in complete_lines(path) if step_of(line) <= resume_step]
        scratch = path.with_name(f".{path.name}.writing")
        scratch.write_text("".join(kept))
        os.replace(scratch, path)
        self.path = path

    def write(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Append one line."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | {name: rounded(value) for name, value in values.items()}) + "\n")


def rounded(value: float | list[float]) -> float | list[float]:
    """A number, or each of several, to six digits; whole numbers as they are."""
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value if isinstance(value, int) else float(f"{value:.6g}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The sound lines of a log, in order of their steps; none where there is no file."""
    lines = [json.loads(line) for line in complete_lines(path) if step_of(line) < math.inf]
    return sorted(lines, key=lambda line: line["step"])


def step_of(line: str) -> float:
    """The step of a line of the log; infinite for a line that a crash of the machine has damaged."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def complete_lines(path: Path) -> list[str]:
    """The lines of a log that were written to the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]


def read_run(folder: Path) -> list[dict[str, Any]]:
    """The lines of every log of a run: its statistics, what was watched, evaluations; in order of their steps."""
    lines = [line for name in LOGS for line in read_log(folder / name)]
    return sorted(lines, key=lambda line: line["step"])


class ProgressLine:
    """One updating line on a terminal; elsewhere a line per interval."""

    def __init__(self, name: str, *, step: int, steps: int, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self.name, self.steps, self.stream = name, steps, stream
        self.started, self.first = time.monotonic(), step
        self.bar = tqdm(
            total=steps,
            initial=step,
            file=stream,
            bar_format=self.line_with("starting"),
            dynamic_ncols=True,
            disable=not stream.isatty(),
        )

    def line_with(self, text: str) -> str:
        """tqdm's template of the whole line."""
        return f"{self.name} {{n}}/{{total}} |{{bar:20}}| {text}"

    def show(self, step: int, values: dict[str, float], seconds_left: float | None) -> None:
        """`values` are the interval's means; `seconds_left` of a time limit, None without one."""
        rate = (step - self.first) / max(1e-9, time.monotonic() - self.started)
        left = (self.steps - step) / max(1e-9, rate)
        left = left if seconds_left is None else min(left, seconds_left)
        loss_d = sum(value for name, value in values.items() if name.startswith("D_loss"))
        loss_g = sum(value for name, value in values.items() if name.startswith("G_loss"))
        text = (
            f"{values['images_per_second']:.0f} img/s  loss D {loss_d:.3f} G {loss_g:.3f}  "
            f"D(real) {values['D_real']:+.2f} D(fake) {values['D_fake']:+.2f}  left {clock(left)}"
        )
        if self.bar.disable:
            print(f"{self.name} {step}/{self.steps}  {text}", file=self.stream, flush=True)
            return
        self.bar.bar_format = self.line_with(text)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.close()


def clock(seconds: float) -> str:
    """1:02:03 or 2:03; 0:00 where a time limit is over."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
