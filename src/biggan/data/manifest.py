"""manifest.json: the contents of a prepared data set (classes, counts, checksums), stored beside its pixels or shards."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from biggan.runtime.atomic_io import write_file
from biggan.runtime.errors import DataError, first_line

FORMAT = 2

NAME = "manifest.json"

SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""File names allowed for shards beside a manifest: no path, no address and no shell syntax."""


class Shard(NamedTuple):
    """A tar file of a set. `name` is a file name in the set's folder, or a complete path or address."""

    name: str
    images: int
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    format: int
    layout: str
    """packed or wds."""
    source: str
    identity: str
    """sha256 of the source's files and labels and of the options of preparation."""
    resolution: int | None
    """Side of the square images in pixels; None for shards with images of any size."""
    images: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    rejected: int
    """Images that could not be read and were left out."""
    sha256: str
    """packed: checksum of images.u8 followed by the labels as int64. wds: checksum of the shards' hexadecimal checksums in
    order, separated by spaces."""
    shards: tuple[Shard, ...] = ()


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Write a manifest atomically. Raises OSError."""
    write_file(file, (json.dumps(asdict(manifest), indent=2) + "\n").encode())


def parse_manifest(text: bytes, location: str, layout: str | None, *, any_location: bool = False) -> Manifest:
    """The manifest in the bytes of a file at `location`. Its shards must lie beside it unless `any_location`. Raises
    DataError on a damaged or inconsistent manifest, and on another layout or version."""
    try:
        values = json.loads(text)
        number = values["format"]
        if number == FORMAT:
            manifest = TypeAdapter(Manifest).validate_python(values)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{location}/{NAME} cannot be read ({first_line(error)}): prepare the set again") from error
    if number != FORMAT:
        raise DataError(f"{location} is of format {number}, this version reads {FORMAT}: prepare the set again")
    if layout is not None and manifest.layout != layout:
        raise DataError(
            f"{location} has the layout {manifest.layout}, not {layout}: use --data {manifest.layout}:{location}"
        )
    counted = sum(manifest.class_counts), sum(shard.images for shard in manifest.shards) or manifest.images
    if counted != (manifest.images,) * 2 or len(manifest.class_counts) != len(manifest.class_names):
        raise DataError(f"{location}/{NAME} contradicts itself in its counts: prepare the set again")
    if any(shard.images < 1 for shard in manifest.shards):
        raise DataError(f"{location}/{NAME} lists shards without images: prepare the set again")
    if not any_location and not all(SHARD_NAME.fullmatch(shard.name) for shard in manifest.shards):
        raise DataError(f"{location}/{NAME} names shards outside of its folder: prepare the set again")
    return manifest


def read_manifest(folder: Path, layout: str | None) -> Manifest:
    """The manifest of a folder, of a certain layout or of any (None). Raises DataError if there is no valid manifest."""
    try:
        return parse_manifest((folder / NAME).read_bytes(), str(folder), layout)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {NAME}: make it with biggan data prepare SOURCE {folder} --format {layout or 'packed'}"
        ) from error
    except OSError as error:
        raise DataError(f"{folder / NAME} cannot be read ({error})") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder has a manifest.json written by `biggan data prepare`; other programs also use this file name."""
    try:
        return "class_counts" in json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, TypeError):
        return False
