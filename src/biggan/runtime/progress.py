"""TODO: split from stats."""

import sys
import time
from typing import TextIO

from tqdm import tqdm


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
