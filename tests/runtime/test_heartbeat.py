"""A rank that is stopped, or never comes, is named, and the run ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from biggan.runtime import distributed, heartbeat
from biggan.runtime.distributed import agree_on_start
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError
from biggan.runtime.heartbeat import Heartbeat

PATIENCE = 60  # seconds

RANK = """
import sys, time, torch
from biggan.runtime import heartbeat
heartbeat.INTERVAL, heartbeat.SILENCE_LIMIT = 0.2, 2.0
from biggan.runtime.distributed import process_group, max_over_ranks
from biggan.runtime.logging import set_up_logging
set_up_logging()
with process_group(torch.device("cpu")) as world:
    max_over_ranks(0.0)
    print("ready", flush=True)
    while True:
        max_over_ranks(0.0)
        time.sleep(0.05)
"""


@pytest.fixture
def two_ranks():
    """Two processes that exchange numbers for ever."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):
        words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in words.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen([sys.executable, "-c", RANK], env=environment, text=True, **pipes))
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_ends_the_others_with_its_name(two_ranks, stopped):
    assert [process.stdout.readline() for process in two_ranks] == ["ready\n"] * 2
    two_ranks[stopped].send_signal(signal.SIGSTOP)
    other = two_ranks[1 - stopped]
    _, told = other.communicate(timeout=PATIENCE)
    assert other.returncode == heartbeat.EXIT_CODE
    assert f"rank {stopped} on {socket.gethostname()} has been silent for" in told
    assert "Traceback" not in told


def test_silence_is_noticed_within_two_minutes():
    assert heartbeat.SILENCE_LIMIT + 3 * heartbeat.INTERVAL < 120
    assert distributed.START_TIMEOUT.total_seconds() < 120


def test_ranks_that_never_come_are_named(monkeypatch):
    monkeypatch.setattr(distributed, "START_TIMEOUT", timedelta(seconds=0.2))
    with pytest.raises(ConfigError, match=r"rank 1, rank 2 of 3 did not come within 0 s: start all ranks together"):
        agree_on_start(dist.HashStore(), 0, 3)


def test_a_missing_rank_zero_is_told(monkeypatch):
    monkeypatch.setattr(distributed, "START_TIMEOUT", timedelta(seconds=1))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
    with pytest.raises(ConfigError, match=r"rank 1 cannot reach MASTER_ADDR=127.0.0.1 .*: is rank 0 running"):
        distributed.connect_store(World(1, 2, 1), timedelta(seconds=1), is_host=False)


def test_a_server_of_another_kind_is_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes connections and never answers
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"rank 1 cannot reach MASTER_ADDR=127.0.0.1"):
            distributed.connect_store(World(1, 2, 1), timedelta(seconds=1), is_host=False)
        assert time.monotonic() - started < 30


def test_only_new_signs_of_life_count(monkeypatch):
    """Rank 0 watches all others; a process that itself was stopped does not hold it against them."""
    store, said = dist.HashStore(), []
    for rank in range(3):
        store.set(f"beat/{rank}", "0")
    watcher = Heartbeat(store, World(0, 3, 0), ["a", "b", "c"])
    monkeypatch.setattr(watcher, "leave", said.append)
    watcher.silence = {1: 50.0, 2: 85.0}
    watcher.last_beats = {1: b"0", 2: b"0"}
    store.set("beat/1", "1")
    watcher.look()
    assert watcher.silence == {1: 0.0, 2: 85.0}
    watcher.interval = 0.01
    watcher.silence[2] = 89.995
    watcher.start()
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    watcher.stop()
    assert said
    assert said[0].startswith("rank 2 on c has been silent for 90 s")
