"""Scalars of a run: collected on the device, averaged over an interval, written to stats.jsonl and one progress line.

The device is waited for once per interval, in `flush`. Not here: what the scalars mean.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.runtime.distributed import mean_over_ranks

LOGS = ("stats.jsonl", "monitor.jsonl", "evaluations.jsonl", "tests.jsonl")


class MeanAccumulator:
    """Means over equal parts, micro-batches or optimizer steps, kept on the device."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], parts: int) -> None:
        """Add the values of one of `parts` parts."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() / parts


class MetricAverager:
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


class JsonlLog:
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
            file.write(json.dumps({"step": step} | {name: round_values(value) for name, value in values.items()}) + "\n")


def round_values(value: float | list[float]) -> float | list[float]:
    """A number, or each of several, to six digits; whole numbers as they are."""
    if isinstance(value, list):
        return [round_values(item) for item in value]
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
