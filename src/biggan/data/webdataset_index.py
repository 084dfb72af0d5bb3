"""Opening shards: a folder or an address with the manifest of `data prepare`, or bare tar files, which are read once to
learn how many images and which classes they hold. What was learnt is kept in the cache."""

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

from biggan.data.manifest import FORMAT, NAME, Manifest, Shard, parse_manifest, read_manifest, write_manifest
from biggan.data.sources import open_image, stat_of
from biggan.data.webdataset import FAILURES, PAUSE, TRIES, ShardSource, error_reason, open_url, read_samples, webdataset
from biggan.runtime.errors import DataError
from biggan.runtime.progress import progress_bar

logger = logging.getLogger(__name__)


def open_shards(
    where: str,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    shuffle_buffer: int,
    cache: Path,
) -> ShardSource:
    """The stream of what follows "wds:": a folder or an address that holds manifest.json, a folder of tar files, or a
    pattern of them such as https://host/set/{000..127}.tar. Raises DataError where nothing there can be read."""
    webdataset()  # says at once what is missing
    manifest, base = load_manifest(where, cache)
    if manifest.resolution is not None and manifest.resolution < resolution:
        text = "data: %s was prepared at %d px and is enlarged to %d"
        logger.warning(text, where, manifest.resolution, resolution)
    numbers = range(len(manifest.class_names)) if base else [int(name) for name in manifest.class_names]
    return ShardSource(
        name=f"wds:{where}",
        class_names=manifest.class_names,
        shards=tuple(shard._replace(name=base + shard.name) for shard in manifest.shards),
        labels_in_files={number: label for label, number in enumerate(numbers)},
        resolution=resolution,
        content_hash=manifest.sha256,
        sizes=manifest.sizes,
        flip=flip,
        skip_broken=skip_broken,
        shuffle_buffer=shuffle_buffer,
    )


def load_manifest(where: str, cache: Path) -> tuple[Manifest, str]:
    """The manifest of shards, and what stands before their names: "" for shards with whole addresses of their own. Local
    files get absolute paths, so that `open_url` takes none for an address."""
    folder = Path(where).expanduser().absolute()
    if where.endswith(".tar") or "{" in where or where.startswith("pipe:"):
        return build_index(shards_named(where), where, cache), ""
    if "://" in where:
        address = f"{where.rstrip('/')}/{NAME}"
        try:
            return parse_manifest(tried(partial(fetched, address)), where, "wds"), f"{where.rstrip('/')}/"
        except FAILURES as error:
            raise DataError(
                f"data source wds:{where}: {address} cannot be read ({error_reason(error)}); name bare shards by a "
                f"pattern such as wds:{where.rstrip('/')}/{{000..127}}.tar"
            ) from error
    if (folder / NAME).exists():
        return read_manifest(folder, "wds"), f"{folder}/"
    files = sorted(str(path) for path in folder.glob("*.tar"))
    if not files:
        raise DataError(f"data source wds:{where}: no such folder, or no {NAME} and no tar file in it")
    return build_index(files, where, cache), ""


def shards_named(pattern: str) -> list[str]:
    """The addresses that a pattern with braces stands for, and the absolute paths of files; a command only where the pattern
    itself begins with "pipe:". Raises DataError on a file that is not there."""
    from braceexpand import braceexpand

    names = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    if pattern.startswith("pipe:"):
        return names
    local = {name: Path(name).expanduser().absolute() for name in names if "://" not in name}
    for name, file in local.items():
        if not file.is_file():
            raise DataError(f"data source wds:{pattern}: {name} is not a file")
    return [str(local.get(name, name)) for name in names]


T = TypeVar("T")


class Look(NamedTuple):
    """What is in one shard."""

    labels: collections.Counter
    smallest: tuple[int, int]
    largest: tuple[int, int]


def build_index(addresses: list[str], where: str, cache: Path) -> Manifest:
    """The manifest of bare shards, from the cache or by reading all of them. A local file that has changed is read again;
    of a remote one it is assumed that it does not change under its name."""
    stamps = [stat_of(Path(name)) if Path(name).is_file() else None for name in addresses]
    stamp = hashlib.sha256(repr([FORMAT, addresses, stamps]).encode()).hexdigest()
    kept = cache / f"shards-{stamp[:24]}.json"
    if kept.exists():
        try:
            known = parse_manifest(kept.read_bytes(), str(kept), "wds", anywhere=True)
            if [shard.name for shard in known.shards] == addresses:
                return known
        except DataError:
            kept.unlink()  # damaged: counted anew
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(progress_bar(pool.map(look_into, addresses), len(addresses), "counting"))
    counts = sum((look.labels for look in looks), collections.Counter())
    contents = [(Path(name).name, sorted(look.labels.items())) for name, look in zip(addresses, looks, strict=True)]
    manifest = Manifest(
        format=FORMAT,
        layout="wds",
        source=where,
        identity=stamp,
        resolution=None,
        images=counts.total(),
        class_names=tuple(str(label) for label in sorted(counts)),
        class_counts=tuple(counts[label] for label in sorted(counts)),
        sizes=(
            min((look.smallest for look in looks), key=lambda size: size[0] * size[1]),
            max((look.largest for look in looks), key=lambda size: size[0] * size[1]),
        ),
        rejected=0,
        sha256=hashlib.sha256(repr(contents).encode()).hexdigest(),
        shards=tuple(Shard(name, look.labels.total()) for name, look in zip(addresses, looks, strict=True)),
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, kept)
    except OSError:
        return manifest  # the next start counts again
    return manifest


def tried(action: Callable[[], T]) -> T:
    """What `action` returns, in some tries. Raises what it raised in the last, one of FAILURES."""
    for trial in range(1, TRIES):
        try:
            return action()
        except FAILURES:
            time.sleep(PAUSE * 2 ** (trial - 1))
    return action()


def fetched(address: str) -> bytes:
    """All bytes there."""
    with open_url(address) as stream:
        return stream.read()


def look_into(address: str) -> Look:
    """Read one shard through, in some tries. Raises DataError where it cannot be read or is empty."""
    try:
        labels, sizes = tried(partial(scan_shard, address))
    except FAILURES as error:
        raise DataError(f"shard {address} cannot be read ({error_reason(error)}): mend it or leave it out") from error
    if not labels:
        raise DataError(f"shard {address} holds no image with a class (.cls) beside it")
    if not sizes:
        raise DataError(f"shard {address}: none of its {labels.total()} images can be read")
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return Look(labels, by_area[0], by_area[-1])


def scan_shard(address: str) -> tuple[collections.Counter, list[tuple[int, int]]]:
    """How many images of each class are in a shard, and the sizes of those that can be read."""
    labels, sizes = collections.Counter(), []
    for sample in read_samples(address):
        labels[sample.label] += 1
        with contextlib.suppress(Exception), open_image(io.BytesIO(sample.data)) as image:  # decodes nothing
            sizes.append(image.size)  # Pillow raises a dozen kinds; a broken image is dealt with when it is wanted
    return labels, sizes
