"""What stats.jsonl says of speed: the share of the peak and of the time spent waiting for images, against sums by hand."""

import itertools
import json

import pytest
import torch
from conftest import tiny_config
from test_resume import train
from torch.utils.flop_counter import FlopCounterMode

from biggan.runtime.precision import CPU_FLOAT32
from biggan.runtime.speed import peak_flops
from biggan.training import run_log
from biggan.training.run_log import TimedBatches
from biggan.training.setup import build_train_state
from biggan.training.step import train_step


def test_share_of_the_peak_is_that_of_the_operations_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "peak_flops", lambda precision, seconds: 1e9)
    folder = train(tiny_config(steps=2), tmp_path / "run")
    state = build_train_state(folder.read_config())
    state.generator.regularizers = ()
    real = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        train_step(state, 1, itertools.repeat(real))
    per_image = counter.get_total_flops() / 16  # two discriminator steps of eight
    for line in map(json.loads, folder.stats_file.read_text().splitlines()):
        assert line["mfu"] == pytest.approx(line["images_per_second"] * per_image / 1e9, rel=0.05)
        assert 0 < line["data_wait"] < 1


def test_waiting_is_counted_by_the_clock_around_each_batch(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: next(ticks))
    batches = TimedBatches(iter(range(5)))
    assert list(itertools.islice(batches, 3)) == [0, 1, 2]
    assert batches.seconds == 3


def test_measuring_the_peak_draws_no_random_numbers():
    before = torch.get_rng_state()
    assert peak_flops(CPU_FLOAT32, seconds=0.01) > 0
    assert torch.equal(torch.get_rng_state(), before)
