"""Reading the samples of one WebDataset shard from a disk, a web server or an object store."""

import http.client
import io
import os
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import ModuleType
from typing import IO, NamedTuple

from biggan.data.manifest import Shard
from biggan.data.sources import IMAGE_SUFFIXES
from biggan.runtime.errors import DataError

HTTP_TIMEOUT = 60.0  # seconds without an answer from a web server

READ_FAILURES = (OSError, EOFError, ValueError, tarfile.TarError, http.client.HTTPException)
"""What reading a shard may raise: network and disk errors, a truncated tar file, a sample without an image or a class."""


class Sample(NamedTuple):
    """An encoded image file of a shard, with the class number stored beside it."""

    name: str
    data: bytes
    label: int


def read_samples(url: str) -> Iterator[Sample]:
    """The samples of a tar file, in order. Raises one of READ_FAILURES."""
    library = import_webdataset()
    with open_url(url) as stream:
        files = library.tariterators.tar_file_expander([{"url": url, "stream": stream}])
        for sample in library.tariterators.group_by_keys(files):
            suffix = next((name for name in sample if f".{name}" in IMAGE_SUFFIXES), None)
            if suffix is None or "cls" not in sample:
                raise ValueError(f"{sample['__key__']} has no image or no class (.cls) beside it")
            yield Sample(f"{PurePosixPath(url).name}/{sample['__key__']}.{suffix}", sample[suffix], int(sample["cls"]))


def error_reason(error: Exception) -> str:
    """Type and message of an error in one line, without the sample objects that webdataset appends to `error.args`."""
    message = error if isinstance(error, OSError) or not error.args else error.args[0]
    return f"{type(error).__name__}: {message}"


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
        return io.BufferedReader(urllib.request.urlopen(url, timeout=HTTP_TIMEOUT), 1 << 20)
    if not os.path.isabs(url) and (url.startswith("pipe:") or "://" in url):
        return import_webdataset().gopen(url, "rb")
    return open(url, "rb")


def import_webdataset() -> ModuleType:
    """The webdataset library. Raises DataError if it is not installed."""
    try:
        import webdataset
    except ModuleNotFoundError as error:
        raise DataError("shards need webdataset: pip install 'biggan-torch[wds]'") from error
    return webdataset
