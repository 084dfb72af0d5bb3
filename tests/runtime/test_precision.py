"""Which device a process gets, with a stand-in for CUDA, and how it computes there."""

import dataclasses
import os
import warnings

import pytest
import torch
from conftest import tiny_config

from biggan.metrics.classification import Classifier
from biggan.metrics.features import Extractor
from biggan.models.registry import build_networks
from biggan.runtime import distributed
from biggan.runtime.distributed import process_group
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import (
    CPU_FLOAT32,
    Numerics,
    Precision,
    apply_numerics,
    choose_device,
    choose_precision,
    get_tf32,
    set_tf32,
    without_tf32,
)
from biggan.sampling.statistics_cache import statistics_key
from biggan.training.setup import build_train_state
from biggan.training.step import train_step


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


@pytest.fixture
def torch_settings(monkeypatch):
    """Restores torch's settings and the environment."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = get_tf32(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    set_tf32(*before[0])
    _, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)


def settings():
    """Everything that numerics decide, as torch has it now, read under all its names without a warning."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of some versions of torch, about the older names
        assert products.allow_tf32 == (torch.get_float32_matmul_precision() != "highest") == get_tf32()[0]
        assert cudnn.allow_tf32 == get_tf32()[1]
    return (*get_tf32(), cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled())


def test_numerics_are_applied_whole(torch_settings, monkeypatch):
    apply_numerics(Numerics(tf32=True, cudnn_benchmark=True))
    assert settings() == (True, True, True, False, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    apply_numerics(Numerics())
    assert settings() == (False, False, False, False, False)
    apply_numerics(Numerics(cudnn_benchmark=True, deterministic=True))
    assert settings() == (False, False, False, True, True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    apply_numerics(Numerics(deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "what the user has chosen stays"
    apply_numerics(tiny_config().train.numerics)
    assert settings() == (False, False, True, False, False), "shapes are fixed in training"


@pytest.mark.parametrize("before", [(True, True), (False, True), (False, False)])
def test_features_and_classes_are_computed_without_tf32(torch_settings, generator, before):
    """Whatever the process does otherwise, also after a failure; TF32 is torch's default of convolutions."""
    seen = []

    def network(images):
        seen.append(get_tf32())
        if len(images) > 2:
            raise RuntimeError("too many")
        return images.float().mean((2, 3))

    set_tf32(*before)
    extractor = Extractor("stand-in", "0", "none", network, torch.device("cpu"), False)
    extractor.outputs(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="too many"):
        extractor.outputs(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))

    class Discriminator(torch.nn.Module):
        def forward(self, x, y):
            seen.append(get_tf32())
            return type("Output", (), {"class_logits": x.mean((2, 3))})

    Classifier(Discriminator(), torch.device("cpu"), ("a", "b")).logits(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert seen == [(False, False)] * 3
    assert get_tf32() == before
    with pytest.raises(ValueError, match="x"), without_tf32():
        raise ValueError("x")
    assert get_tf32() == before


def test_numerics_tell_what_is_rounded_differently(torch_settings, monkeypatch, generator):
    """Recipes of scores and keys of caches, for all that may differ."""
    gpu = Precision(torch.device("cuda", 0), False, torch.contiguous_format)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "stand-in")
    config = dataclasses.replace(tiny_config().model, num_classes=3)
    network, _ = build_networks(config, generator)
    found = []
    for precision in (CPU_FLOAT32, gpu, dataclasses.replace(gpu, bf16=True)):
        for numerics in (Numerics(), Numerics(tf32=True), Numerics(deterministic=True)):
            apply_numerics(numerics)
            extractor = Extractor("stand-in", "0", "none", network, precision.device, precision.bf16)
            assert extractor.numerics == precision.numerics | {"tf32": False}
            found.append((tuple(precision.numerics.values()), statistics_key(network, precision)))
    values = [value for value, _ in found]
    assert values[:3] == [
        ("cpu", "float32", False, False),
        ("cpu", "float32", False, False),  # a CPU has no TF32
        ("cpu", "float32", False, True),
    ]
    assert values[3:6] == [
        ("cuda", "float32", False, False),
        ("cuda", "float32", True, False),
        ("cuda", "float32", False, True),
    ]
    assert [value[1] for value in values[6:]] == ["bf16"] * 3
    assert len(set(values)) == 8
    assert len({key for _, key in found}) == 8
    assert found[0][1] == found[1][1]


def test_a_deterministic_step_on_a_cpu_is_the_same_step(torch_settings):
    """No operation of a step is refused, and the bits are those of the plain step."""
    weights = []
    for deterministic in (False, True):
        config = tiny_config(deterministic=deterministic)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))
        apply_numerics(config.train.numerics)
        state = build_train_state(config)
        images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        train_step(state, 1, iter([(images, torch.arange(8))] * 9), None)
        weights.append(torch.cat([value.flatten().float() for value in state.tensors().values()]))
    assert torch.equal(*weights)
