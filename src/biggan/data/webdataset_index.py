"""Opening WebDataset shards: finding them and their manifest.

Sets written by `biggan data prepare` have a manifest.json. Bare tar files are scanned once to count their images and
classes; the resulting index is stored in the cache folder.
"""

import collections
import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from biggan.data.image_decoding import area, open_image
from biggan.data.manifest import FORMAT, NAME, Manifest, Shard, parse_manifest, read_manifest, write_manifest
from biggan.data.sources import size_and_mtime
from biggan.data.webdataset import MAX_ATTEMPTS, RETRY_DELAY, ShardSource
from biggan.data.webdataset_io import READ_FAILURES, error_reason, import_webdataset, open_url, read_samples
from biggan.runtime.errors import DataError
from biggan.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

T = TypeVar("T")


def open_shards(
    location: str,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    shuffle_buffer: int,
    cache: Path,
) -> ShardSource:
    """The source "wds:LOCATION".

    `location` is a folder or an address with a manifest.json, a folder of tar files, or a pattern of tar files with braces,
    such as https://host/set/{000..127}.tar. Raises DataError if nothing can be read there.
    """
    import_webdataset()  # reports a missing library before anything is read
    manifest, base = load_manifest(location, cache)
    if manifest.resolution is not None and manifest.resolution < resolution:
        text = "data: %s was prepared at %d px and is enlarged to %d"
        logger.warning(text, location, manifest.resolution, resolution)
    numbers = range(len(manifest.class_names)) if base else [int(name) for name in manifest.class_names]
    return ShardSource(
        name=f"wds:{location}",
        class_names=manifest.class_names,
        shards=tuple(shard._replace(name=base + shard.name) for shard in manifest.shards),
        label_by_number={number: label for label, number in enumerate(numbers)},
        resolution=resolution,
        content_hash=manifest.sha256,
        sizes=manifest.sizes,
        flip=flip,
        skip_broken=skip_broken,
        shuffle_buffer=shuffle_buffer,
    )


def load_manifest(location: str, cache: Path) -> tuple[Manifest, str]:
    """The manifest of a set of shards and the prefix of its shards' names: a folder or an address that ends in "/", or ""
    for bare shards, whose names are complete. Local paths are made absolute, so that `open_url` takes none for an
    address. Raises DataError if there is no readable manifest and no shard."""
    folder = Path(location).expanduser().absolute()
    if location.endswith(".tar") or "{" in location or location.startswith("pipe:"):
        return build_index(expand_pattern(location), location, cache), ""
    if "://" in location:
        prefix = f"{location.rstrip('/')}/"
        address = f"{prefix}{NAME}"
        try:
            return parse_manifest(retry(partial(read_url, address)), location, "wds"), prefix
        except READ_FAILURES as error:
            raise DataError(
                f"data source wds:{location}: {address} cannot be read ({error_reason(error)}); name bare shards by a "
                f"pattern such as wds:{prefix}{{000..127}}.tar"
            ) from error
    if (folder / NAME).exists():
        return read_manifest(folder, "wds"), f"{folder}/"
    files = sorted(str(path) for path in folder.glob("*.tar"))
    if not files:
        raise DataError(f"data source wds:{location}: no such folder, or no {NAME} and no tar file in it")
    return build_index(files, location, cache), ""


def expand_pattern(pattern: str) -> list[str]:
    """The addresses and absolute file paths of a pattern with braces. Only a pattern that itself begins with "pipe:" yields
    commands. Raises DataError on a missing file."""
    from braceexpand import braceexpand

    names = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    if pattern.startswith("pipe:"):
        return names
    local = {name: Path(name).expanduser().absolute() for name in names if "://" not in name}
    for name, file in local.items():
        if not file.is_file():
            raise DataError(f"data source wds:{pattern}: {name} is not a file")
    return [str(local.get(name, name)) for name in names]


class ShardContents(NamedTuple):
    """Class counts of one shard, and (width, height) of its smallest and of its largest readable image."""

    labels: collections.Counter
    smallest: tuple[int, int]
    largest: tuple[int, int]


def build_index(addresses: list[str], location: str, cache: Path) -> Manifest:
    """The manifest of bare shards, from the cache or by reading all of them. Changed local files are read again; remote
    files are assumed not to change under the same name. Raises DataError on an unreadable or empty shard."""
    stamps = [size_and_mtime(Path(name)) if Path(name).is_file() else None for name in addresses]
    stamp = hashlib.sha256(repr([FORMAT, addresses, stamps]).encode()).hexdigest()
    index_file = cache / f"shards-{stamp[:24]}.json"
    if index_file.exists():
        try:
            cached = parse_manifest(index_file.read_bytes(), str(index_file), "wds", any_location=True)
            if [shard.name for shard in cached.shards] == addresses:
                return cached
        except DataError:
            index_file.unlink()  # damaged
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shards = list(progress_bar(pool.map(inspect_shard, addresses), len(addresses), "counting"))
    counts = sum((shard.labels for shard in shards), collections.Counter())
    contents = [(Path(name).name, sorted(shard.labels.items())) for name, shard in zip(addresses, shards, strict=True)]
    manifest = Manifest(
        format=FORMAT,
        layout="wds",
        source=location,
        identity=stamp,
        resolution=None,
        images=counts.total(),
        class_names=tuple(str(label) for label in sorted(counts)),
        class_counts=tuple(counts[label] for label in sorted(counts)),
        sizes=(
            min((shard.smallest for shard in shards), key=area),
            max((shard.largest for shard in shards), key=area),
        ),
        rejected=0,
        sha256=hashlib.sha256(repr(contents).encode()).hexdigest(),
        shards=tuple(Shard(name, shard.labels.total()) for name, shard in zip(addresses, shards, strict=True)),
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, index_file)
    except OSError:
        return manifest  # an unwritable cache only means that the next start counts again
    return manifest


def retry(action: Callable[[], T]) -> T:
    """The result of `action`, which is attempted up to MAX_ATTEMPTS times. Raises the last attempt's READ_FAILURES."""
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return action()
        except READ_FAILURES:
            time.sleep(RETRY_DELAY * 2 ** (attempt - 1))
    return action()


def read_url(address: str) -> bytes:
    """All bytes at an address or a path. Raises one of READ_FAILURES."""
    with open_url(address) as stream:
        return stream.read()


def inspect_shard(address: str) -> ShardContents:
    """Read a whole shard, with retries. Raises DataError if it cannot be read, is empty or has no readable image."""
    try:
        labels, sizes = retry(partial(scan_shard, address))
    except READ_FAILURES as error:
        raise DataError(f"shard {address} cannot be read ({error_reason(error)}): repair it or leave it out") from error
    if not labels:
        raise DataError(f"shard {address} holds no image with a class (.cls) beside it")
    if not sizes:
        raise DataError(f"shard {address}: none of its {labels.total()} images can be read")
    by_area = sorted(sizes, key=area)
    return ShardContents(labels, by_area[0], by_area[-1])


def scan_shard(address: str) -> tuple[collections.Counter, list[tuple[int, int]]]:
    """The number of images of each class number in a shard, and the (width, height) of each readable image."""
    labels: collections.Counter[int] = collections.Counter()
    sizes = []
    for sample in read_samples(address):
        labels[sample.label] += 1
        with contextlib.suppress(Exception), open_image(io.BytesIO(sample.data)) as image:  # decodes nothing
            sizes.append(image.size)  # Pillow raises many kinds of error; broken images are handled when they are used
    return labels, sizes
