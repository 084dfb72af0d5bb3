"""Atomic writing of files and folders: written under a temporary name, synced to disk, then renamed.

Also the hash of a file, and the location of the cache folder.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
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
    scratch = target.with_name(f".{target.name}.writing")
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
