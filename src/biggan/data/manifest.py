"""manifest.json: what a prepared data set holds, beside its pixels or its shards, on a disk or a web server."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from biggan.runtime.atomic_io import write_file
from biggan.runtime.errors import DataError

FORMAT = 2

NAME = "manifest.json"

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

"""Of a shard beside its manifest: nothing that leads elsewhere, or that the program which fetches it could take for more."""


class Shard(NamedTuple):
    """One tar file of a set: its name in the folder of the set, or a whole address."""

    name: str
    images: int
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared set holds."""

    format: int
    layout: str
    """packed, or wds."""
    source: str
    identity: str
    """Of the files and labels that it was made from, and how."""
    resolution: int | None
    """None: images of many sizes."""
    images: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    rejected: int
    sha256: str
    """packed: of images.u8, then the labels as int64. wds: of the shards' checksums, as text, in order."""
    shards: tuple[Shard, ...] = ()


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Written whole or not at all. Raises OSError."""
    write_file(file, (json.dumps(asdict(manifest), indent=2) + "\n").encode())


def parse_manifest(text: bytes, where: str, layout: str | None, *, anywhere: bool = False) -> Manifest:
    """The manifest in a file's bytes; its shards lie beside it, or `anywhere`. Raises DataError where it is none, of another
    layout or of another version."""
    try:
        values = json.loads(text)
        number = values["format"]
        if number == FORMAT:
            manifest = TypeAdapter(Manifest).validate_python(values)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{where}/{NAME} cannot be read ({reason}): prepare the set again") from error
    if number != FORMAT:
        raise DataError(f"{where} is of format {number}, this version reads {FORMAT}: prepare the set again")
    if layout is not None and manifest.layout != layout:
        raise DataError(f"{where} is laid out as {manifest.layout}, not as {layout}: use --data {manifest.layout}:{where}")
    counted = sum(manifest.class_counts), sum(shard.images for shard in manifest.shards) or manifest.images
    if counted != (manifest.images,) * 2 or len(manifest.class_counts) != len(manifest.class_names):
        raise DataError(f"{where}/{NAME} contradicts itself in its counts: prepare the set again")
    if any(shard.images < 1 for shard in manifest.shards):
        raise DataError(f"{where}/{NAME} lists shards without images: prepare the set again")
    if not anywhere and not all(PLAIN_NAME.fullmatch(shard.name) for shard in manifest.shards):
        raise DataError(f"{where}/{NAME} names shards outside of its folder: prepare the set again")
    return manifest


def read_manifest(folder: Path, layout: str | None) -> Manifest:
    """The manifest of a folder; `layout` None: of any. Raises DataError where there is none that can be used."""
    try:
        return parse_manifest((folder / NAME).read_bytes(), str(folder), layout)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {NAME}: make it with biggan data prepare SOURCE {folder} --format {layout or 'packed'}"
        ) from error
    except OSError as error:
        raise DataError(f"{folder / NAME} cannot be read ({error})") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours; other programs write files of that name too."""
    try:
        return "class_counts" in json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, TypeError):
        return False
