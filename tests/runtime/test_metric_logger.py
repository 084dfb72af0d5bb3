"""The progress line on a terminal and elsewhere; means over an interval; logs with lines that are none."""

import io
import os

import pytest
import torch

from biggan.runtime import metric_logger
from biggan.runtime.errors import CheckpointError
from biggan.runtime.metric_logger import JsonlLog, MetricAverager, read_alarms, read_log
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


BAD_LINES = (
    b"{",
    b"[1]",
    b'"text"',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"step": ' + b"9" * 5000 + b"}",
    b'{"step": -1}',
    b'{"step": 1.5}',
    b'{"step": true}',
    b'{"step": "2"}',
    b'{"G/loss": 1.0}',
    b'{"step": 2, "G/loss": "1.0"}',
    b'{"step": 2, "G/loss": {"a": 1}}',
    b'{"step": 2, "G/loss": [1.0]}',
    b'{"step": 2, "G/loss": null}',
    b'{"step": 2, "class/accuracy": []}',
    b'{"step": 2, "class/accuracy": [[1]]}',
    b'{"step": 2, "G/loss": ' + b"9" * 400 + b"}",
)


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_of_a_log_is_reported_and_blocks_nothing(bad, tmp_path, notes):
    file = tmp_path / "stats.jsonl"
    sound = [b'{"step": 1, "G/loss": 0.5}', b'{"step": 3, "G/loss": NaN, "class/accuracy": [0.5, 1]}']
    file.write_bytes(sound[0] + b"\n" + bad + b"\n" + sound[1] + b"\n")
    assert [line["step"] for line in read_log(file)] == [1, 3]
    assert notes == [f"{file}: line 2 is not what a run writes, and is left out"]
    JsonlLog(file, resume_step=3)
    notes.clear()
    assert [line["step"] for line in read_log(file)] == [1, 3]
    assert not notes, "it is gone"


def test_a_last_line_that_was_cut_short_is_no_news(tmp_path, notes):
    (tmp_path / "log").write_bytes(b'{"step": 1}\n{"step": 2, "G/lo')
    assert [line["step"] for line in read_log(tmp_path / "log")] == [1]
    assert not notes


def test_logs_that_are_none_are_errors_of_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "zero"):
        with pytest.raises(CheckpointError, match="is not a regular file") as error:
            read_log(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1


def test_logs_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_logger, "LINE_LIMIT", 100)
    monkeypatch.setattr(metric_logger, "LOG_LIMIT", 1000)
    (tmp_path / "line").write_bytes(b"x" * 200)
    (tmp_path / "log").write_bytes(b'{"step": 1}\n' * 100)
    for name, message in (("line", "line 1 is longer than 100 bytes"), ("log", "larger than 1,000 bytes")):
        with pytest.raises(CheckpointError, match=message):
            read_log(tmp_path / name)


def test_alarms_without_a_rule_are_left_out(tmp_path, notes):
    (tmp_path / "alarms.jsonl").write_text('{"step": 1, "rule": "sigma0", "evidence": "1 of 2"}\n{"step": 2, "rule": 3}\n')
    assert [alarm["step"] for alarm in read_alarms(tmp_path / "alarms.jsonl")] == [1]
    assert len(notes) == 1
