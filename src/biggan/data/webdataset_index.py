"""Opening WebDataset shards: finding them and their manifest.

Sets written by `biggan data prepare` have a manifest.json. Bare tar files are scanned once to count their images and
classes; the resulting index is stored in the cache folder. Their classes are the numbers, or the sorted names, that are
stored beside the images; images without any form one class.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import logging
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from biggan.data.formats import check_background, check_shards
from biggan.data.image_decoding import area, open_image
from biggan.data.image_modes import color_code
from biggan.data.manifest import FORMAT, MAX_BYTES, NAME, Manifest, Shard, parse_manifest, read_manifest, write_manifest
from biggan.data.sources import size_and_mtime
from biggan.data.tar_samples import CLASS_KEYS, NO_CLASS
from biggan.data.webdataset import MAX_ATTEMPTS, RETRY_DELAY, ShardSource
from biggan.data.webdataset_io import READ_FAILURES, error_reason, import_webdataset, open_url, read_samples
from biggan.runtime.bounded_io import RefusedFile, read_file
from biggan.runtime.errors import DataError, first_line
from biggan.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

INDEX_FORMAT = 3  # increased when what is counted changes, so that older indexes are not used

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MAX_SHARDS = 100_000  # names that braces may stand for

MAX_BRACES = 8

T = TypeVar("T")


def open_shards(
    location: str,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    shuffle_buffer: int,
    cache: Path,
    background: str | None = None,
    verify: bool = False,
) -> ShardSource:
    """The source "wds:LOCATION".

    `location` is a folder or an address with a manifest.json, a folder of tar files, or a pattern of tar files with braces,
    such as https://host/set/{000..127}.tar. Shards in a folder with a manifest are compared with it: their lengths, and
    their checksums if `verify`, which also counts bare shards again. `background`: color behind transparent pixels; None:
    white, or that of a prepared set. Raises DataError if nothing can be read there, or what is there is damaged.
    """
    import_webdataset()  # reports a missing library before anything is read
    manifest, base = load_manifest(location, cache, verify=verify)
    if os.path.isabs(base):
        check_shards(Path(base), manifest, verify)
    elif base and verify:
        check_remote_shards(base, manifest)
    if manifest.background is not None:
        check_background(location, manifest, background)
    if manifest.resolution is not None and manifest.resolution < resolution:
        text = "data: %s was prepared at %d px and is enlarged to %d"
        logger.warning(text, location, manifest.resolution, resolution)
    names = manifest.class_names
    label_by_class = {str(label) if base else name: label for label, name in enumerate(names)}
    if not base and len(names) == 1:
        label_by_class[NO_CLASS] = 0
    return ShardSource(
        name=f"wds:{location}",
        class_names=manifest.class_names,
        shards=tuple(shard._replace(name=base + shard.name) for shard in manifest.shards),
        label_by_class=label_by_class,
        resolution=resolution,
        content_hash=manifest.sha256,
        sizes=manifest.sizes,
        flip=flip,
        skip_broken=skip_broken,
        shuffle_buffer=shuffle_buffer,
        background=color_code(background or manifest.background or "white"),
    )


def check_remote_shards(base: str, manifest: Manifest) -> None:
    """Read every shard at an address and compare its sha256 with the manifest. Raises DataError if one differs or cannot be
    read."""
    for shard in progress_bar(manifest.shards, len(manifest.shards), "verifying", "shards"):
        digest = hashlib.sha256()
        try:
            with open_url(base + shard.name) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except READ_FAILURES as error:
            raise DataError(f"{base}{shard.name} cannot be read ({error_reason(error)}): make it available again") from error
        if shard.sha256 not in (None, digest.hexdigest()):
            raise DataError(f"{base}{shard.name} has changed since the set was prepared: prepare and upload it again")


def load_manifest(location: str, cache: Path, *, verify: bool = False) -> tuple[Manifest, str]:
    """The manifest of a set of shards and the prefix of its shards' names: a folder or an address that ends in "/", or ""
    for bare shards, whose names are complete. Local paths are made absolute, so that `open_url` takes none for an
    address. Raises DataError if there is no readable manifest and no shard."""
    folder = Path(location).expanduser().absolute()
    if manifest_is_in(folder):
        return read_manifest(folder, "wds"), f"{folder}/"
    if location.partition("?")[0].lower().endswith(TAR_SUFFIXES) or "{" in location or location.startswith("pipe:"):
        return build_index(expand_pattern(location), location, cache, verify), ""
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
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        names = []
    files = [str(folder / name) for name in names if name.lower().endswith(TAR_SUFFIXES)]
    if files and len(files) < len(names):
        others = [name for name in names if not name.lower().endswith(TAR_SUFFIXES)]
        text = "data: %s: %d files and folders that are no tar files are left out (first: %s)"
        logger.info(text, folder, len(others), others[0])
    if not files:
        raise DataError(f"data source wds:{location}: no such folder, or no {NAME} and no tar file in it")
    return build_index(files, location, cache, verify), ""


def manifest_is_in(folder: Path) -> bool:
    """Whether a folder, however it is called, holds a manifest."""
    try:
        return (folder / NAME).exists()
    except (OSError, ValueError):
        return False


def expand_pattern(pattern: str) -> list[str]:
    """The addresses and absolute file paths of a pattern with braces. Only a pattern that itself begins with "pipe:" yields
    commands. Raises DataError on a missing file, on braces that do not match, and on more than MAX_SHARDS names."""
    from braceexpand import braceexpand

    try:
        ranges = [abs(int(last) - int(first)) for first, last in re.findall(r"\{(-?\d{1,18})\.\.(-?\d{1,18})", pattern)]
        if re.search(r"\.\.-?\d{19}|\d{19}\.\.", pattern) or max(ranges, default=0) >= MAX_SHARDS:
            raise ValueError("a range is too long")
        if pattern.count("{") > MAX_BRACES:
            raise ValueError(f"there are more than {MAX_BRACES}")
        names = list(itertools.islice(braceexpand(pattern), MAX_SHARDS + 1)) if "{" in pattern else [pattern]
        if len(names) > MAX_SHARDS or not all(names):
            raise ValueError("an empty name" if len(names) <= MAX_SHARDS else f"more than {MAX_SHARDS:,} names")
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"data source wds:{pattern:.200}: its braces cannot be expanded ({first_line(error)}): write them as in "
            "data/{000..127}.tar"
        ) from error
    if pattern.startswith("pipe:"):
        return names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"data source wds:{pattern:.200}: its braces name {twice:.200} twice")
    local = {name: Path(name).expanduser().absolute() for name in names if "://" not in name}
    for name, file in local.items():
        if not file.is_file():
            raise DataError(f"data source wds:{pattern}: {name} is not a file")
    return [str(local.get(name, name)) for name in names]


class ShardContents(NamedTuple):
    """Class counts of one shard, and (width, height) of its smallest and of its largest readable image."""

    labels: collections.Counter
    left_out: collections.Counter
    """Samples without an image in a known format, by the suffixes of their files."""
    sha256: str
    """Of the names, classes and bytes of its images."""
    smallest: tuple[int, int]
    largest: tuple[int, int]


def build_index(addresses: list[str], location: str, cache: Path, verify: bool = False) -> Manifest:
    """The manifest of bare shards, from the cache or by reading all of them. Changed local files are read again, as are all
    files if `verify`; remote files are assumed not to change under the same name. Raises DataError on an unreadable or empty
    shard, and if some images have a class and others have none."""
    stamps = [size_and_mtime(Path(name)) if Path(name).is_file() else None for name in addresses]
    stamp = hashlib.sha256(repr([FORMAT, INDEX_FORMAT, addresses, stamps]).encode()).hexdigest()
    index_file = cache / f"shards-{stamp[:24]}.json"
    if index_file.exists() and not verify:
        try:
            cached = parse_manifest(read_file(index_file, MAX_BYTES), str(index_file), "wds", any_location=True)
            if [shard.name for shard in cached.shards] == addresses:
                return cached
        except (DataError, OSError) as error:
            logger.warning("%s: the shards are counted again", first_line(error))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shards = list(progress_bar(pool.map(inspect_shard, addresses), len(addresses), "counting", "shards"))
    left_out = sum((shard.left_out for shard in shards), collections.Counter())
    if left_out:
        text = "data: %s: %d samples have no image of a known format and are left out (%s)"
        logger.warning(text, location, left_out.total(), ", ".join(f"{n} {kind}" for kind, n in left_out.most_common(5)))
    counts = sum((shard.labels for shard in shards), collections.Counter())
    if counts[NO_CLASS] and len(counts) > 1:
        raise DataError(
            f"data source wds:{location}: {counts[NO_CLASS]} of {counts.total()} images have no class beside them (.cls, or "
            f"{', '.join(CLASS_KEYS)} in .json): add it, or make shards without them"
        )
    if NO_CLASS in counts:
        logger.warning("data: the shards %s hold no classes (.cls or .json): all images form one", location)
    names = {label: label or Path(addresses[0]).parent.name or "images" for label in counts}
    numeric = all(re.fullmatch(r"-?\d+", label) for label in counts)
    order = sorted(counts, key=int) if numeric else sorted(counts)
    contents = [shard.sha256 for shard in shards]
    manifest = Manifest(
        format=FORMAT,
        layout="wds",
        source=location,
        identity=stamp,
        resolution=None,
        images=counts.total(),
        class_names=tuple(names[label] for label in order),
        class_counts=tuple(counts[label] for label in order),
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
    """The result of `action`, which is attempted up to MAX_ATTEMPTS times. Raises the last attempt's READ_FAILURES; at once
    those that another attempt would not change."""
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return action()
        except (ValueError, RefusedFile, FileNotFoundError):
            raise
        except READ_FAILURES as error:
            logger.info("data: attempt %d of %d failed (%s)", attempt, MAX_ATTEMPTS, error_reason(error))
            time.sleep(RETRY_DELAY * 2 ** (attempt - 1))
    return action()


def read_url(address: str) -> bytes:
    """The bytes of a manifest at an address or a path. Raises one of READ_FAILURES."""
    data = b""
    with open_url(address) as stream:
        while block := stream.read(1 << 20):  # up to the end, beyond which a broken connection is noticed
            data += block
            if len(data) > MAX_BYTES:
                raise RefusedFile(f"{address} is larger than {MAX_BYTES:,} bytes")
    return data


def inspect_shard(address: str) -> ShardContents:
    """Read a whole shard, with retries. Raises DataError if it cannot be read, is empty or has no readable image."""
    try:
        labels, left_out, sha256, sizes = retry(partial(scan_shard, address))
    except READ_FAILURES as error:
        raise DataError(f"shard {address} cannot be read ({error_reason(error)}): repair it or leave it out") from error
    if not labels:
        raise DataError(f"shard {address} holds no image")
    if not sizes:
        raise DataError(f"shard {address}: none of its {labels.total()} images can be read")
    by_area = sorted(sizes, key=area)
    return ShardContents(labels, left_out, sha256, by_area[0], by_area[-1])


def scan_shard(address: str) -> tuple[collections.Counter, collections.Counter, str, list[tuple[int, int]]]:
    """The number of images of each class in a shard, that of samples without an image, by their suffixes, the sha256 of its
    samples, and the (width, height) of each readable image."""
    labels: collections.Counter[str] = collections.Counter()
    left_out: collections.Counter[str] = collections.Counter()
    digest, sizes = hashlib.sha256(), []
    for sample in read_samples(address, left_out):
        labels[sample.label] += 1
        digest.update(repr((sample.name, sample.label, len(sample.data))).encode())
        digest.update(sample.data)
        with contextlib.suppress(Exception), open_image(io.BytesIO(sample.data)) as image:  # decodes nothing
            sizes.append(image.size)  # Pillow raises many kinds of error; broken images are handled when they are used
    return labels, left_out, digest.hexdigest(), sizes
