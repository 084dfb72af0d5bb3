"""Which device a process gets, with a stand-in for CUDA."""

import pytest
import torch

from biggan.runtime import distributed
from biggan.runtime.distributed import process_group
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import choose_device, choose_precision


@pytest.fixture
def four_gpus(monkeypatch):
    """A machine that shows four GPUs, of which number 2 is the current one; which was made the current one since."""
    current = [2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(torch.device(device).index))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device.index == 1 else (9, 0))
    return current


def be_rank(monkeypatch, rank, size):
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_always_has_an_index(four_gpus, monkeypatch, name):
    assert choose_precision(name, "auto", "channels-last").device == torch.device("cuda", 2)
    be_rank(monkeypatch, 0, 1)  # torchrun with one process
    assert choose_device(name) == torch.device("cuda", 2)
    for rank in range(4):  # before there is a process group
        be_rank(monkeypatch, rank, 4)
        precision = choose_precision(name, "auto", "channels-last")
        assert precision.device == torch.device("cuda", rank)
        assert precision.bf16 == (rank != 1), "the capability is that of the rank's own GPU"
    be_rank(monkeypatch, 4, 5)
    with pytest.raises(ConfigError, match="LOCAL_RANK=4: this machine shows 4 GPUs: start fewer ranks"):
        choose_device(name)
    assert choose_device("cpu") == torch.device("cpu")


def test_the_process_group_makes_the_gpu_of_the_rank_the_current_one(four_gpus, monkeypatch):
    def refuse(*arguments, **options):
        raise ConfigError("far enough")

    be_rank(monkeypatch, 3, 4)
    monkeypatch.setattr(distributed, "connect_store", refuse)
    with pytest.raises(ConfigError, match="far enough"), process_group(choose_device("auto")):
        pass
    assert four_gpus == [2, 3]


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="torch sees no CUDA device here"):
        choose_device("cuda")
    for words, message in ((("gpu", "auto"), "device 'gpu': use auto, cpu, cuda"), (("cpu", "x"), "precision 'x': use")):
        with pytest.raises(ConfigError, match=message):
            choose_precision(*words, "channels-last")
