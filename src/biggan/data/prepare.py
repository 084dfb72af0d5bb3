"""Preparing data sets: filter a listing, decode its images once and store them in one of the layouts.

A prepared set is a folder with manifest.json (classes, counts, checksums), rejected.jsonl (the files that could not be read,
with reasons) and the files of its layout. Images are decoded in parallel; an interrupted preparation continues from its
journal when it is started again.
"""

import collections
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter

from biggan.data.class_names import find_name
from biggan.data.formats import Layout, check_packed, check_shards
from biggan.data.image_decoding import DECODING, Size, area
from biggan.data.loader import broken_image_error
from biggan.data.manifest import FORMAT, NAME, Manifest, Shard, read_manifest, write_manifest
from biggan.data.sources import Listing
from biggan.runtime.atomic_io import write_file
from biggan.runtime.bounded_io import read_file
from biggan.runtime.errors import ConfigError, DataError, first_line
from biggan.runtime.json_text import parse_json
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

JOURNAL = "progress.jsonl"

JOURNAL_BYTES = 1 << 30

REJECTED = "rejected.jsonl"


class Chunk(NamedTuple):
    """A line of the journal: what is known about a chunk of images that has been written."""

    kept: int
    """Images of this chunk and of all before it that were written."""
    labels: list[int]
    """Labels of the written images of this chunk."""
    smallest: Size | None
    largest: Size | None
    """(width, height) of the written images of this chunk; None if there is none."""
    rejected: list[tuple[str, str]]
    """Names of the files that could not be read, each with the reason."""
    shard: Shard | None
    sha256: str | None = None
    """Of the encoded images of this chunk."""


def filter_listing(
    listing: Listing,
    *,
    classes: tuple[str, ...] | None = None,
    min_per_class: int | None = None,
    max_per_class: int | None = None,
) -> Listing:
    """The listing restricted to certain classes.

    `classes`: only these classes. `min_per_class`: without classes that have fewer images. `max_per_class`: a fixed random
    choice of this many images from each larger class. None switches a filter off. Raises DataError on an unknown class, and
    if no image is left. BigGAN trained on the 8,500 most common labels of JFT-300M (section 4.2).
    """
    try:
        chosen = {listing.class_names[find_name(name, listing.class_names, f"in {listing.name}")] for name in classes or ()}
    except ConfigError as error:
        spaces = "; names are separated by spaces, not commas" if any("," in name for name in classes or ()) else ""
        raise DataError(f"data.classes: {error}{spaces}") from None
    by_class: dict[int, list[int]] = collections.defaultdict(list)
    for index, label in enumerate(listing.labels):
        by_class[label].append(index)
    selected = []
    for label, indices in sorted(by_class.items()):
        name = listing.class_names[label]
        if (classes is not None and name not in chosen) or len(indices) < (min_per_class or 0):
            continue
        if max_per_class is not None and len(indices) > max_per_class:
            order = torch.randperm(len(indices), generator=addressed_rng(0, f"choice of {name}"))
            indices = sorted(indices[position] for position in order[:max_per_class].tolist())
        selected += [(index, name) for index in indices]
    if not selected:
        raise DataError(f"{listing.name}: no image is left by data.classes, data.min_per_class and data.max_per_class")
    kept = {name for _, name in selected}
    names = tuple(name for name in listing.class_names if name in kept)  # numbers stay in numerical order
    label_by_name = {name: label for label, name in enumerate(names)}
    selected.sort()
    return listing._replace(
        images=tuple(listing.images[index] for index, _ in selected),
        labels=tuple(label_by_name[name] for _, name in selected),
        class_names=names,
    )


def prepare(listing: Listing, out: Path, layout: Layout, *, skip_broken: bool = True, verify: bool = False) -> Manifest:
    """Decode every image of the listing into the folder `out` and return the manifest.

    Unreadable images are left out and listed in rejected.jsonl; without `skip_broken` the first is an error. An interrupted
    call continues when it is repeated. `verify`: read a finished set again and compare it with its checksums. Raises
    DataError if the folder has other content or is damaged, or if no image of a class can be read, and OSError if the folder
    cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give a folder")
    out.mkdir(parents=True, exist_ok=True)
    facts = [FORMAT, DECODING, layout.name, vars(layout), listing.stamp, listing.images, listing.labels]
    identity = hashlib.sha256(repr(facts).encode()).hexdigest()
    if (out / NAME).exists():
        manifest = read_manifest(out, None)
        if manifest.identity != identity:
            raise DataError(f"{out} holds another set ({manifest.source}): give another folder, or remove it")
        (check_packed if manifest.layout == "packed" else check_shards)(out, manifest, verify)
        if manifest.rejected and not skip_broken:
            raise DataError(f"{out} was prepared without {manifest.rejected} broken images: leave out --no-skip-broken")
        return manifest
    journal = out / JOURNAL
    expected = (JOURNAL, REJECTED, *layout.files) if journal.exists() else ()  # no journal: not files of a preparation
    if any(not any(path.match(pattern) for pattern in expected) for path in out.iterdir() if not path.name.startswith(".")):
        raise DataError(f"{out} exists and holds other files: give another folder")
    chunks = layout.chunks(len(listing.images))
    done = read_journal(journal, identity, listing, chunks)
    starts = [0, *(chunk.kept for chunk in done)]
    written = [(start, chunk.kept, chunk.shard, chunk.sha256) for start, chunk in zip(starts, done, strict=False)]
    done = done[: next((index for index, chunk in enumerate(written) if not layout.is_intact(out, *chunk)), None)]
    lines = [{"identity": identity}, *(chunk._asdict() for chunk in done)]
    write_file(journal, "".join(json.dumps(line) + "\n" for line in lines).encode())  # drops a truncated last line
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        numbers = range(len(done), len(chunks))
        for number in progress_bar(numbers, len(numbers), "preparing", "chunks"):
            start = done[-1].kept if done else 0
            chunk = prepare_chunk(listing, chunks[number], partial(layout.write, out, number, start), layout, pool, start)
            if chunk.rejected and not skip_broken:
                raise broken_image_error(chunk.rejected[0][0], listing.name, chunk.rejected[0][1])
            with open(journal, "a") as file:
                file.write(json.dumps(chunk._asdict()) + "\n")
            done.append(chunk)
    return finish(listing, out, layout, identity, done)


def prepare_chunk(
    listing: Listing,
    indices: Sequence[int],
    write: Callable[[list[tuple[str, int, bytes]]], Shard | None],
    layout: Layout,
    pool: ThreadPoolExecutor,
    start: int,
) -> Chunk:
    """Decode the images with these indices in parallel and write them as the chunk after the first `start` images."""
    images, sizes, rejected = [], [], []
    results = pool.map(partial(result_or_reason, layout.encode, listing), indices)
    for index, result in zip(indices, results, strict=True):
        if isinstance(result, str):
            rejected.append((listing.images[index], result))
            continue
        images.append((listing.images[index], listing.labels[index], result[0]))
        sizes.append(result[1])
    by_area = sorted(sizes, key=area)
    smallest, largest = (by_area[0], by_area[-1]) if by_area else (None, None)
    labels = [label for _, label, _ in images]
    digest = hashlib.sha256()
    for _, _, encoded in images:
        digest.update(encoded)
    return Chunk(start + len(labels), labels, smallest, largest, rejected, write(images), digest.hexdigest())


def result_or_reason(read: Callable, listing: Listing, index: int) -> tuple | str:
    """The result of `read(listing, index)`, or the reason as text if it raises."""
    try:
        return read(listing, index)
    except Exception as error:  # archives and Pillow raise many kinds of error; each means that this image is damaged
        return first_line(error)


def read_journal(journal: Path, identity: str, listing: Listing, chunks: list[Sequence[int]]) -> list[Chunk]:
    """The finished chunks of an interrupted preparation, up to a line that is truncated or cannot be true. Raises DataError
    if it was of another set."""
    done: list[Chunk] = []
    if not journal.exists():
        return done
    try:
        first, *lines = read_file(journal, JOURNAL_BYTES).split(b"\n")
        if parse_json(first).get("identity") != identity:
            raise DataError(f"{journal.parent} holds the beginning of another set: give another folder, or remove it")
    except (OSError, ValueError) as error:
        raise DataError(f"{journal} cannot be read ({error}): remove the folder {journal.parent}") from error
    for indices, line in zip(chunks, lines, strict=False):
        try:
            chunk = TypeAdapter(Chunk).validate_python(parse_json(line))
        except ValueError:
            break
        left_out = {name for name, _ in chunk.rejected}
        labels = [listing.labels[index] for index in indices if listing.images[index] not in left_out]
        kept = (done[-1].kept if done else 0) + len(labels)
        consistent = (chunk.labels, chunk.kept, len(labels) + len(left_out)) == (labels, kept, len(indices))
        if not consistent or (chunk.smallest is None or chunk.largest is None) != (not labels):
            break
        done.append(chunk)
    return done


def finish(listing: Listing, out: Path, layout: Layout, identity: str, chunks: list[Chunk]) -> Manifest:
    """Write the list of rejected files and the manifest, which marks the set as complete, and remove the journal."""
    labels = np.array([label for chunk in chunks for label in chunk.labels], dtype=np.int64)
    rejected = [entry for chunk in chunks for entry in chunk.rejected]
    counts = np.bincount(labels, minlength=len(listing.class_names))
    empty = [name for name, count in zip(listing.class_names, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"data source {listing.name}: no image of {', '.join(empty[:5])} can be read: repair or remove that class"
        )
    lines = [json.dumps({"file": name, "reason": reason}) + "\n" for name, reason in rejected]
    write_file(out / REJECTED, "".join(lines).encode())
    shards = tuple(chunk.shard for chunk in chunks if chunk.shard and chunk.shard.images)
    manifest = Manifest(
        format=FORMAT,
        layout=layout.name,
        source=listing.name,
        identity=identity,
        resolution=layout.resolution,
        images=len(labels),
        class_names=listing.class_names,
        class_counts=tuple(counts.tolist()),
        sizes=(
            min((tuple(chunk.smallest) for chunk in chunks if chunk.smallest), key=area),
            max((tuple(chunk.largest) for chunk in chunks if chunk.largest), key=area),
        ),
        rejected=len(rejected),
        sha256=layout.checksum(out, labels, shards),
        shards=shards,
        background=layout.background,
        blocks=layout.blocks(out),
        labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest() if layout.name == "packed" else None,
    )
    write_manifest(manifest, out / NAME)
    (out / JOURNAL).unlink()
    return manifest
