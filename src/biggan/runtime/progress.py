"""How far something has come, on a terminal: bars over items, images and bytes, and the line of a training run.

Bars show where standard error is a terminal, for rank 0, and only once notes are shown at all (runtime/logging): as a
library biggan draws nothing."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from biggan.runtime.environment import environment_world
from biggan.runtime.text import printable

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_INTERVAL = 30.0  # seconds between lines where there is no terminal


def is_shown() -> bool:
    """Whether this process draws progress bars."""
    told = logging.getLogger("biggan").isEnabledFor(logging.INFO)
    return told and sys.stderr is not None and sys.stderr.isatty() and environment_world().is_rank_zero


def bar(what: str, **options: Any) -> tqdm:
    """A bar on the terminal that vanishes at the end, if this process draws any. `options` are tqdm's."""
    return tqdm(desc=printable(what), leave=False, disable=not is_shown(), **options)


def progress_bar(items: Iterable[T], total: int, what: str, unit: str = "images") -> Iterable[T]:
    """The items, with a bar while they are consumed, or a line now and then: "decoding 12,000 of 50,000 images"."""
    if not is_shown():
        return logged(items, lambda _: 1, total, what, unit)
    return bar(what, iterable=items, total=total)


def image_progress_bar(batches: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """The batches, tuples or lists whose second part has one entry for each image, with a bar over their images, or a line
    now and then."""
    with bar(what, total=total, unit="image") as shown:
        for batch in logged(batches, lambda batch: len(batch[1]), total, what, "images"):
            yield batch
            shown.update(len(batch[1]))


def byte_progress_bar(blocks: Iterable[bytes], total: int | None, what: str) -> Iterator[bytes]:
    """The blocks of a download, with a bar over their bytes, or a line now and then; `total` None: not known."""
    with bar(what, total=total, unit="B", unit_scale=True) as shown:
        for block in logged(blocks, len, total, what, "bytes"):
            yield block
            shown.update(len(block))


def logged(items: Iterable[T], size: Callable[[T], int], total: int | None, what: str, unit: str) -> Iterator[T]:
    """The items, with a line in the log every LOG_INTERVAL seconds on rank 0 where no bar is drawn. `size` counts what is in
    an item."""
    silent, done, last = is_shown() or not environment_world().is_rank_zero, 0, time.monotonic()
    for item in items:
        yield item
        done += size(item)
        if not silent and time.monotonic() - last >= LOG_INTERVAL:
            of = "" if total is None else f" of {total:,}"
            logger.info("%s %s%s %s", what, f"{done:,}", of, unit)
            last = time.monotonic()


class ProgressLine:
    """One updating line on a terminal; elsewhere a line per interval."""

    def __init__(self, name: str, *, step: int, steps: int, stream: TextIO | None = None) -> None:
        self.name, self.steps, self.stream = printable(name), steps, stream or sys.stderr
        self.started, self.first = time.monotonic(), step
        self.bar = tqdm(
            total=steps,
            initial=step,
            file=self.stream,
            bar_format=self.line_with("starting"),
            dynamic_ncols=True,
            disable=not self.stream.isatty(),
        )

    def line_with(self, text: str) -> str:
        """tqdm's template of the whole line."""
        name = self.name.replace("{", "{{").replace("}", "}}")
        return f"{name} {{n}}/{{total}} |{{bar:20}}| {text}"

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
