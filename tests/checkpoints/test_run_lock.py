"""A run folder has one owner at a time."""

import errno
import json
import multiprocessing
import os
import shutil
import socket

import pytest
import torch
from conftest import tiny_config

from biggan.checkpoints import run_lock
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.run_lock import LOCK_NAME
from biggan.checkpoints.run_lock import run_lock as lock
from biggan.runtime.errors import CheckpointError

DEAD = 1 << 22  # above the largest process number of Linux


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)


def owner(pid, host=None):
    return json.dumps({"pid": pid, "host": host or socket.gethostname(), "since": "2019-01-01 00:00:00"})


def hold(folder, ready, end):
    with lock(folder):
        ready.set()
        end.wait(60)


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready, end))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(CheckpointError, match=rf"is in use by process {process.pid} on .*: wait for it"),
        lock(tmp_path / "run"),
    ):
        pass
    process.kill()
    process.join()
    assert (tmp_path / "run" / LOCK_NAME).exists(), "its file stays behind"
    with lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_a_new_folder_that_nothing_was_written_into_is_removed_again(tmp_path):
    with lock(tmp_path / "runs" / "new"):
        pass
    assert not (tmp_path / "runs").exists()
    (tmp_path / "old").mkdir()
    with lock(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_the_lock_file_is_no_way_out_of_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run" / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError), lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "text"


@pytest.fixture(params=["no locks on this file system", "no locks on this system"])
def without_locks(request, monkeypatch):
    if request.param == "no locks on this system":
        monkeypatch.setattr(run_lock, "fcntl", None)
        return

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (owner(DEAD), None),
        (owner(1), "in use by process 1 on"),
        (owner(1, "elsewhere"), r"on elsewhere, since .*: if that process has ended, remove .*\.lock"),
        ("", None),
        ("[1]", None),
        ('{"pid": -1, "host": "a", "since": "b"}', None),
        ('{"pid": "rm", "host": 3, "since": []}', None),
    ],
)
def test_without_locks_of_the_system_the_owner_is_looked_for(without_locks, tmp_path, text, message):
    (tmp_path / LOCK_NAME).write_text(text)
    if message is None:
        with lock(tmp_path):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(CheckpointError, match=message), lock(tmp_path):
            pass
        assert (tmp_path / LOCK_NAME).read_text() == text


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="something else has that name") as error, lock(tmp_path / "file" / "run"):
        pass
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_removed_or_replaced_is_not_written_to(replaced, tmp_path):
    """Another run may have begun there."""
    folder = RunDir(tmp_path / "run")
    folder.claim(tiny_config())
    with lock(folder.path) as folder.check_owned:
        folder.save(1, {"a": torch.zeros(1)}, {}, keep=2)
        shutil.rmtree(folder.path)
        if replaced:
            other = RunDir(tmp_path / "run")
            other.claim(tiny_config())
            (folder.path / LOCK_NAME).write_text("another's")
        for write in (
            lambda: folder.save(2, {"a": torch.zeros(1)}, {}, keep=2),
            lambda: folder.append_alarms([{"rule": "x", "step": 2}]),
            lambda: folder.save_rollbacks({"collapsed": 1}),
        ):
            with pytest.raises(CheckpointError, match="was removed or replaced while the run went on"):
                write()
    assert not list(tmp_path.rglob("step-*"))
    assert (folder.path / LOCK_NAME).exists() == replaced, "the other's lock stays"
