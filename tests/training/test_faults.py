"""Training under faults: killed, asked to stop, its newest checkpoint cut short, its disk full, one of its ranks killed; 25
in all. Each time the same command carries on, and the end is, to the bit, that of a run that nothing disturbed."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint

TINY = ["--train.batch", 8, "--train.discriminator-steps", 1, "--train.log-every", 2, "--train.checkpoint-every", 2]
TINY += ["--train.standing-stats-batches", 2, "--train.sample-every", 100000, "--model.width", 2, "--model.embedding-dim", 8]
TINY += ["--data.flip", "--train.device", "cpu", "--train.precision", "fp32"]
DISK_LIMIT = 100_000  # bytes per file; a checkpoint has some 700,000
PATIENCE = 120  # seconds for a start


def command(run, steps, ranks=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--max-restarts", "9"]
    words = ["-m", "biggan", "--", "train", "digits", *TINY, "--train.steps", steps, "--run", run]
    return [sys.executable, *(launcher if ranks > 1 else []), *map(str, words)]


def start(words, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


def step_of(run):
    """The step of the newest checkpoint by its name; 0 without one."""
    found = RunDir(run).list_checkpoints()
    return int(found[-1].name.removeprefix("step-")) if found else 0


def wait_for_step(process, run, step):
    """Until the run has a checkpoint beyond `step`."""
    deadline = time.monotonic() + PATIENCE
    while step_of(run) <= step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.01)


def kill(run, words, chance):
    """SIGKILL at a random moment."""
    process = start(words)
    wait_for_step(process, run, step_of(run))
    time.sleep(chance.uniform(0, 0.1))
    process.kill()
    process.communicate()


def ask(number):
    def fault(run, words, chance):
        """A signal that asks to stop: saved, and a good end."""
        process = start(words)
        wait_for_step(process, run, step_of(run))
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(number)
        _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, told
        assert f"{number.name} was received: saved at step {step_of(run)}" in told

    return fault


def cut(run, words, chance):
    """The newest checkpoint loses its end, as when the machine goes down; the one before it is used."""
    kill(run, words, chance)
    newest = RunDir(run).list_checkpoints()[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])


def fill(run, words, chance):
    """No file may grow: the checkpoint is refused in one line, what was saved before stays."""
    before = step_of(run)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_LIMIT, DISK_LIMIT))  # noqa: E731
    process = start(words, preexec_fn=limit)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, told
    assert "could not be written" in told
    assert "Traceback" not in told
    assert step_of(run) <= before


def finish(run, words):
    process = start(words)
    _, told = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, told
    tensors = read_checkpoint(RunDir(run).list_checkpoints()[-1]).tensors
    return {name: tensor for name, tensor in tensors.items() if "standing" not in name}


def assert_same(run, undisturbed, ranks, steps):
    ours, theirs = (finish(path, command(path, steps, ranks)) for path in (run, undisturbed))
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    logs = [[json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()] for path in (run, undisturbed)]
    regular = [[line["step"] for line in log if line["step"] % 2 == 0] for log in logs]  # a stop may log a step between
    assert regular[0] == regular[1] == list(range(2, steps + 1, 2))


def test_twenty_faults_leave_no_trace(tmp_path):
    """One process."""
    chance, run, steps = random.Random(os.getpid()), tmp_path / "run", 200
    read_errors = [kill] * 10 + [ask(signal.SIGTERM)] * 3 + [ask(signal.SIGUSR1)] * 2 + [cut] * 3 + [fill] * 2
    chance.shuffle(read_errors)
    for fault in [kill, *read_errors]:
        fault(run, command(run, steps), chance)
    assert step_of(run) < steps, "the run ended before its faults did"
    assert_same(run, tmp_path / "undisturbed", 1, steps)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_rank_that_dies_is_started_again(tmp_path):
    """Two processes under torchrun, which restarts both when one is killed; three times, by one command. Then torchrun is
    asked to stop, and hands that on."""
    chance, run, steps = random.Random(os.getpid()), tmp_path / "run", 60
    process = start(command(run, steps, ranks=2))
    try:
        for _ in range(3):
            wait_for_step(process, run, step_of(run))
            time.sleep(chance.uniform(0, 0.1))
            os.kill(chance.choice(children(process.pid)), signal.SIGKILL)
        wait_for_step(process, run, step_of(run))
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert told.count("resuming from step") == 3, told
    assert f"was received: saved at step {step_of(run)}" in told
    assert_same(run, tmp_path / "undisturbed", 2, steps)
