"""The progress line on a terminal and elsewhere; means over an interval."""

import io

import pytest
import torch

from biggan.runtime.metric_logger import MetricAverager
from biggan.runtime.progress import ProgressLine, clock

SCORES = {"D/logit_real": 1.0, "D/logit_fake": -2.0}
VALUES = {"images_per_second": 312.4, "D/loss_real": 0.5, "D/loss_fake": 0.25, "G/loss": -0.1} | SCORES


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_progress_line(stream):
    line = ProgressLine("digits", step=0, steps=100, stream=stream)
    line.show(50, VALUES, 75.0)
    line.close()
    shown = stream.getvalue()
    for text in ("digits 50/100", "312 img/s", "loss D 0.750 G -0.100", "D(real) +1.00 D(fake) -2.00", "left 0:"):
        assert text in shown, shown
    assert ("|" in shown) == stream.isatty()


def test_means_since_the_last_flush():
    stats = MetricAverager()
    for value in (1.0, 2.0, 6.0):
        stats.add({"a": torch.tensor(value), "b": torch.tensor(-value)})
    assert stats.flush() == {"a": 3.0, "b": -3.0}
    stats.add({"a": torch.tensor(5.0)})
    assert stats.flush() == {"a": 5.0}


def test_clock():
    assert [clock(s) for s in (-33, 5, 65, 3600 + 62)] == ["0:00", "0:05", "1:05", "1:01:02"]
