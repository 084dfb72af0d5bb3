"""Checksums of stored pixels and labels, with which damage is noticed before it is trained on.

Files of pixels may be too large to be read at each start, so that they have a checksum for each block of 4 MiB: a few
blocks, chosen at random, are compared each time; all of them only if that is asked for."""

import hashlib
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from biggan.runtime.bounded_io import open_regular_file, read_file

BLOCK_BYTES = 1 << 22

SAMPLED_BLOCKS = 16
"""Blocks that are compared at each start: 64 MiB, a fraction of a second."""

NPY_HEADER = 1 << 12
"""Bytes: more than the header of any .npy file that is read here."""


def block_checksums(file: Path) -> tuple[str, ...]:
    """A checksum of each block of a file, in order. Raises OSError."""
    with open_regular_file(file) as stream:
        return tuple(checksum(block) for block in iter(lambda: stream.read(BLOCK_BYTES), b""))


def checksum(block: bytes) -> str:
    """The checksum of a block: 64 bits of BLAKE2b, as hexadecimal digits."""
    return hashlib.blake2b(block, digest_size=8).hexdigest()


def check_blocks(file: Path, checksums: Sequence[str]) -> None:
    """Compare SAMPLED_BLOCKS random blocks of a file, or all if there are no more, and its length. Raises ValueError if they
    differ from `checksums`, OSError if it cannot be read."""
    with open_regular_file(file) as stream:
        length = stream.seek(0, io.SEEK_END)
        if -(-length // BLOCK_BYTES) != len(checksums):
            raise ValueError(f"{file.name} has {length:,} bytes, which is not its length")
        numbers = range(len(checksums))  # not seeded: each start looks at other blocks
        for number in sorted(random.SystemRandom().sample(numbers, min(SAMPLED_BLOCKS, len(numbers)))):
            stream.seek(number * BLOCK_BYTES)
            if checksum(stream.read(BLOCK_BYTES)) != checksums[number]:
                raise ValueError(f"{file.name} has changed at byte {number * BLOCK_BYTES:,} or after it")


def read_labels(file: Path, count: int, classes: int) -> np.ndarray:
    """The labels (count,) int64 of a .npy file. Raises ValueError if it holds anything else, or a label that is not below
    `classes`, and OSError if it cannot be read."""
    data = read_file(file, 8 * count + NPY_HEADER)
    try:
        labels = np.load(io.BytesIO(data))
    except Exception as error:  # NumPy evaluates the header as a Python literal, which fails in many ways
        raise ValueError(f"{file.name} is no array of labels") from error
    if not isinstance(labels, np.ndarray) or labels.shape != (count,) or labels.dtype != np.int64:
        raise ValueError(f"{file.name} does not hold {count} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{file.name} holds labels that are not 0 to {classes - 1}")
    return labels


def open_images(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 images of a .npy file, memory-mapped (copy on write). Raises ValueError if it holds anything else, OSError
    if it cannot be read."""
    open_regular_file(file).close()
    try:
        images = np.load(file, mmap_mode="c")
    except OSError:
        raise
    except Exception as error:  # as in `read_labels`
        raise ValueError(f"{file.name} is no array of images") from error
    if not isinstance(images, np.ndarray) or images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"{file.name} does not hold images of the shape {shape}")
    return images
