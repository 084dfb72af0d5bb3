"""The estimated memory of a step against what PyTorch's allocator reports of real steps."""

import bisect
import dataclasses
import itertools
import json

import pytest
import torch

from biggan.configs.overrides import replace_fields
from biggan.configs.presets import preset
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError
from biggan.training.memory_estimate import Growth, MemoryEstimate, due_step, estimate_memory, largest_micro_batch
from biggan.training.setup import build_train_state
from biggan.training.step import train_step

MODELS = {
    "BigGAN": ("biggan-128", {"model.resolution": 32, "model.width": 8}),
    "BigGAN-deep": ("biggan-deep-128", {"model.resolution": 64, "model.width": 8}),
    "minibatch discrimination": ("improved-cifar10", {}),
    "virtual batch norm": (
        "biggan-128",
        {
            "model.resolution": 32,
            "model.width": 8,
            "model.generator.norm": "virtual",
            "model.generator.reference_batch_size": 5,
        },
    ),
}


def small_run(name, **train):
    preset_name, fields = MODELS[name]
    config = replace_fields(preset(preset_name), {"model.num_classes": 10, **fields})
    settings = {"device": "cpu", "precision": "fp32", "discriminator_steps": 1, **train}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


def measured_peak(config, folder):
    """Bytes at the peak of a step: the state, and what the allocator reports. Not counted is what a convolution takes and
    frees before it returns: a processor without bf16 unfolds the images there."""
    state = build_train_state(config)
    size = config.model.resolution
    images = torch.zeros(state.plan.micro_batch, 3, size, size, dtype=torch.uint8)
    reals = itertools.repeat((images, torch.zeros(len(images), dtype=torch.int64)))
    labeled = None if config.data.labels_per_class is None else reals
    train_step(state, 1, reals, labeled)
    storages = [tensor.untyped_storage() for tensor in state.tensors().values()]  # of several weights, and what pads them
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(state, due_step(state), reals, labeled)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = ("aten::convolution", "aten::convolution_backward")
    convolutions = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") in names)
    changes = sorted((e["ts"], e["args"]["Bytes"], e["args"]["Addr"]) for e in events if e.get("name") == "[memory]")
    frees, inside = {}, set()
    for index, (moment, size, address) in reversed(list(enumerate(changes))):
        if size < 0:
            frees[address] = index
        elif address in frees:
            begun = bisect.bisect(convolutions, (moment, float("inf")))
            if begun and changes[frees[address]][0] <= convolutions[begun - 1][1]:
                inside |= {index, frees[address]}
    sizes = [size for index, (_, size, _) in enumerate(changes) if index not in inside]
    return held + max(itertools.accumulate(sizes))


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("BigGAN", {"batch": 16}),
        ("BigGAN", {"batch": 16, "precision": "bf16", "activation_checkpointing": True}),
        ("BigGAN-deep", {"batch": 4, "precision": "bf16", "micro_batch": 2}),
        ("minibatch discrimination", {"batch": 40, "micro_batch": 20}),
        ("virtual batch norm", {"batch": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_the_peak_is_what_the_allocator_reports(name, train, tmp_path):
    config = small_run(name, **train)
    estimate = estimate_memory(config)
    images = config.train.micro_batch or config.train.batch
    assert estimate.peak(images, config.train.batch // images) == pytest.approx(measured_peak(config, tmp_path), rel=0.05)


def test_one_probe_tells_of_every_micro_batch(tmp_path):
    """Also whether gradients are accumulated."""
    estimate = estimate_memory(small_run("BigGAN", batch=64))
    for images, accumulation in ((4, 1), (32, 1), (8, 2)):
        config = small_run("BigGAN", batch=images * accumulation, micro_batch=images)
        assert estimate.peak(images, accumulation) == pytest.approx(measured_peak(config, tmp_path), rel=0.1)


def test_how_steps_are_run_does_not_change_the_estimate():
    """Compiled or captured steps are not what the probe can run, and R1 needs second derivatives of norms over ranks too."""
    config = small_run("BigGAN", batch=8)
    plain = estimate_memory(config)
    for setting in ({"compile": "on"}, {"capture": "on"}):
        assert estimate_memory(small_run("BigGAN", batch=8, **setting)) == plain
    with pytest.raises(ConfigError, match="r1 needs second derivatives"):
        estimate_memory(replace_fields(small_run("BigGAN", batch=8, compile="on"), {"regularization.discriminator.r1": 1.0}))
    norms = {"regularization.discriminator.r1": 1.0, "model.discriminator.norm": "conditional-batch"}
    ranks = estimate_memory(replace_fields(config, norms), World(0, 2, 0))
    assert ranks.fixed > 0
    assert ranks.peak(8) > estimate_memory(replace_fields(config, norms)).peak(4)


def test_the_largest_micro_batch_by_hand():
    """900 of 1000 bytes may be used; an image needs 10 (and its uint8 pixels 1), 300 are there always, 100 more where
    gradients are accumulated."""
    need = MemoryEstimate(
        state=250, gradients=100, accumulates=False, fixed=50, image=1, peaks=(Growth(250, 10), Growth(280, 1))
    )
    assert need.peak(2) == 280 + 2 + 50 + 2
    assert largest_micro_batch(need, 54, 1, 1000) == 54  # 250 + 540 + 50 + 54 = 894
    assert largest_micro_batch(need, 56, 1, 1000) == 28  # 916; then 250 + 280 + 50 + 100 + 56
    assert largest_micro_batch(need, 128, 2, 1000) == 64  # 32 on each rank: 784
    assert largest_micro_batch(need, 56, 1, 400) is None
