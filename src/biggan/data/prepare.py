"""Data sets made ready once: inspected, filtered, and packed into one memory-mapped file of uint8 images.

A packed set is a folder: images.u8 (N, 3, R, R) without a head, labels.npy, manifest.json (classes, counts, checksums), and
rejected.jsonl with the files that could not be read and why. Packing is parallel and carries on where it was stopped.
"""

import collections
import hashlib
import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from biggan.data.loader import Progress, ResidentSource, no_progress
from biggan.data.sources import Listing, decode
from biggan.errors import DataError, suggestion
from biggan.files import write_file
from biggan.randomness import addressed_generator

CHUNK = 1024  # images between two notes of how far packing has come
PACKED_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a packed set holds."""

    format: int
    source: str
    resolution: int
    images: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    rejected: int
    sha256: str
    """Of images.u8, then the labels as int64."""


class Chunk(NamedTuple):
    """A note of packing: images kept so far, their labels in this chunk, sizes of files, and the rejected."""

    done: int
    kept: int
    labels: list[int]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    rejected: list[tuple[str, str]]


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
            order = torch.randperm(len(indices), generator=addressed_generator(0, f"choice of {name}"))
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


def pack(listing: Listing, out: Path, resolution: int, *, progress: Progress = no_progress) -> Manifest:
    """Decode every image into the folder `out`; what cannot be read is left out and listed. Given again after it was
    stopped, it carries on. Raises DataError where the folder holds something else, or no image can be read; OSError where it
    cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(
        repr([PACKED_FORMAT, listing.stamp, listing.images, listing.labels, resolution]).encode()
    ).hexdigest()
    if (out / "manifest.json").exists():
        return read_manifest(out)
    journal, images_file = out / "progress.jsonl", out / "images.u8"
    ours = {"progress.jsonl", "images.u8", "labels.npy", "rejected.jsonl"}
    if {path.name for path in out.iterdir() if not path.name.startswith(".")} - ours:
        raise DataError(f"{out} exists and holds other files: give another folder")
    notes = read_journal(journal, identity)
    if not notes:
        journal.write_text(json.dumps({"identity": identity}) + "\n")
    kept, done = (notes[-1].kept, notes[-1].done) if notes else (0, 0)
    size = 3 * resolution**2
    with open(images_file, "r+b" if images_file.exists() else "w+b") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        file.truncate(kept * size)  # what came after the last note is done again
        file.seek(kept * size)
        starts = range(done, len(listing.images), CHUNK)
        for start in progress(starts, len(starts), "packing"):
            chunk = range(start, min(start + CHUNK, len(listing.images)))
            note = pack_chunk(listing, chunk, resolution, file, pool, kept)
            file.flush()
            os.fsync(file.fileno())
            with open(journal, "a") as lines:
                lines.write(json.dumps(note._asdict()) + "\n")
            notes.append(note)
            kept = note.kept
    return finish(listing, out, resolution, notes)


def pack_chunk(
    listing: Listing, chunk: range, resolution: int, file: BinaryIO, pool: ThreadPoolExecutor, kept: int
) -> Chunk:
    """Decode one chunk in parallel and append it to the file."""

    labels, sizes, rejected = [], [], []
    for index, result in zip(chunk, pool.map(partial(decoded, listing, resolution), chunk), strict=True):
        if isinstance(result, str):
            rejected.append((listing.images[index], result))
            continue
        pixels, size = result
        file.write(pixels.tobytes())
        labels.append(listing.labels[index])
        sizes.append(size)
    by_area = sorted(sizes, key=area)
    smallest, largest = (by_area[0], by_area[-1]) if by_area else (None, None)
    return Chunk(chunk.stop, kept + len(labels), labels, smallest, largest, rejected)


def decoded(listing: Listing, resolution: int, index: int) -> tuple[np.ndarray, tuple[int, int]] | str:
    """The pixels (3, R, R) of one image and the size that it had, or why there are none."""
    try:
        image, size = decode(listing.read(listing.images[index]), resolution)
    except Exception as error:  # archives and Pillow raise a dozen kinds; each means that this image is damaged
        return f"{type(error).__name__}: {error}"
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), size


def read_journal(journal: Path, identity: str) -> list[Chunk]:
    """The notes of an earlier packing, up to a line that was cut short. Raises DataError where it was of another set."""
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
            notes.append(Chunk(**values))
    return notes


def finish(listing: Listing, out: Path, resolution: int, notes: list[Chunk]) -> Manifest:
    """Labels, the list of rejected files, and the manifest, which makes the set whole. The journal goes."""
    labels = np.array([label for note in notes for label in note.labels], dtype=np.int64)
    rejected = [entry for note in notes for entry in note.rejected]
    counts = np.bincount(labels, minlength=len(listing.class_names))
    empty = [name for name, count in zip(listing.class_names, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"data source {listing.name}: no image of {', '.join(empty[:5])} can be read: mend or remove that class"
        )
    digest = hashlib.sha256()
    with open(out / "images.u8", "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    digest.update(labels.tobytes())
    np.save(out / "labels.npy", labels)
    lines = [json.dumps({"file": name, "reason": reason}) + "\n" for name, reason in rejected]
    write_file(out / "rejected.jsonl", "".join(lines).encode())
    manifest = Manifest(
        format=PACKED_FORMAT,
        source=listing.name,
        resolution=resolution,
        images=len(labels),
        class_names=listing.class_names,
        class_counts=tuple(counts.tolist()),
        sizes=(
            min((tuple(note.smallest) for note in notes if note.smallest), key=area),
            max((tuple(note.largest) for note in notes if note.largest), key=area),
        ),
        rejected=len(rejected),
        sha256=digest.hexdigest(),
    )
    write_file(out / "manifest.json", (json.dumps(asdict(manifest), indent=2) + "\n").encode())
    (out / "progress.jsonl").unlink()
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a packed set. Raises DataError where there is none, or none that fits this version."""
    try:
        values = json.loads((folder / "manifest.json").read_text())
        sizes = tuple(tuple(size) for size in values.pop("sizes"))
        names, counts = tuple(values.pop("class_names")), tuple(values.pop("class_counts"))
        manifest = Manifest(sizes=sizes, class_names=names, class_counts=counts, **values)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no manifest.json: make it with biggan data prepare SOURCE {folder}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'manifest.json'} cannot be read ({error}): prepare the set again") from error
    if manifest.format != PACKED_FORMAT:
        raise DataError(
            f"{folder} is of format {manifest.format}, this version reads {PACKED_FORMAT}: prepare the set again"
        )
    return manifest


def open_packed(folder: Path, resolution: int, *, flip: bool) -> ResidentSource:
    """A packed set, its images mapped and not read. Raises DataError where it is of another resolution or damaged."""
    manifest = read_manifest(folder)
    if manifest.resolution != resolution:
        raise DataError(
            f"{folder} is packed at {manifest.resolution} px, the model takes {resolution}: use --model.resolution "
            f"{manifest.resolution}, or prepare the set again"
        )
    shape = (manifest.images, 3, resolution, resolution)
    try:
        images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="c", shape=shape)
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged ({error}): prepare the set again") from error
    if (folder / "images.u8").stat().st_size != images.nbytes or labels.shape != shape[:1]:
        raise DataError(f"{folder} is damaged: its files do not hold {manifest.images} images: prepare the set again")
    return ResidentSource(
        name=f"packed:{folder}",
        class_names=manifest.class_names,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        content_hash=manifest.sha256,
        sizes=manifest.sizes,
        broken=manifest.rejected,
        from_cache=True,
        flip=flip,
    )


def area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


class Inspection(NamedTuple):
    """What a look at every file of a data set found."""

    counts: dict[str, int]
    """Readable images per class."""
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    broken: list[tuple[str, str]]
    """Files that cannot be read, and why."""
    samples: list[np.ndarray]
    """Up to `columns` images (3, R, R) uint8 of each of the first classes, class by class."""
    sampled: list[int]
    """How many of each."""


def inspect(listing: Listing, resolution: int, *, rows: int, columns: int, progress: Progress = no_progress) -> Inspection:
    """Decode every image once. Raises DataError where none can be read."""

    counts, sizes, broken = collections.Counter(), [], []
    samples: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    indices = range(len(listing.images))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(partial(decoded, listing, resolution), indices)
        for index, result in zip(indices, progress(looks, len(indices), "reading"), strict=True):
            label = listing.labels[index]
            if isinstance(result, str):
                broken.append((listing.images[index], result))
                continue
            counts[listing.class_names[label]] += 1
            sizes.append(result[1])
            if label < rows and len(samples[label]) < columns:
                samples[label].append(result[0])
    if not sizes:
        raise DataError(f"data source {listing.name}: none of its {len(indices)} images can be read")
    by_area = sorted(sizes, key=area)
    middle = (round(statistics.median(width for width, _ in sizes)), round(statistics.median(height for _, height in sizes)))
    shown = [samples[label] for label in sorted(samples)]
    per_class = {name: counts[name] for name in listing.class_names}
    flat = [image for images in shown for image in images]
    return Inspection(per_class, by_area[0], middle, by_area[-1], broken, flat, [len(images) for images in shown])
