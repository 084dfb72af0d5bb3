"""Too little memory: one line with the option that helps; sizes are known before anything is allocated."""

import dataclasses
import re
import resource
import subprocess
import sys

import pytest
import torch
from conftest import call, tiny_config

from biggan.checkpoints.run_dir import RunDir
from biggan.data.dataset import open_source
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.runtime.errors import ConfigError
from biggan.training import trainer
from biggan.training.out_of_memory import smaller_micro_batch
from biggan.training.setup import build_train_state

GIB = 1 << 30


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "cudnn", "python"],
)
def test_out_of_memory_names_a_micro_batch_that_fits_the_batch(error, tmp_path, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(trainer, "train_step", fail)
    config = tiny_config(batch=12)
    source = open_source("embedded:digits", 32)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))
    run = RunDir(tmp_path / "run")
    run.claim(config)
    with pytest.raises(ConfigError, match=r"^out of memory .*: add --train.micro-batch 6, or add") as told:
        trainer.fit(config, source, run)
    assert len(str(told.value).splitlines()) == 1


def test_other_errors_are_not_taken_for_it(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(trainer, "train_step", fail)
    config = tiny_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))
    run = RunDir(tmp_path / "run")
    run.claim(config)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        trainer.fit(config, open_source("embedded:digits", 32), run)


@pytest.mark.parametrize(
    ("batch", "micro_batch", "ranks", "expected"),
    [(50, 50, 1, 25), (50, 25, 1, 10), (2048, 2048, 8, 1024), (12, 12, 4, None), (2, 2, 1, None), (7, 7, 1, None)],
)
def test_a_smaller_micro_batch_divides_the_batch_and_leaves_two_images_for_each_rank(batch, micro_batch, ranks, expected):
    assert smaller_micro_batch(batch, micro_batch, ranks) == expected


def test_a_batch_that_this_process_cannot_hold(tmp_path):
    """A limit on the address space stands for a machine with less memory."""
    words = [
        "-m",
        "biggan",
        "train",
        "digits",
        "--run",
        str(tmp_path / "run"),
        "--train.device",
        "cpu",
        "--model.width",
        "8",
    ]
    words += ["--model.width", "8", "--train.batch", "1048576", "--train.steps", "1"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * GIB, 6 * GIB))  # noqa: E731
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, preexec_fn=limit)
    told = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert "out of memory" in told[-1]
    (micro_batch,) = map(int, re.findall(r"--train.micro-batch (\d+)", told[-1]))
    assert 1024 <= micro_batch <= 524288, "what fits this machine's memory by the estimate, and is at most half of the batch"
    assert "Traceback" not in done.stderr


def test_networks_are_sized_before_they_are_allocated(monkeypatch):
    monkeypatch.setattr(registry, "total_memory", lambda: 8 * GIB)
    config = BigGANConfig(resolution=512, num_classes=1000, width=4096)
    for use in (
        lambda: registry.build_networks(config, torch.Generator()),
        lambda: build_train_state(dataclasses.replace(tiny_config(), model=config)),
    ):
        with pytest.raises(ConfigError, match=r"takes .* GiB, more than .* of the 8 GiB of this machine: use a smaller"):
            use()


def test_a_model_folder_that_asks_for_terabytes(tmp_path, capsys):
    run = tmp_path / "model"
    run.mkdir()
    (run / "generator.safetensors").write_bytes(b"")
    (run / "config.json").write_text(
        '{"model": {"family": "biggan", "resolution": 128, "width": 1000000, "num_classes": 2}, "class_names": ["a", "b"],'
        ' "step": 1, "trained_on": "x"}'
    )
    code, _, err = call(capsys, "sample", run, "--n", 1, "--out", tmp_path / "out")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "of this machine: use a smaller model" in err
