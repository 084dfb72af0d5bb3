"""Weights that others made: fetched, checked, read. Code in them is never run.

Not here: what the tensors mean (see pretrained, metrics).
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path

from biggan.runtime.atomic_io import write_stream

BLOCK = 1 << 20

Progress = Callable[[str, int, int | None], None]

"""(file, bytes so far, bytes in all if known)"""


def silent(file: str, done: int, total: int | None) -> None:
    """Shows nothing."""


def fetch(address: str, target: Path, progress: Progress, *, sha256: str | None = None) -> None:
    """One file, whole or not at all. Raises OSError where it cannot be fetched or has another checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def checked(answer: HTTPResponse) -> Iterator[bytes]:
        for block in blocks(answer, lambda done, total: progress(target.name, done, total)):
            digest.update(block)
            yield block
        if sha256 is not None and digest.hexdigest() != sha256:
            raise OSError(f"its sha256 is {digest.hexdigest()}, not {sha256}")

    with urllib.request.urlopen(address, timeout=60) as answer:
        write_stream(target, checked(answer))


def blocks(answer: HTTPResponse, progress: Callable[[int, int | None], None]) -> Iterator[bytes]:
    """The body of an answer in pieces. Raises OSError where it ends early."""
    length, done = answer.headers["Content-Length"], 0
    total = None if length is None else int(length)
    while block := answer.read(BLOCK):
        done += len(block)
        progress(done, total)
        yield block
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
