"""Several processes against one: gradients, batch statistics, samples, resuming. Gloo on the CPU, two ranks."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import tiny_config
from rank_script import CASES

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint
from biggan.configs.train import TrainConfig
from biggan.runtime.distributed import agree_on_start
from biggan.runtime.environment import World, environment_world
from biggan.runtime.errors import ConfigError
from biggan.training.setup import batch_norm_group, plan_batch

HERE = Path(__file__).parent
TINY = ["--train.batch", 8, "--train.discriminator-steps", 2, "--train.log-every", 1, "--train.checkpoint-every", 1]
TINY += ["--train.standing-stats-batches", 3, "--model.width", 2, "--model.embedding-dim", 8, "--data.flip"]
TINY += ["--monitor.every", 1, "--monitor.max_time_fraction", 100, "--monitor.held-out", "embedded:digits"]
TINY += [
    "--train.device",
    "cpu",
    "--train.precision",
    "fp32",
    "--train.generator-lr",
    1e-4,
    "--train.discriminator-lr",
    1e-4,
]


def ranks(count, *words, cwd):
    """Run `python WORDS` in so many processes; its output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, words)], capture_output=True, text=True, env=environment, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """What one and what two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    for count in (1, 2):
        ranks(count, HERE / "rank_script.py", folder / f"{count}.pt", cwd=folder)
    return [torch.load(folder / f"{count}.pt", weights_only=True) for count in (1, 2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_half_batches_are_one_process_on_the_whole(gradients, case):
    one, two = (found[case] for found in gradients)
    assert one.keys() == two.keys()
    assert case.startswith("virtual") or any(name.startswith("statistics") for name in one)
    for kind in ("D/", "G/", "statistics/"):
        names = [name for name in one if name.startswith(kind)]
        if not names:  # virtual norms share none
            continue
        typical = torch.stack([one[name].abs().max() for name in names]).median()
        for name in names:  # a bias in front of batch normalization has no gradient: what is there is rounding
            scale = torch.maximum(one[name].abs().max(), typical)
            assert (one[name] - two[name]).abs().max() / scale < 1e-4, name


def tensors_of(run):
    folder = RunDir(run)
    return read_checkpoint(folder.list_checkpoints()[-1]).tensors


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four steps by one process; by two; three by one and the last by two; three by two and the last by one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, before in {"1": None, "2": None, "12": "1", "21": "2"}.items():
        if before is not None:
            shutil.copytree(folder / before, folder / name)
            shutil.rmtree(RunDir(folder / name).list_checkpoints()[-1])
            assert read_checkpoint(RunDir(folder / name).list_checkpoints()[-1]).step == 3
        train = ["-m", "biggan", "--", "train", "digits", *TINY, "--train.steps", 4, "--run", name]
        told = ranks(int(name[-1]), *train, cwd=folder)
        assert ("resuming from step 3" in told.stderr) == (before is not None)
    return folder


@pytest.mark.parametrize("name", ["2", "12", "21"])
def test_training_and_resuming_with_another_number_of_ranks(runs, name):
    """Adam divides a gradient by its size, so where it is nearly 0 rounding decides its sign: a few weights may differ by
    a step, 1e-4; most agree to rounding."""
    one, other = tensors_of(runs / "1"), tensors_of(runs / name)
    assert one.keys() == other.keys()
    weights = [key for key in one if key.startswith(("generator/", "discriminator/", "ema/")) and "standing" not in key]
    assert len(weights) > 100
    pairs = torch.cat([torch.stack([one[key].flatten(), other[key].flatten()]) for key in weights], dim=1)
    difference = (pairs[0] - pairs[1]).abs()
    assert difference.max() < 1e-3
    assert (difference < 1e-5).float().mean() > 0.98
    logs = [[json.loads(line) for line in (runs / run / "stats.jsonl").read_text().splitlines()] for run in ("1", name)]
    assert [line["step"] for line in logs[1]] == [1, 2, 3, 4]
    seen = [[json.loads(line) for line in (runs / run / "monitor.jsonl").read_text().splitlines()] for run in ("1", name)]
    for first, second in zip(*seen, strict=True):
        sigma = [line["sigma0/discriminator/blocks.2.conv_1.weight"] for line in (first, second)]
        assert sigma[0] == pytest.approx(sigma[1], rel=1e-3)
        assert first["diversity"] == pytest.approx(second["diversity"], rel=1e-3)
    for first, second in zip(*logs, strict=True):
        assert first["D/loss_real"] == pytest.approx(second["D/loss_real"], rel=1e-3)
        assert first["G/loss"] == pytest.approx(second["G/loss"], rel=1e-2, abs=1e-3)


def test_one_and_two_ranks_draw_the_same_images(runs):
    """Five statistics passes and five batches over two ranks; to the bit."""
    for count in (1, 2):
        sample = ["-m", "biggan", "--", "sample", "1", "--n", 300, "--truncation", 0.5, "--out", f"drawn{count}"]
        ranks(count, *sample, cwd=runs)
    files = [sorted((runs / f"drawn{count}").iterdir()) for count in (1, 2)]
    assert len(files[0]) == 301
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_a_users_error_is_told_once(tmp_path):
    words = ["-m", "biggan", "--", "train", "digits", "--run", "run", "--data", "absent.zip"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(launcher, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("no such file or folder") == 1
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide(monkeypatch):
    from conftest import tiny_config

    config = tiny_config(batch=9)
    assert isinstance(config.train, TrainConfig)
    with pytest.raises(ConfigError, match=r"train.batch=9 is not divisible by 2 ranks: use --train.batch 10"):
        plan_batch(config.train, World(0, 2, 0))
    with pytest.raises(ConfigError, match=r"--train.micro-batch 4"):
        plan_batch(tiny_config(batch=9, micro_batch=3).train, World(0, 2, 0))


def test_the_environment_of_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert environment_world() == World(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="start with torchrun"):
        environment_world()
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert environment_world() == World(3, 4, 1)


def test_ranks_that_start_again_find_each_other():
    """What dead starts left in the store, words of ranks that died early among it, misleads nobody."""
    store, seen = dist.HashStore(), []
    for _ in range(3):
        starts = {}

        def arrive(rank, delay, starts=starts):
            time.sleep(delay)
            starts[rank] = agree_on_start(store, rank, 3)

        threads = [threading.Thread(target=arrive, args=(rank, delay)) for rank, delay in enumerate((0.0, 0.4, 0.2))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert len(starts) == 3
        assert len(set(starts.values())) == 1
        seen.append(starts[0])
        store.set("word/1", "dead")  # a rank that came, and died before the others
    assert len(set(seen)) == 3


GROUPS = """
import sys, torch, torch.nn.functional as F
from biggan.nn.batch_norm import BatchNorm
from biggan.runtime.distributed import process_group, sum_within_groups

with process_group(torch.device("cpu")) as world:
    total = sum_within_groups(2)
    value = torch.tensor([world.rank + 1.0], requires_grad=True)
    result = total(value)
    (result * (world.rank + 1)).sum().backward()
    expected = {0: 3.0, 1: 3.0, 2: 7.0, 3: 7.0}[world.rank]
    assert (result.item(), value.grad.item()) == (expected, expected), (result, value.grad)
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    norm = BatchNorm(3, epsilon=1e-4)
    norm.sum_over_ranks = total
    pair = images.chunk(2)[world.rank // 2]
    whole = F.batch_norm(pair, None, None, training=True, eps=1e-4)
    assert torch.allclose(norm(images.chunk(4)[world.rank]), whole.chunk(2)[world.rank % 2], atol=1e-5)
"""


PACKED = """
import torch, torch.nn.functional as F
from biggan.nn.batch_norm import BatchNorm
from biggan.runtime.distributed import process_group, sum_over_ranks, wrap_ddp

with process_group(torch.device("cpu")) as world:
    generator = torch.Generator().manual_seed(0)
    images, upstream = (torch.randn(12, 3, 4, 4, generator=generator) + 2 for _ in range(2))
    whole = images.clone().requires_grad_()
    expected = F.batch_norm(whole, None, None, training=True, eps=1e-4)
    expected.backward(upstream)
    for packed in (True, False):
        norm = BatchNorm(3, epsilon=1e-4)
        norm.sum_over_ranks, norm.packed = sum_over_ranks, packed
        own = world.local_slice(images).clone().requires_grad_()
        result = norm(own)
        result.backward(world.local_slice(upstream))
        assert torch.allclose(result, world.local_slice(expected), atol=1e-5), packed
        assert torch.allclose(own.grad, world.local_slice(whole.grad), atol=1e-5), packed
    for bf16 in (False, True):
        layer = torch.nn.Linear(4, 2)
        torch.nn.init.constant_(layer.weight, 1.0)
        wrapped = wrap_ddp(layer, torch.device("cpu"), bf16_gradients=bf16)
        wrapped(torch.full((1, 4), world.rank + 0.001)).sum().backward()
        mean = torch.full((2, 4), (world.size - 1) / 2 + 0.001)
        assert torch.allclose(layer.weight.grad, mean, rtol=2**-7 if bf16 else 1e-6), (bf16, layer.weight.grad)
"""


@pytest.mark.parametrize("count", [3, 4])
def test_packed_statistics_and_gradients_over_ranks(count, tmp_path):
    """Against one process on all images; and gradients averaged in float32 and in bf16."""
    (tmp_path / "packed.py").write_text(PACKED)
    ranks(count, tmp_path / "packed.py", cwd=tmp_path)


def test_batch_statistics_are_shared_within_a_machine(monkeypatch):
    train = tiny_config().train
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert batch_norm_group(train, World(rank=0, size=8, local_rank=0)) == 4
    assert batch_norm_group(train, World(rank=0, size=4, local_rank=0)) is None
    assert batch_norm_group(dataclasses.replace(train, sync_bn_group_size=8), World(rank=0, size=8, local_rank=0)) == 8


def test_statistics_within_groups_of_ranks(tmp_path):
    """Four ranks in pairs: sums, their gradients, and a pair's normalization against torch's of its images together."""
    (tmp_path / "groups.py").write_text(GROUPS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, tmp_path / "groups.py"], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    config = dataclasses.replace(tiny_config(), train=dataclasses.replace(tiny_config().train, sync_bn_group_size=3))
    with pytest.raises(ConfigError, match="sync_bn_group_size=3 does not divide 4 ranks"):
        plan_batch(config.train, World(0, 4))


WAITING = """
import time
from datetime import timedelta
import torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import _create_fake_pg
from biggan.runtime import distributed
from biggan.runtime.distributed import max_over_ranks, on_rank_zero, process_group, raise_on_all_ranks, sum_within_groups
from biggan.training import outputs

given = []

def stand_in(options, backend_options):
    given.append(options.timeout)
    return _create_fake_pg(options, backend_options)

dist.Backend.register_backend("standin", stand_in, extended_api=True, devices=["cuda"])
distributed.BACKENDS = {"cuda": "cpu:gloo,cuda:standin"}
distributed.NCCL_TIMEOUT, distributed.TIMEOUT = timedelta(seconds=2), timedelta(seconds=60)
torch.cuda.set_device = lambda device: None
slow = lambda: time.sleep(4)
with process_group(torch.device("cuda", 0)) as world:
    assert on_rank_zero(slow) is None
    if world.is_rank_zero:
        slow()
    assert max_over_ranks(float(world.rank)) == [1.0]
    if world.is_rank_zero:
        slow()
    raise_on_all_ranks(None, world)

    class Folder:
        save_model = staticmethod(lambda card, networks: slow())

    class Sampler:
        generator = torch.nn.Linear(1, 1)
        set_statistics = staticmethod(lambda truncation: None)

    outputs.build_model_card = lambda config, step: None
    started = time.monotonic()
    outputs.save_model(Sampler, None, Folder, 1)
    assert time.monotonic() - started > 3, "all ranks wait for the first one's disk, before their GPUs exchange anything"
    sum_within_groups(1)
    if world.is_rank_zero:
        slow()
assert given == [timedelta(seconds=2)] * 2, given
"""


def test_what_one_rank_does_alone_is_waited_for_longer_than_an_exchange_of_gpus(tmp_path):
    """Two ranks with a stand-in for NCCL, whose exchanges may take two seconds: rank 0 does things of four seconds, and all
    of them are waited for by exchanges of CPU tensors."""
    (tmp_path / "waiting.py").write_text(WAITING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, tmp_path / "waiting.py"], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
