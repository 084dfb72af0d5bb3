"""One process at a time writes into a run folder: a lock on the file RUN/.lock, which names its owner.

The system drops the lock with the process, however that ends. Where the file system knows no locks, the file itself is the
lock, and its owner is looked for among the processes of this machine."""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biggan.runtime.atomic_io import write_error_message
from biggan.runtime.errors import CheckpointError, reason_for
from biggan.runtime.json_text import read_json

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
PATIENCE = 1.0
"""Seconds that a process waits for its predecessor, which may be about to end."""

HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
UNSUPPORTED = {getattr(errno, name, 0) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL")}

logger = logging.getLogger(__name__)


@contextmanager
def run_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """Own a run folder, which is made if it is not there. Gives a function that raises CheckpointError where the folder has
    been removed or replaced meanwhile, and perhaps belongs to another run.

    Raises CheckpointError, in one line that says who has it, if another process does, or if the folder cannot be written
    to."""
    file, new = folder / LOCK_NAME, [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = acquire(file)
    except OSError as error:
        raise CheckpointError(write_error_message("the run", folder, error)) from error

    def check() -> None:
        """Raises CheckpointError unless the lock file is still the one that was locked."""
        try:
            is_ours = os.path.samestat(os.fstat(descriptor), os.stat(file))
        except OSError:
            is_ours = False
        if not is_ours:
            raise CheckpointError(
                f"run folder {folder} was removed or replaced while the run went on: nothing is saved in it"
            )

    try:
        yield check
    finally:
        with contextlib.suppress(OSError, CheckpointError):  # it may have been removed, replaced, or become read-only
            check()
            file.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # only folders that nothing was written into can be removed
            for path in new:
                path.rmdir()


def acquire(file: Path) -> int:
    """The descriptor of the lock file, locked and with this process's name in it. Raises CheckpointError if another process
    has it, OSError if it cannot be written."""
    deadline = time.monotonic() + PATIENCE
    if file.is_symlink():
        raise CheckpointError(f"{file} is a link, through which nothing is written: remove it")
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if try_lock(descriptor, file):
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(owner).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"run folder {file.parent} is in use by {describe_owner(read_owner(file))}: "
                "wait for it to end, or give another --run"
            )
        time.sleep(0.05)


def try_lock(descriptor: int, file: Path) -> bool:
    """Whether the lock is ours now. An owner removes the file when it ends: a lock on a removed file counts for nothing."""
    if fcntl is None:
        return is_abandoned(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in UNSUPPORTED:
            raise
        text = "%s: this file system has no locks (%s): do not start two runs in one folder"
        logger.info(text, file.parent, reason_for(error))
        return is_abandoned(file)
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def is_abandoned(file: Path) -> bool:
    """Where there are no locks: whether the owner that the file names is no process of this machine, or there is none."""
    owner = read_owner(file)
    if owner is None or (owner["host"] == socket.gethostname() and owner["pid"] == os.getpid()):
        return True
    if owner["host"] != socket.gethostname() or os.name != "posix":  # elsewhere os.kill does not ask, it ends a process
        raise CheckpointError(
            f"run folder {file.parent} is in use by {describe_owner(owner)}: if that process has ended, remove {file}"
        )
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's, and runs
        return False
    return False


def read_owner(file: Path) -> dict[str, Any] | None:
    """Who the lock file names, None where it names nobody."""
    try:
        owner = read_json(file, limit=4096)
    except (OSError, ValueError):
        return None
    pid, texts = owner.get("pid"), (owner.get("host"), owner.get("since"))
    is_sound = type(pid) is int and 0 < pid < 1 << 31 and all(isinstance(text, str) for text in texts)
    return owner if is_sound else None


def describe_owner(owner: dict[str, Any] | None) -> str:
    """The owner in words."""
    if owner is None:
        return "another process"
    return f"process {owner['pid']} on {owner['host'][:100]}, since {owner['since'][:100]}"
