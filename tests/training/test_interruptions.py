"""A run that is interrupted from the terminal, or started twice: what is saved can be sampled, and one process writes."""

import os
import pty
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import call
from test_faults import PATIENCE, command, start, step_of, wait_for_step

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.run_lock import LOCK_NAME
from biggan.checkpoints.tensors import read_checkpoint

LONG = 100_000  # steps


@pytest.fixture
def running():
    """Starts commands; those that still run are killed at the end."""
    processes = []

    def run(words, **options):
        processes.append(start(words, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_ctrl_c_saves_what_can_be_sampled_and_resumed(running, tmp_path, capsys):
    run = tmp_path / "run"
    process = running(command(run, LONG))
    wait_for_step(process, run, 0)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.5))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    step = step_of(run)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert f"SIGINT was received: saved at step {step}" in told
    assert told.splitlines()[-1].endswith(f"the same command starts it again; it resumes from step {step}")
    code, _, err = call(capsys, "sample", run, "--n", 4, "--out", tmp_path / "samples")
    assert (code, len(list((tmp_path / "samples").glob("*.png")))) == (0, 4), err
    _, told = running(command(run, step + 1)).communicate(timeout=PATIENCE)
    assert step_of(run) == step + 1, told


def test_a_run_without_a_model_folder_is_sampled_from_its_checkpoint(running, tmp_path, capsys, notes):
    run = tmp_path / "run"
    process = running(command(run, LONG))
    wait_for_step(process, run, 0)
    process.kill()
    process.communicate()
    assert not (run / "model").exists()
    code, _, err = call(capsys, "sample", run, "--n", 2, "--out", tmp_path / "samples")
    assert (code, len(list((tmp_path / "samples").glob("*.png")))) == (0, 2), err
    assert f"its model is that of the checkpoint of step {step_of(run)}" in err
    assert not (run / "model").exists(), "nothing is written into the run"


def test_a_second_ctrl_c_ends_at_once(running, tmp_path):
    run = tmp_path / "run"
    slow = [*command(run, LONG), "--train.discriminator-steps", "400"]  # one step takes seconds
    process = running(slow)
    deadline = time.monotonic() + PATIENCE
    while not (run / "stats.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "ended without saving" in told) == (130, True), told
    assert time.monotonic() - asked < 3


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5])
def test_ctrl_c_while_it_starts_is_one_line_or_none(running, tmp_path, delay):
    process = running(command(tmp_path / "run", LONG))
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, -signal.SIGINT), told
    assert "Traceback" not in told or delay < 0.1, told  # before Python has come to the package, it is Python that tells
    assert not (tmp_path / "run" / "checkpoints").exists() or "starts it again" in told


def test_a_terminal_that_is_closed_saves_the_run(tmp_path):
    run = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, command(run, LONG))
    deadline = time.monotonic() + PATIENCE
    os.set_blocking(terminal, False)
    while step_of(run) == 0:
        assert time.monotonic() < deadline
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(terminal)  # the terminal sends SIGHUP, and whatever is written to it fails
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 2), "2: the results could not be printed"
    assert read_checkpoint(RunDir(run).list_checkpoints()[-1]).step == step_of(run)
    assert not list(run.rglob("*.writing"))


def test_two_processes_do_not_share_a_folder(running, tmp_path):
    run = tmp_path / "run"
    first = running(command(run, LONG))
    wait_for_step(first, run, 0)
    second = running([*command(run, LONG), "--train.seed", "1"])
    out, told = second.communicate(timeout=PATIENCE)
    assert (second.returncode, out, len(told.splitlines())) == (2, "", 1), told
    assert f"is in use by process {first.pid}" in told
    step = step_of(run)
    wait_for_step(first, run, step)
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE) == 0
    assert not (run / LOCK_NAME).exists()


def test_of_two_that_start_at_once_one_trains(running, tmp_path):
    run = tmp_path / "run"
    both = [running([*command(run, 8), "--train.seed", str(seed)]) for seed in (0, 1)]
    told = [process.communicate(timeout=PATIENCE)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], told  # one that comes late finds another run in the folder
    winner = codes.index(0)
    assert len(told[1 - winner].splitlines()) == 1, told
    assert RunDir(run).read_config().train.seed == winner


def test_a_run_moved_or_spelled_otherwise_is_resumed_without_its_first_weights(tmp_path, capsys):
    base = tmp_path / "base"
    assert subprocess.run(command(base, 2), capture_output=True).returncode == 0
    words = [*map(str, command(tmp_path / "fine", 4)), "--init-from"]
    for place in (base, f"{base}/", f"{tmp_path}/./base", "base"):
        done = subprocess.run([*words, str(place)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    base.rename(tmp_path / "moved")
    for place in (base, tmp_path / "moved"):
        done = subprocess.run([*words, str(place)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
