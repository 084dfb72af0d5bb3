"""Atomic writing of files and folders: written under a temporary name, synced to disk, then renamed.

A link under the name of the target is replaced, never followed; a device is not replaced. Also the hash of a file, and the
location of the cache folder.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from biggan.runtime.errors import CheckpointError


def default_cache() -> Path:
    """The default folder for decoded images, downloaded weights and other files that are kept between commands."""
    if "BIGGAN_CACHE" in os.environ:
        return Path(os.environ["BIGGAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "biggan"


def metrics_cache(cache: Path | None) -> Path:
    """Where a cache folder (None: the default one) holds weights of extractors and statistics of reference sets."""
    return (cache or default_cache()) / "metrics"


def write_error_message(what: str, target: Path, error: OSError) -> str:
    """The error message for a file or folder `target` that could not be written; `what` describes its content."""
    return (
        f"{what} could not be written to {target} ({error}): what was saved before is still there; "
        "free some space and give the same command again"
    )


def write_folder(target: Path, files: dict[str, bytes], what: str) -> None:
    """Write a folder with these files (name: content) atomically; an existing folder `target` is replaced.

    Raises CheckpointError if it cannot be written; `what` describes the folder in the message.
    """
    scratch = target.with_name(f".{target.name}.writing")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name, data in files.items():
            write_file(scratch / name, data)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise CheckpointError(write_error_message(what, target, error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_file(target: Path, data: bytes) -> None:
    """Write a file atomically; an existing file `target` is replaced. Raises OSError."""
    write_stream(target, [data])


def write_stream(target: Path, blocks: Iterable[bytes]) -> None:
    """Write a file atomically from an iterable of blocks. If the iterable raises an error, `target` is unchanged."""
    refuse_special_file(target)
    scratch = target.with_name(f".{target.name}.writing")
    scratch.unlink(missing_ok=True)  # a link would be followed
    try:
        with open(scratch, "wb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)


@contextmanager
def atomic_path(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """A context that gives a path beside `target`, of the same suffix, for a library to write a file to. Afterwards the file
    gets the name of the target; after an error it is removed, and `target` is unchanged. `durable` False: without syncing
    to disk, for many small files. Raises OSError."""
    refuse_special_file(target)
    scratch = target.with_name(f".writing-{target.name}")
    scratch.unlink(missing_ok=True)  # a link would be followed
    try:
        yield scratch
        if durable:
            with open(scratch, "rb+") as file:
                os.fsync(file.fileno())
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    if durable:
        sync_folder(target.parent)


def refuse_special_file(target: Path) -> None:
    """Raises OSError where `target` is, or links to, a device, a FIFO or a socket, which a rename would replace."""
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        raise OSError(errno.EINVAL, "not a regular file", str(target))


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, which makes renames in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(file: Path, *suffixes: bytes) -> str:
    """Hexadecimal sha256 of a file's content followed by `suffixes`."""
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    for data in suffixes:
        digest.update(data)
    return digest.hexdigest()
