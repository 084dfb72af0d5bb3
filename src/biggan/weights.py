"""Weights that others made: fetched, checked, read. Code in them is never run.

Not here: what the tensors mean (see pretrained, metrics).
"""

import hashlib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from biggan.errors import CheckpointError, first_line
from biggan.files import write_stream

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


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A dictionary of tensors from a safetensors file or a PyTorch file, whose code is never run.

    Raises CheckpointError where that is not what the file holds."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):  # torch does not look
            raise CheckpointError(f"{file} is damaged at {damaged}: fetch it again")
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {file}") from error
    except UnpicklingError as error:  # torch's own text would advise to trust the file
        raise CheckpointError(
            f"{file} cannot be read as tensors: it is damaged, or holds more than plain tensors, which is not trusted; "
            "give the file with the weights of one network"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as tensors ({first_line(error)}): fetch it again") from error
    if not isinstance(tensors, dict) or not all(is_plain(tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors: give the file with the weights of one network")
    return dict(tensors)


def is_plain(value: object) -> bool:
    """Whether it is a dense tensor of real numbers."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()
