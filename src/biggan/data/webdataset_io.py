"""Reading the samples of one WebDataset shard from a disk, a web server or an object store."""

import http.client
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import ModuleType
from typing import IO

from biggan.data.manifest import Shard
from biggan.data.tar_samples import Sample, read_samples_of
from biggan.runtime.bounded_io import open_regular_file
from biggan.runtime.download import open_http
from biggan.runtime.errors import DataError, first_line

READ_FAILURES = (OSError, EOFError, ValueError, tarfile.TarError, http.client.HTTPException)
"""What reading a shard may raise: network and disk errors, a damaged tar file, samples in another layout."""


def read_samples(url: str, left_out: Counter[str] | None = None) -> Iterator[Sample]:
    """The samples of a tar file, in order; `left_out` as in `read_samples_of`. Raises one of READ_FAILURES."""
    with open_url(url) as stream:
        yield from read_samples_of(stream, PurePosixPath(url).name, left_out)


def error_reason(error: Exception) -> str:
    """Type and message of an error in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def can_be_opened(shard: Shard) -> bool:
    """Whether the first byte of a shard can be read."""
    try:
        with open_url(shard.name) as stream:
            return bool(stream.read(1))
    except READ_FAILURES:
        return False


def open_url(url: str) -> IO[bytes]:
    """Open an absolute path, an http(s) address, or an address that webdataset opens through a program (gs:, hf:, pipe:).
    Raises OSError."""
    if url.startswith(("http://", "https://")):
        return open_http(url)
    if not os.path.isabs(url) and (url.startswith("pipe:") or "://" in url):
        return import_webdataset().gopen(url, "rb")
    return open_regular_file(url)


def import_webdataset() -> ModuleType:
    """The webdataset library. Raises DataError if it is not installed."""
    try:
        import webdataset
    except ModuleNotFoundError as error:
        raise DataError("shards need webdataset: pip install 'biggan-torch[wds]'") from error
    return webdataset
