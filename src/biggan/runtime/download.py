"""Files that others made: fetched over HTTP and checked."""

import hashlib
import logging
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

from biggan.runtime.atomic_io import write_stream
from biggan.runtime.progress import byte_progress_bar

BLOCK = 1 << 20  # bytes

logger = logging.getLogger(__name__)


def fetch(address: str, target: Path, *, sha256: str | None = None) -> None:
    """One file, whole or not at all. Raises OSError where it cannot be fetched or has another checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def checked(blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            digest.update(block)
            yield block
        if sha256 is not None and digest.hexdigest() != sha256:
            raise OSError(f"its sha256 is {digest.hexdigest()}, not {sha256}")

    with urllib.request.urlopen(address, timeout=60) as answer:
        length = answer.headers["Content-Length"]
        total = None if length is None else int(length)
        write_stream(target, checked(byte_progress_bar(read_blocks(answer, total), total, target.name)))
    logger.info("fetched %s", target.name)


def read_blocks(answer: HTTPResponse, total: int | None) -> Iterator[bytes]:
    """The body of an answer in pieces. Raises OSError where it ends early; `total` None: its length is not known."""
    done = 0
    while block := answer.read(BLOCK):
        done += len(block)
        yield block
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
