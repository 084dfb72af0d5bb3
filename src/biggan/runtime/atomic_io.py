"""Atomic writing of files and folders: written under a temporary name, synced to disk, then renamed.

A link under the name of the target is replaced, never followed; a device is not replaced. Also the hash of a file, and the
location of the cache folder.
"""

import errno
import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from biggan.runtime.bounded_io import RefusedFile, open_regular_file
from biggan.runtime.errors import ConfigError, reason_for, remedy_for

SCRATCH = ".writing-"
"""Beginning of the names of files that are being written."""

logger = logging.getLogger(__name__)


def default_cache() -> Path:
    """The default folder for decoded images, downloaded weights and other files that are kept between commands.

    $BIGGAN_CACHE, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan, or, where there is no home folder that can be written
    to, one in the folder for temporary files, which is logged. An empty variable is as good as none; a relative
    $BIGGAN_CACHE is below the current folder. Raises ConfigError if that temporary folder is another user's."""
    if os.environ.get("BIGGAN_CACHE"):
        return Path(os.path.expanduser(os.environ["BIGGAN_CACHE"]))
    user_cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(user_cache):  # by its specification a relative one is ignored
        return Path(user_cache) / "biggan"
    try:
        cache = Path.home() / ".cache" / "biggan"
    except RuntimeError:  # no $HOME, and no entry for this user in the system's table
        return temporary_cache()
    existing = next(folder for folder in (cache, *cache.parents) if os.path.exists(folder))
    return cache if existing == cache or os.access(existing, os.W_OK) else temporary_cache()


@functools.cache
def temporary_cache() -> Path:
    """A cache of this user alone below the folder for temporary files. It holds which code the user trusts, so it must not
    be writable by others. Raises ConfigError if it is another user's."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    cache = Path(tempfile.gettempdir()) / f"biggan-cache-{user}"
    try:
        cache.mkdir(mode=0o700, exist_ok=True)
        status = cache.lstat()
    except OSError as error:
        raise ConfigError(
            f"there is no home folder for the cache ({reason_for(error)}: {cache}): set BIGGAN_CACHE"
        ) from error
    foreign = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
    if foreign or not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"there is no home folder for the cache, and {cache} is somebody else's: set BIGGAN_CACHE")
    logger.warning("there is no home folder that can be written to: the cache is %s; set BIGGAN_CACHE to keep it", cache)
    return cache


def metrics_cache(cache: Path | None) -> Path:
    """Where a cache folder (None: the default one) holds weights of extractors and statistics of reference sets."""
    return (cache or default_cache()) / "metrics"


def write_error_message(what: str, target: Path, error: OSError) -> str:
    """The error message for a file or folder `target` that could not be written; `what` describes its content."""
    return f"{what} could not be written to {target} ({reason_for(error)}): {remedy_for(error)}"


def write_folder(target: Path, files: dict[str, Iterable[bytes | memoryview]]) -> None:
    """Write a folder with these files (name: blocks of its content) atomically, one after the other; an existing `target` is
    replaced. Raises OSError."""
    scratch = target.with_name(f".{target.name}.writing")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name, blocks in files.items():
            write_stream(scratch / name, blocks)
        if target.is_symlink():
            target.unlink()
        shutil.rmtree(target, ignore_errors=True)
        scratch.replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_file(target: Path, data: bytes) -> None:
    """Write a file atomically; an existing file `target` is replaced. Raises OSError."""
    write_stream(target, [data])


def write_stream(target: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """Write a file atomically from an iterable of blocks. If the iterable raises an error, `target` is unchanged."""
    refuse_special_file(target)
    scratch = scratch_path(target)
    try:
        with open(scratch, "xb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            sync(file.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)


def scratch_path(target: Path) -> Path:
    """A path beside `target`, of the same suffix, for what is being written: this process's own, because several may write
    the same file. What a killed process of the same number has left there, or a link, is removed."""
    scratch = target.with_name(f"{SCRATCH}{os.getpid()}-{target.name}")
    scratch.unlink(missing_ok=True)
    return scratch


def append_text(file: Path, text: str) -> None:
    """Add to the end of a file, or make it. Raises OSError, also where it is a link or no regular file."""
    refuse_special_file(file)
    if file.is_symlink():
        raise RefusedFile(f"{file} is a link, through which nothing is written")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(file, flags, 0o666), "a", encoding="utf-8") as stream:
        stream.write(text)


@contextmanager
def atomic_path(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """A context that gives a path beside `target`, of the same suffix, for a library to write a file to. Afterwards the file
    gets the name of the target; after an error it is removed, and `target` is unchanged. `durable` False: without syncing
    to disk, for many small files. Raises OSError."""
    refuse_special_file(target)
    scratch = scratch_path(target)
    try:
        yield scratch
        if durable:
            with open(scratch, "rb+") as file:
                sync(file.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    if durable:
        sync_folder(target.parent)


def refuse_special_file(target: Path) -> None:
    """Raises OSError where `target` is, or links to, a device, a FIFO or a socket, which a rename would replace."""
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        raise RefusedFile(f"{target} is not a regular file")


UNSUPPORTED = {getattr(errno, name, 0) for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES", "EPERM")}
"""Error numbers of file systems that cannot sync a file or a folder (CIFS, shared folders of virtual machines, Windows)."""


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, which makes renames in it durable, on systems that can. Raises OSError where the disk fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError as error:  # Windows opens no folders
        logger.debug("%s is not synced: %s", folder, reason_for(error))
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Sync an open file or folder to disk, on file systems that can. Raises OSError where the disk fails."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        logger.debug("not synced to disk: %s", reason_for(error))


def file_sha256(file: Path, *suffixes: bytes) -> str:
    """Hexadecimal sha256 of a file's content followed by `suffixes`."""
    with open_regular_file(file) as stream:
        digest = hashlib.file_digest(stream, "sha256")
    for data in suffixes:
        digest.update(data)
    return digest.hexdigest()
