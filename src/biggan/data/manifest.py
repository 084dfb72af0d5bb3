"""manifest.json: the contents of a prepared data set (classes, counts, checksums), stored beside its pixels or shards."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from biggan.runtime.atomic_io import write_file
from biggan.runtime.bounded_io import read_file
from biggan.runtime.errors import DataError, first_line
from biggan.runtime.json_text import parse_json, read_json

FORMAT = 2

NAME = "manifest.json"

MAX_BYTES = 1 << 26
"""Of a manifest: enough for 300,000 shards."""

Count = Annotated[int, Ge(0), Le(1 << 48)]

Side = Annotated[int, Ge(1), Le(1 << 16)]

SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""File names allowed for shards beside a manifest: no path, no address and no shell syntax."""


class Shard(NamedTuple):
    """A tar file of a set. `name` is a file name in the set's folder, or a complete path or address."""

    name: str
    images: Count
    bytes: Count | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    format: int
    layout: Literal["packed", "wds"]
    source: str
    identity: str
    """sha256 of the source's files and labels and of the options of preparation."""
    resolution: Side | None
    """Side of the square images in pixels; None for shards with images of any size."""
    images: Annotated[int, Ge(1), Le(1 << 48)]
    class_names: tuple[str, ...]
    class_counts: tuple[Count, ...]
    sizes: tuple[tuple[Count, Count], tuple[Count, Count]]
    """(width, height) of the smallest and of the largest image file."""
    rejected: int
    """Images that could not be read and were left out."""
    sha256: str
    """packed: checksum of images.u8 followed by the labels as int64. wds: checksum of the shards' hexadecimal checksums in
    order, separated by spaces."""
    shards: tuple[Shard, ...] = ()
    background: str | None = None
    """The color that transparent pixels were composed on, as #rrggbb; None in bare shards and in sets of earlier versions:
    they were not."""
    blocks: tuple[str, ...] = ()
    """packed: checksums of the blocks of images.u8; empty in sets of earlier versions."""
    labels_sha256: str | None = None
    """packed: sha256 of the labels as int64; None in sets of earlier versions."""


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Write a manifest with a checksum of itself, atomically. Raises OSError."""
    values = json.loads(json.dumps(asdict(manifest)))
    write_file(file, (json.dumps(values | {"checksum": manifest_checksum(values)}, indent=2) + "\n").encode())


def manifest_checksum(values: dict[str, Any]) -> str:
    """sha256 of the values in manifest.json without their checksum."""
    rest = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def parse_manifest(text: bytes, location: str, layout: str | None, *, any_location: bool = False) -> Manifest:
    """The manifest in the bytes of a file at `location`. Its shards must lie beside it unless `any_location`. Raises
    DataError on a damaged or inconsistent manifest, and on another layout or version."""
    try:
        values = parse_json(text)
        number = values.get("format")
        if number == FORMAT:
            manifest = TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{location}/{NAME} cannot be read ({reason}): prepare the set again") from error
    except ValueError as error:
        raise DataError(f"{location}/{NAME} cannot be read ({first_line(error)}): prepare the set again") from error
    if number != FORMAT:
        raise DataError(f"{location} is of format {number!r:.20}, this version reads {FORMAT}: prepare the set again")
    if layout is not None and manifest.layout != layout:
        raise DataError(
            f"{location} has the layout {manifest.layout}, not {layout}: use --data {manifest.layout}:{location}"
        )
    in_shards = sum(shard.images for shard in manifest.shards) if manifest.layout == "wds" else manifest.images
    names = len(set(manifest.class_names)), len(manifest.class_names)
    if (sum(manifest.class_counts), in_shards) != (manifest.images,) * 2 or names != (len(manifest.class_counts),) * 2:
        raise DataError(f"{location}/{NAME} contradicts itself in its counts: prepare the set again")
    if any(shard.images < 1 for shard in manifest.shards):
        raise DataError(f"{location}/{NAME} lists shards without images: prepare the set again")
    if not any_location and not all(SHARD_NAME.fullmatch(shard.name) for shard in manifest.shards):
        raise DataError(f"{location}/{NAME} names shards outside of its folder: prepare the set again")
    if values.get("checksum", manifest_checksum(values)) != manifest_checksum(values):
        raise DataError(
            f"{location}/{NAME} has been changed since it was written: prepare the set again, or, if you changed it on "
            "purpose, remove the checksum in it"
        )
    return manifest


def read_manifest(folder: Path, layout: str | None) -> Manifest:
    """The manifest of a folder, of a certain layout or of any (None). Raises DataError if there is no valid manifest."""
    try:
        return parse_manifest(read_file(folder / NAME, MAX_BYTES), str(folder), layout)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {NAME}: make it with biggan data prepare SOURCE {folder} --format {layout or 'packed'}"
        ) from error
    except OSError as error:
        raise DataError(f"{folder / NAME} cannot be read ({error}): prepare the set again") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder has a manifest.json written by `biggan data prepare`; other programs also use this file name."""
    try:
        return "class_counts" in read_json(folder / NAME, limit=MAX_BYTES)
    except (OSError, ValueError):
        return False
