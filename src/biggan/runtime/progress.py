"""How far something has come, on a terminal: bars over items, images and bytes, and the line of a training run.

Bars show where standard error is a terminal, for rank 0, and only once notes are shown at all (runtime/logging): as a
library biggan draws nothing."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from biggan.runtime.distributed import environment_world

T = TypeVar("T")


def is_shown() -> bool:
    """Whether this process draws progress bars."""
    told = logging.getLogger("biggan").isEnabledFor(logging.INFO)
    return told and sys.stderr.isatty() and environment_world().is_rank_zero


def progress_bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The items, with a bar while they are consumed."""
    return tqdm(items, total=total, desc=what, leave=False, disable=not is_shown())


def image_progress_bar(batches: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """The batches, tuples or lists whose second part has one entry for each image, with a bar over their images."""
    with tqdm(total=total, desc=what, leave=False, disable=not is_shown(), unit="image") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[1]))


def byte_progress_bar(blocks: Iterable[bytes], total: int | None, what: str) -> Iterator[bytes]:
    """The blocks of a download, with a bar over their bytes; `total` None: not known."""
    with tqdm(total=total, desc=what, leave=False, disable=not is_shown(), unit="B", unit_scale=True) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))


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
        """`values` are the interval's means, of which the losses are shown without penalties; `seconds_left` of a time
        limit, None without one."""
        rate = (step - self.first) / max(1e-9, time.monotonic() - self.started)
        left = (self.steps - step) / max(1e-9, rate)
        left = left if seconds_left is None else min(left, seconds_left)
        loss_d = sum(value for name, value in values.items() if name.startswith("D/loss"))
        loss_g = sum(value for name, value in values.items() if name.startswith(("G/loss", "G/feature_matching")))
        text = (
            f"{values['images_per_second']:.0f} img/s  loss D {loss_d:.3f} G {loss_g:.3f}  "
            f"D(real) {values['D/logit_real']:+.2f} D(fake) {values['D/logit_fake']:+.2f}  left {clock(left)}"
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
