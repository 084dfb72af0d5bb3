"""The cache of decoded images: a folder for each data set and resolution, with images.npy, labels.npy and facts.json."""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from biggan.data.checksums import block_checksums, check_blocks, open_images, read_labels
from biggan.data.image_decoding import Size
from biggan.runtime.atomic_io import sync, write_file
from biggan.runtime.bounded_io import RefusedFile
from biggan.runtime.environment import local_world_size
from biggan.runtime.errors import first_line, reason_for
from biggan.runtime.json_text import read_json
from biggan.runtime.memory import total_memory

logger = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """A decoded data set: images (N, 3, R, R) uint8 and labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray
    content_hash: str
    """sha256 of the images followed by the labels."""
    sizes: tuple[Size, Size]
    """(width, height) of the smallest and of the largest image file."""
    broken: int
    """Number of unreadable images that were left out."""


def content_hash(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 of images (N, 3, R, R) uint8 followed by labels (N,) int64."""
    digest = hashlib.sha256(images.data)
    digest.update(labels.tobytes())
    return digest.hexdigest()


class Facts(NamedTuple):
    """facts.json: what is known about an entry beside its arrays."""

    images: int
    classes: int
    resolution: int
    content_hash: str
    sizes: tuple[Size, Size]
    broken: int
    blocks: tuple[str, ...]
    """Checksums of the blocks of images.npy."""
    labels: str
    """sha256 of the labels."""


def read_cache(folder: Path) -> Decoded | None:
    """An entry of the cache, or None if there is none. The images are loaded into memory if all ranks of this machine
    together need less than a quarter of it, else memory-mapped. A damaged entry is reported in the log and removed."""
    if not folder.exists():
        return None
    ranks, memory = local_world_size(), total_memory()
    try:
        values = read_json(folder / "facts.json")
        if values.pop("checksum", None) != facts_checksum(values):
            raise ValueError("facts.json has changed")
        facts = TypeAdapter(Facts).validate_python(values)
        check_blocks(folder / "images.npy", facts.blocks)
        labels = read_labels(folder / "labels.npy", facts.images, facts.classes)
        if hashlib.sha256(labels.tobytes()).hexdigest() != facts.labels:
            raise ValueError("labels.npy has changed")
        images = open_images(folder / "images.npy", (facts.images, 3, facts.resolution, facts.resolution))
        if memory is None or images.nbytes * ranks < memory / 4:
            images = np.array(images)
        return Decoded(images, labels, facts.content_hash, facts.sizes, facts.broken)
    except (FileNotFoundError, NotADirectoryError, RefusedFile, ValueError) as error:
        logger.warning("the decoded images in %s are damaged (%s): they are decoded again", folder, first_line(error))
        remove_cache(folder)
        return None
    except OSError as error:  # a disk or a limit of the system, not the entry
        logger.warning("the decoded images in %s cannot be read (%s): they are decoded again", folder, reason_for(error))
        return None


def facts_checksum(values: dict[str, Any]) -> str:
    """sha256 of facts.json without its own checksum."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def remove_cache(folder: Path) -> None:
    """Remove an entry as far as the file system allows it."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            folder.unlink(missing_ok=True)


def write_cache(folder: Path, decoded: Decoded, classes: int) -> None:
    """Write an entry of the cache atomically. Raises OSError, for example on a full disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        np.save(scratch / "images.npy", decoded.images)
        np.save(scratch / "labels.npy", decoded.labels)
        for name in ("images.npy", "labels.npy"):
            with open(scratch / name, "rb") as file:
                sync(file.fileno())
        facts = Facts(
            images=len(decoded.labels),
            classes=classes,
            resolution=decoded.images.shape[-1],
            content_hash=decoded.content_hash,
            sizes=decoded.sizes,
            broken=decoded.broken,
            blocks=block_checksums(scratch / "images.npy"),
            labels=hashlib.sha256(decoded.labels.tobytes()).hexdigest(),
        )
        values = json.loads(json.dumps(facts._asdict()))
        write_file(scratch / "facts.json", json.dumps(values | {"checksum": facts_checksum(values)}).encode())
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
