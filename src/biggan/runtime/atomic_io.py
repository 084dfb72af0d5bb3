"""Writing files and folders whole or not at all: under another name, synced, then renamed; and where the cache is.

Not here: what is in them (see checkpoint, stats).
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from biggan.runtime.errors import CheckpointError


def default_cache() -> Path:
    """The folder for decoded images, weights and what else is kept between commands, unless another is given."""
    if "BIGGAN_CACHE" in os.environ:
        return Path(os.environ["BIGGAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "biggan"


def write_error_message(what: str, target: Path, error: OSError) -> str:
    """The message when the system does not take a file."""
    return (
        f"{what} could not be written to {target} ({error}): what was saved before is still there; "
        "free some space and give the same command again"
    )


def write_folder(target: Path, files: dict[str, bytes], what: str) -> None:
    """A folder of files under a temporary name, synced, then renamed to `target`. What stands there is replaced.

    Raises CheckpointError when the disk does not take it.
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
    """One file under a temporary name, synced, then renamed over `target`. Raises OSError."""
    write_stream(target, [data])


def write_stream(target: Path, blocks: Iterable[bytes]) -> None:
    """As `write_file`, from pieces as they come: where that ends in an error, `target` stays as it was."""
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
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
