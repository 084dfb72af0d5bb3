"""Reading files that others made: regular files only, and never more than a stated number of bytes.

A FIFO or a device in a data folder would block or never end, and a small archive may unpack to terabytes."""

import io
import os
import stat
import zipfile
from pathlib import Path
from typing import IO

SMALL_FILE = 1 << 24
"""Bytes: the limit of configs, manifests, logs' lines and other JSON."""

ZIP_HEADER = 30
"""Bytes of the header of a file in a zip archive, without its name."""


class RefusedFile(OSError):
    """A file that is not read: it is not a regular file, or larger than the limit. Another attempt gives the same answer."""


def open_regular_file(path: Path | str) -> IO[bytes]:
    """Open a file for reading in binary mode. Links are followed.

    Raises RefusedFile if it is not a regular file (a FIFO, a socket, a device, a folder), without waiting for a writer, and
    OSError if it cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RefusedFile(f"{path} is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_at_most(stream: IO[bytes], limit: int, what: str) -> bytes:
    """All bytes that are left in a stream. Raises RefusedFile if there are more than `limit`; `what` names the stream."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise RefusedFile(f"{what} is larger than {limit:,} bytes")
    return data


def read_file(path: Path | str, limit: int) -> bytes:
    """All bytes of a regular file. Raises RefusedFile if it is not one or is larger than `limit` bytes, OSError if it cannot
    be read."""
    with open_regular_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:  # nothing is read of it, and no memory taken
            raise RefusedFile(f"{path} is larger than {limit:,} bytes")
        largest = min(limit, max(size, SMALL_FILE))  # Python allocates as many bytes as it is asked to read
        return read_at_most(stream, largest, str(path))


def read_zip_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The content of a file in a zip archive, at most `limit` bytes, whatever its header declares.

    It is inflated in small pieces: `ZipFile.read` would inflate all of it before it looks at the declared size. Raises
    RefusedFile on more than `limit` bytes, and what zipfile raises on damaged entries."""
    name = entry.filename
    if entry.file_size > limit:
        raise RefusedFile(f"{name} has {entry.file_size:,} bytes unpacked, more than {limit:,}")
    buffer = io.BytesIO()
    with archive.open(entry) as stream:
        while piece := stream.read(1 << 16):
            buffer.write(piece)
            if buffer.tell() > limit:
                raise RefusedFile(f"{name} has more than {limit:,} bytes unpacked")
    return buffer.getvalue()


def check_zip_layout(archive: zipfile.ZipFile) -> None:
    """Raises ValueError if entries of a zip archive share bytes: archives of a few megabytes that unpack to petabytes are
    made so."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ValueError(f"its entry {info.filename!r:.100} overlaps another")
        end = info.header_offset + ZIP_HEADER + len(info.orig_filename) + info.compress_size
