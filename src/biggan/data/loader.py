"""Data sets that are decoded once, stored as uint8 in memory or in a memory-mapped cache, and streamed in a seeded order.

The order depends on the seed and the number of images only, so a stream can start at any image.
Shapes: N images, R resolution.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from biggan.data.image_decoding import Size, area
from biggan.data.sources import Listing
from biggan.runtime.distributed import local_world_size
from biggan.runtime.errors import DataError
from biggan.runtime.memory import total_memory
from biggan.runtime.precision import to_device
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

CACHE_FORMAT = 1  # increased when decoding changes, so that older cache entries are not used


@dataclass(frozen=True)
class ResidentSource:
    """A Source of images (N, 3, R, R) uint8 and labels (N,) int64 in memory, memory-mapped from the cache, or on a GPU."""

    name: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    broken: int
    """Number of unreadable images that were left out."""
    from_cache: bool
    """Whether the images were read from the cache instead of being decoded."""
    flip: bool
    """Whether `stream` mirrors each image horizontally with probability 1/2."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def count(self) -> int:
        return len(self.labels)

    def read_errors(self) -> dict[str, int]:
        """Empty, because all images were read when the source was opened."""
        return {}

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    def to(self, device: torch.device) -> "ResidentSource":
        """The source with its images on a GPU if they take less than a third of its free memory; otherwise unchanged."""
        if device.type != "cuda" or self.images.nbytes > torch.cuda.mem_get_info(device)[0] / 3:
            return self
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in a fixed random order, not flipped: uint8 (<= batch, 3, R, R) and labels (<= batch,)."""
        order = torch.randperm(self.count, generator=addressed_rng(0, "every image once"))
        for chosen in order.to(self.images.device).split(batch):
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches on the source's device: images (batch / world_size, 3, R, R) uint8 and labels.

        `batch` is the global batch size; each rank gets an equal, contiguous slice of every batch. Each epoch is a new
        permutation of all images. A stream that starts at `start_image` continues one that has yielded that many images, for
        any number of ranks.
        """
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        local_batch, position, device = batch // world_size, start_image, self.images.device
        orders: dict[int, Tensor] = {}
        while True:
            positions = range(position + rank * local_batch, position + (rank + 1) * local_batch)
            chosen = to_device(self.image_indices(positions, seed, orders), device)
            images = self.images.index_select(0, chosen)  # (local_batch, 3, R, R)
            if self.flip:
                images = flip_at_random(images, batch, rank, seed, position)
            yield images, self.labels.index_select(0, chosen)
            position += batch

    def image_indices(self, positions: range, seed: int, orders: dict[int, Tensor]) -> Tensor:
        """Indices of the images at these positions of the endless sequence of shuffled epochs.

        `orders` caches the permutations of the current epochs between calls and is mutated.
        """
        count = len(self.labels)
        epochs = range(positions.start // count, (positions.stop - 1) // count + 1)
        for finished in set(orders) - set(epochs):
            del orders[finished]
        slices = []
        for epoch in epochs:
            if epoch not in orders:
                orders[epoch] = torch.randperm(count, generator=addressed_rng(seed, "epoch order", epoch))
            start, stop = positions.start - epoch * count, positions.stop - epoch * count
            slices.append(orders[epoch][max(0, start) : min(count, stop)])
        return torch.cat(slices)


def flip_at_random(images: Tensor, batch: int, rank: int, seed: int, position: int) -> Tensor:
    """Mirror each image of a rank's share (N, 3, R, R) of a global batch with probability 1/2. The choice depends on the
    seed and on the position of the global batch in the stream, not on the number of ranks."""
    chosen = torch.rand(batch, generator=addressed_rng(seed, "flips", position)) < 0.5
    mask = to_device(chosen[rank * len(images) : (rank + 1) * len(images)], images.device)
    return torch.where(mask[:, None, None, None], images.flip(3), images)


def decode_or_load(
    listing: Listing,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    cache: Path,
) -> ResidentSource:
    """Decode every image of the listing, or load the images from the cache folder if they were decoded before.

    An unreadable image raises DataError with its name; with `skip_broken` such images are left out, counted and reported in
    the log. A cache that cannot be written is reported in the log and not used. Raises DataError if a class has no image.
    """
    key_facts = [CACHE_FORMAT, listing.stamp, listing.images, listing.labels, resolution, skip_broken]
    key = hashlib.sha256(repr(key_facts).encode()).hexdigest()[:24]
    folder = cache / key
    entry = read_cache(folder)
    from_cache = entry is not None
    if entry is None:
        entry = decode_all(listing, resolution, skip_broken)
        try:
            write_cache(folder, entry)
        except OSError as error:
            text = "the decoded images could not be saved in %s (%s): the next start decodes them again"
            logger.warning(text, cache, error)
    if entry.broken:
        logger.warning("%d of %d images could not be read and were left out", entry.broken, len(listing.images))
    empty = set(range(len(listing.class_names))) - set(entry.labels.tolist())
    if empty:
        names = ", ".join(listing.class_names[number] for number in sorted(empty))
        raise DataError(f"data source {listing.name}: no image of {names} can be read: repair or remove that class")
    return ResidentSource(
        name=listing.name,
        class_names=listing.class_names,
        images=torch.from_numpy(entry.images),
        labels=torch.from_numpy(entry.labels),
        content_hash=entry.content_hash,
        sizes=entry.sizes,
        broken=entry.broken,
        from_cache=from_cache,
        flip=flip,
    )


class Decoded(NamedTuple):
    """A decoded data set: images (N, 3, R, R) uint8, labels (N,) int64 and the fields of ResidentSource of the same name."""

    images: np.ndarray
    labels: np.ndarray
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    broken: int


def decode_all(listing: Listing, resolution: int, skip_broken: bool) -> Decoded:
    """Decode all images in the order of the listing, in parallel. Raises DataError on the first unreadable image unless
    `skip_broken`, and if the decoded images would not fit into memory."""

    def decode_one(index: int) -> tuple[np.ndarray, Size] | None:
        """Pixels (3, R, R) and original size of one image, or None for a broken image that is skipped."""
        name = listing.images[index]
        try:
            return listing.decode_image(index, resolution)
        except Exception as error:  # archives and Pillow raise many kinds of error; each means that this image is damaged
            if skip_broken:
                return None
            raise DataError(
                f"image {name} in {listing.name} cannot be read ({error}): repair or remove it, or leave out what is "
                "broken (--data.skip-broken of biggan train)"
            ) from error

    count = len(listing.images)
    readable: list[int] = []
    sizes: list[Size] = []
    needed = count * 3 * resolution**2
    if needed > 0.8 * total_memory():
        raise DataError(
            f"data source {listing.name}: {count} images of {resolution} px take {needed / 2**30:.0f} GiB decoded, this "
            f"machine has {total_memory() / 2**30:.0f}: use fewer images or a smaller model.resolution"
        )
    images = np.empty((count, 3, resolution, resolution), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, decoded in enumerate(progress_bar(pool.map(decode_one, range(count)), count, "decoding")):
            if decoded is not None:
                images[len(readable)], size = decoded
                readable.append(index)
                sizes.append(size)
    if not readable:
        raise DataError(f"data source {listing.name}: none of its {count} images can be read")
    images, labels = images[: len(readable)], np.array([listing.labels[index] for index in readable], dtype=np.int64)
    digest = hashlib.sha256(images.data)
    digest.update(labels.tobytes())
    by_area = sorted(sizes, key=area)
    return Decoded(images, labels, digest.hexdigest(), (by_area[0], by_area[-1]), count - len(readable))


def read_cache(folder: Path) -> Decoded | None:
    """An entry of the cache, or None if there is none. The images are loaded into memory if all ranks of this machine
    together need less than a quarter of it, else memory-mapped. A damaged entry is reported in the log and removed."""
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / "facts.json").read_text())
        images, labels = np.load(folder / "images.npy", mmap_mode="c"), np.load(folder / "labels.npy")
        if images.nbytes * local_world_size() < total_memory() / 4:
            images = np.array(images)
        smallest, largest = (tuple(size) for size in facts["sizes"])
        return Decoded(images, labels, facts["content_hash"], (smallest, largest), facts["broken"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("the decoded images in %s are corrupt (%s): they are decoded again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def write_cache(folder: Path, decoded: Decoded) -> None:
    """Write an entry of the cache atomically. Raises OSError, for example on a full disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        np.save(scratch / "images.npy", decoded.images)
        np.save(scratch / "labels.npy", decoded.labels)
        facts = {"content_hash": decoded.content_hash, "sizes": decoded.sizes, "broken": decoded.broken}
        (scratch / "facts.json").write_text(json.dumps(facts))
        for path in scratch.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
