"""Data sets made ready once: filtered, then decoded and kept in one of the layouts.

A prepared set is a folder with manifest.json (classes, counts, checksums), rejected.jsonl with the files that could not be
read and why, and what the layout makes. Preparing is parallel and carries on where it was stopped.
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

from biggan.data.formats import Layout, Size
from biggan.data.manifest import FORMAT, NAME, Manifest, Shard, read_manifest, write_manifest
from biggan.data.sources import Listing
from biggan.runtime.atomic_io import write_file
from biggan.runtime.errors import DataError, suggestion
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

JOURNAL = "progress.jsonl"

REJECTED = "rejected.jsonl"


class Chunk(NamedTuple):
    """A note of preparing: images kept so far, their labels in this chunk, sizes of files, the rejected, the shard."""

    kept: int
    labels: list[int]
    smallest: Size | None
    largest: Size | None
    rejected: list[tuple[str, str]]
    shard: Shard | None


def filtered(
    listing: Listing,
    *,
    classes: tuple[str, ...] | None = None,
    min_per_class: int | None = None,
    max_per_class: int | None = None,
) -> Listing:
    """The listing with these classes only, without classes of fewer images, and with a fixed random choice from larger ones.

    Raises DataError on an unknown class, and where nothing is left. BigGAN's JFT subset kept the commonest 8,500 labels.
    """
    unknown = [name for name in classes or () if name not in listing.class_names]
    if unknown:
        raise DataError(
            f"data.classes: no class {unknown[0]!r} in {listing.name}; {suggestion(unknown[0], listing.class_names)}"
        )
    by_class: dict[int, list[int]] = collections.defaultdict(list)
    for index, label in enumerate(listing.labels):
        by_class[label].append(index)
    kept = []
    for label, indices in sorted(by_class.items()):
        name = listing.class_names[label]
        if (classes is not None and name not in classes) or len(indices) < (min_per_class or 0):
            continue
        if max_per_class is not None and len(indices) > max_per_class:
            order = torch.randperm(len(indices), generator=addressed_rng(0, f"choice of {name}"))
            indices = sorted(indices[place] for place in order[:max_per_class].tolist())
        kept += [(index, name) for index in indices]
    if not kept:
        raise DataError(f"{listing.name}: no image is left by data.classes, data.min_per_class and data.max_per_class")
    names = tuple(sorted({name for _, name in kept}))
    number = {name: place for place, name in enumerate(names)}
    kept.sort()
    return listing._replace(
        images=tuple(listing.images[index] for index, _ in kept),
        labels=tuple(number[name] for _, name in kept),
        class_names=names,
    )


def prepare(listing: Listing, out: Path, layout: Layout) -> Manifest:
    """Decode every image into the folder `out`; what cannot be read is left out and listed. Given again after it was
    stopped, it carries on. Raises DataError where the folder holds something else, or no image can be read; OSError where it
    cannot be written."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give a folder")
    out.mkdir(parents=True, exist_ok=True)
    facts = [FORMAT, layout.name, vars(layout), listing.stamp, listing.images, listing.labels]
    identity = hashlib.sha256(repr(facts).encode()).hexdigest()
    if (out / NAME).exists():
        manifest = read_manifest(out, None)
        if manifest.identity != identity:
            raise DataError(f"{out} holds another set ({manifest.source}): give another folder, or remove it")
        return manifest
    journal, ours = out / JOURNAL, (JOURNAL, REJECTED, *layout.files)
    ours = ours if journal.exists() else ()  # without a journal they are somebody else's
    if any(not any(path.match(pattern) for pattern in ours) for path in out.iterdir() if not path.name.startswith(".")):
        raise DataError(f"{out} exists and holds other files: give another folder")
    notes, chunks = read_journal(journal, identity), layout.chunks(len(listing.images))
    notes = notes[: next((place for place, note in enumerate(notes) if not layout.holds(out, note.kept, note.shard)), None)]
    lines = [{"identity": identity}, *(note._asdict() for note in notes)]
    write_file(journal, "".join(json.dumps(line) + "\n" for line in lines).encode())  # without a line that was cut short
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        numbers = range(len(notes), len(chunks))
        for number in progress_bar(numbers, len(numbers), "preparing"):
            before = notes[-1].kept if notes else 0
            note = prepare_chunk(listing, chunks[number], partial(layout.write, out, number, before), layout, pool, before)
            with open(journal, "a") as file:
                file.write(json.dumps(note._asdict()) + "\n")
            notes.append(note)
    return finish(listing, out, layout, identity, notes)


def prepare_chunk(
    listing: Listing,
    chunk: Sequence[int],
    write: Callable[[list[tuple[str, int, bytes]]], Shard | None],
    layout: Layout,
    pool: ThreadPoolExecutor,
    before: int,
) -> Chunk:
    """Decode one chunk in parallel and keep it."""
    images, sizes, rejected = [], [], []
    made = pool.map(partial(attempt, layout.encode, listing), chunk)
    for index, result in zip(chunk, made, strict=True):
        if isinstance(result, str):
            rejected.append((listing.images[index], result))
            continue
        images.append((listing.images[index], listing.labels[index], result[0]))
        sizes.append(result[1])
    by_area = sorted(sizes, key=area)
    smallest, largest = (by_area[0], by_area[-1]) if by_area else (None, None)
    labels = [label for _, label, _ in images]
    return Chunk(before + len(labels), labels, smallest, largest, rejected, write(images))


def attempt(make: Callable, listing: Listing, index: int) -> tuple | str:
    """What `make` returns, or why it could not."""
    try:
        return make(listing, index)
    except Exception as error:  # archives and Pillow raise a dozen kinds; each means that this image is damaged
        return f"{type(error).__name__}: {error}"


def read_journal(journal: Path, identity: str) -> list[Chunk]:
    """The notes of an earlier start, up to a line that was cut short. Raises DataError where it was of another set."""
    notes: list[Chunk] = []
    if not journal.exists():
        return notes
    for number, line in enumerate(journal.read_text().splitlines()):
        try:
            values = json.loads(line)
        except ValueError:
            break
        if number == 0 and values.get("identity") != identity:
            raise DataError(f"{journal.parent} holds the beginning of another set: give another folder, or remove it")
        if number > 0:
            shard = values.pop("shard")
            notes.append(Chunk(**values, shard=None if shard is None else Shard(*shard)))
    return notes


def finish(listing: Listing, out: Path, layout: Layout, identity: str, notes: list[Chunk]) -> Manifest:
    """The list of rejected files, and the manifest, which makes the set whole. The journal goes."""
    labels = np.array([label for note in notes for label in note.labels], dtype=np.int64)
    rejected = [entry for note in notes for entry in note.rejected]
    counts = np.bincount(labels, minlength=len(listing.class_names))
    empty = [name for name, count in zip(listing.class_names, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"data source {listing.name}: no image of {', '.join(empty[:5])} can be read: mend or remove that class"
        )
    lines = [json.dumps({"file": name, "reason": reason}) + "\n" for name, reason in rejected]
    write_file(out / REJECTED, "".join(lines).encode())
    shards = tuple(note.shard for note in notes if note.shard and note.shard.images)
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
            min((tuple(note.smallest) for note in notes if note.smallest), key=area),
            max((tuple(note.largest) for note in notes if note.largest), key=area),
        ),
        rejected=len(rejected),
        sha256=layout.checksum(out, labels, shards),
        shards=shards,
    )
    write_manifest(manifest, out / NAME)
    (out / JOURNAL).unlink()
    return manifest


def area(size: Size) -> int:
    return size[0] * size[1]
