"""Scalar metrics of a run: accumulated on the device, averaged over an interval, written to stats.jsonl.

The host waits for the device once per interval, in `MetricAverager.flush`.
"""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.runtime.atomic_io import append_text, write_file
from biggan.runtime.bounded_io import RefusedFile, open_regular_file
from biggan.runtime.distributed import mean_over_ranks
from biggan.runtime.errors import CheckpointError, reason_for, remedy_for
from biggan.runtime.json_text import parse_json

LINE_LIMIT, LOG_LIMIT = 1 << 26, 1 << 32
"""Bytes of one line of a log, and of a whole one, that are read."""
PER_CLASS = ("class_norm/", "class/")
"""Beginnings of the names of values that are lists, today and in version 0.1."""

logger = logging.getLogger(__name__)


class MetricAverager:
    """Means of scalars over the steps since the last flush. Steps may have different scalars: the mean of each is over all
    steps."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add the scalars of one step, without waiting for the device."""
        names, values = tuple(scalars), torch.stack([value.float() for value in scalars.values()])
        self.sums[names] = self.sums[names] + values if names in self.sums else values
        self.count += 1

    def flush(self) -> dict[str, float]:
        """Return the means over steps and ranks, and reset. Waits for the device once. All ranks must call it."""
        totals: dict[str, Tensor] = {}
        for names, values in self.sums.items():
            for name, value in zip(names, values, strict=True):
                totals[name] = totals[name] + value if name in totals else value
        names = tuple(sorted(totals))
        if not names:
            return {}
        means = mean_over_ranks(torch.stack([totals[name] for name in names]) / self.count)
        self.sums, self.count = {}, 0
        return dict(zip(names, means.tolist(), strict=True))


class JsonlLog:
    """A log file with one JSON object per line, each with its step; every line is written immediately."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Open for appending. Lines of steps after `resume_step`, written before an interruption, are removed, and so are
        lines that hold something else, which are reported. Raises OSError."""
        lines = [json.dumps(line) + "\n" for line in read_lines(path, is_metrics) if line["step"] <= resume_step]
        write_file(path, "".join(lines).encode())
        self.path = path

    def write(self, step: int, values: dict[str, float | list[float]]) -> None:
        """Append a line with the values of a step."""
        line = {"step": step} | {name: round_values(value) for name, value in values.items()}
        append_text(self.path, json.dumps(line) + "\n")


def round_values(value: float | list[float]) -> float | list[float]:
    """A number, or each number of a list, rounded to six significant digits."""
    return [round_value(item) for item in value] if isinstance(value, list) else round_value(value)


def round_value(value: float) -> float:
    """A number rounded to six significant digits; integers stay."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log of metrics, sorted by step; an empty list if there is no file. Lines that hold something else are
    reported and left out. Raises CheckpointError where the file cannot be read."""
    return sorted(read_lines(path, is_metrics), key=lambda line: line["step"])


def read_alarms(path: Path) -> list[dict[str, Any]]:
    """The lines of a log of alarms, in the order in which they were written; otherwise as `read_log`."""
    return read_lines(path, is_alarm)


def read_lines(path: Path, is_sound: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The lines of a log that are objects with a step, and `is_sound`, in the order of the file. Other lines are reported
    with their number, the first few of them one by one; a last line that was cut short is not. Raises CheckpointError where
    the file cannot be read, or is no log at all."""
    if not path.exists():
        return []
    lines, bad = [], []
    try:
        with open_regular_file(path) as stream:
            number, size = 0, 0
            while text := stream.readline(LINE_LIMIT + 1):
                number, size = number + 1, size + len(text)
                if size > LOG_LIMIT:
                    raise RefusedFile(f"it is larger than {LOG_LIMIT:,} bytes")
                if not text.endswith(b"\n"):
                    if len(text) > LINE_LIMIT:
                        raise RefusedFile(f"line {number} is longer than {LINE_LIMIT:,} bytes")
                    break
                line = parse_line(text)
                if line is not None and is_sound(line):
                    lines.append(line)
                else:
                    bad.append(number)
    except OSError as error:
        remedy = "move it away" if isinstance(error, RefusedFile) else remedy_for(error)
        raise CheckpointError(f"log {path} cannot be read ({reason_for(error)}): {remedy}") from error
    if bad:
        numbers = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        logger.warning("%s: line %s is not what a run writes, and is left out", path, numbers)
    return lines


def parse_line(text: bytes) -> dict[str, Any] | None:
    """A line of a log, None where it is no object or its "step" is no step."""
    try:
        line = parse_json(text)
    except ValueError:
        return None
    return line if is_step(line.get("step")) else None


def is_step(value: object) -> bool:
    """Whether a value from a file is a number of generator steps."""
    return type(value) is int and 0 <= value < 1 << 53


def is_number(value: object) -> bool:
    """Whether a value from a file is a number that a float can hold; infinities and not-a-number are."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 53)


def is_finite(value: Any) -> bool:
    """Whether a value of a log is a finite number, or a list of such."""
    if isinstance(value, list):
        return all(map(is_finite, value))
    return isinstance(value, int | float) and math.isfinite(value)


def is_metrics(line: dict[str, Any]) -> bool:
    """Whether every value of a line is a number, and every one of norms per class a list of numbers."""
    return all(
        isinstance(value, list) and bool(value) and all(map(is_number, value))
        if name.startswith(PER_CLASS)
        else is_number(value)
        for name, value in line.items()
    )


def is_alarm(line: dict[str, Any]) -> bool:
    """Whether a line tells the rule that raised an alarm."""
    return isinstance(line.get("rule"), str)
