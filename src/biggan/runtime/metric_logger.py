"""Scalar metrics of a run: accumulated on the device, averaged over an interval, written to stats.jsonl.

The host waits for the device once per interval, in `MetricAverager.flush`.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.runtime.distributed import mean_over_ranks


class MeanAccumulator:
    """Means of scalars over micro-batches or optimizer steps, accumulated on the device."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], count: int) -> None:
        """Add the values of one of `count` micro-batches or steps."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach() / count


class MetricAverager:
    """Means of scalars over the steps since the last flush."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add the scalars of one step, without waiting for the device."""
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def flush(self) -> dict[str, float]:
        """Return the means over steps and ranks, and reset. Waits for the device once. All ranks must call it."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = mean_over_ranks(torch.stack([self.sums[name].float() for name in names]) / self.count)
        self.sums, self.count = {}, 0
        return dict(zip(names, means.tolist(), strict=True))


class JsonlLog:
    """A log file with one JSON object per line, each with its step; every line is written immediately."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Open for appending. Lines of steps after `resume_step`, written before an interruption, are removed."""
        lines = [line for line in complete_lines(path) if parse_step(line) <= resume_step]
        scratch = path.with_name(f".{path.name}.writing")
        scratch.write_text("".join(lines))
        os.replace(scratch, path)
        self.path = path

    def write(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Append a line with the values of a step."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step} | {name: round_values(value) for name, value in values.items()}) + "\n")


def round_values(value: float | list[float]) -> float | list[float]:
    """A number, or each number of a list, rounded to six significant digits."""
    return [round_value(item) for item in value] if isinstance(value, list) else round_value(value)


def round_value(value: float) -> float:
    """A number rounded to six significant digits; integers stay."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The valid lines of a log, sorted by step; an empty list if there is no file."""
    lines = [json.loads(line) for line in complete_lines(path) if parse_step(line) < math.inf]
    return sorted(lines, key=lambda line: line["step"])


def parse_step(line: str) -> float:
    """The step of a line of a log; infinite for a damaged line."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def complete_lines(path: Path) -> list[str]:
    """The lines of a log that were written completely, that is, end in a line break."""
    if not path.exists():
        return []
    return [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
