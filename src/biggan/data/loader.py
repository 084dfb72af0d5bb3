"""A data set decoded once, kept as uint8, and streamed in an order that depends on nothing but the seed.

Not here: what the images are for. Randomness is addressed (see randomness), so a stream starts at any image.
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

from biggan.data.sources import Listing, decode
from biggan.runtime.distributed import local_world_size
from biggan.runtime.errors import DataError
from biggan.runtime.memory import total_memory
from biggan.runtime.precision import to_device
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

CACHE_FORMAT = 1  # raise it when decoding changes, so that old caches are not used


"""Passes an iterable through while showing how far it is: (iterable, total, what)."""


@dataclass(frozen=True)
class ResidentSource:
    """Images (N, 3, R, R) uint8 and labels (N,) int64, in memory or mapped from the cache, or on a GPU."""

    name: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    broken: int
    """How many unreadable images were left out."""
    from_cache: bool
    flip: bool

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def count(self) -> int:
        return len(self.labels)

    def read_errors(self) -> dict[str, int]:
        """None: every image was read when the source was opened."""
        return {}

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    def to(self, device: torch.device) -> "ResidentSource":
        """The same source; on a GPU its images move there if they take less than a third of the free memory."""
        if device.type != "cuda" or self.images.nbytes > torch.cuda.mem_get_info(device)[0] / 3:
            return self
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in a fixed random order, unflipped: uint8 (<= batch, 3, R, R) and classes."""
        order = torch.randperm(self.count, generator=addressed_rng(0, "every image once"))
        for chosen in order.to(self.images.device).split(batch):
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches: images (batch / world_size, 3, R, R) uint8 and labels, on the source's device.

        `batch` is the global one; each rank gets its share of it. Every epoch is a new permutation of all images; the
        stream that starts at `start_image` continues the one that has given that many, whatever the number of ranks.
        """
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        share, position, device = batch // world_size, start_image, self.images.device
        orders: dict[int, Tensor] = {}
        while True:
            mine = range(position + rank * share, position + (rank + 1) * share)
            chosen = to_device(self.order(mine, seed, orders), device)
            images = self.images.index_select(0, chosen)  # (share, 3, R, R)
            if self.flip:
                bernoulli = torch.rand(batch, generator=addressed_rng(seed, "flips", position)) < 0.5
                mask = to_device(bernoulli[rank * share : (rank + 1) * share], device)
                images = torch.where(mask[:, None, None, None], images.flip(3), images)
            yield images, self.labels.index_select(0, chosen)
            position += batch

    def order(self, positions: range, seed: int, orders: dict[int, Tensor]) -> Tensor:
        """Indices of the images at these places of the endless sequence of shuffled epochs.

        `orders` holds the permutations in use between calls: mutated.
        """
        count = len(self.labels)
        epochs = range(positions.start // count, (positions.stop - 1) // count + 1)
        for old in set(orders) - set(epochs):
            del orders[old]
        pieces = []
        for epoch in epochs:
            if epoch not in orders:
                orders[epoch] = torch.randperm(count, generator=addressed_rng(seed, "epoch order", epoch))
            start, stop = positions.start - epoch * count, positions.stop - epoch * count
            pieces.append(orders[epoch][max(0, start) : min(count, stop)])
        return torch.cat(pieces)


def load(
    listing: Listing,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    cache: Path,
) -> ResidentSource:
    """Decode every image of the listing, or read what was decoded before from the cache folder.

    Raises DataError naming the first unreadable image unless `skip_broken`, which leaves such images out, counts them and
    reports it. A cache that cannot be written is reported and done without.
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
            text = "the decoded images could not be kept in %s (%s): the next start decodes them again"
            logger.warning(text, cache, error)
    if entry.broken:
        logger.warning("%d of %d images could not be read and were left out", entry.broken, len(listing.images))
    empty = set(range(len(listing.class_names))) - set(entry.labels.tolist())
    if empty:
        names = ", ".join(listing.class_names[number] for number in sorted(empty))
        raise DataError(f"data source {listing.name}: no image of {names} can be read: mend or remove that class")
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
    """A decoded data set: images (N, 3, R, R) uint8, labels (N,) int64, and what was seen on the way."""

    images: np.ndarray
    labels: np.ndarray
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    broken: int


def decode_all(listing: Listing, resolution: int, skip_broken: bool) -> Decoded:
    """All images in the listing's order, decoded in parallel. Raises DataError naming the first that cannot be read, or
    when the decoded images would not fit into memory."""

    def decode_one(index: int) -> tuple[np.ndarray, tuple[int, int]] | None:
        """One image (3, R, R) and the size it had, or None for a broken one that is to be skipped."""
        name = listing.images[index]
        try:
            image, size = decode(listing.read(name), resolution)
        except Exception as error:  # archives and Pillow raise a dozen kinds; each means that this image is damaged
            if skip_broken:
                return None
            raise DataError(
                f"image {name} in {listing.name} cannot be read ({error}): mend or remove it, or add --data.skip-broken"
            ) from error
        return np.asarray(image).transpose(2, 0, 1), size

    count, kept, sizes = len(listing.images), [], []
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
                images[len(kept)], size = decoded
                kept.append(index)
                sizes.append(size)
    if not kept:
        raise DataError(f"data source {listing.name}: none of its {count} images can be read")
    images, labels = images[: len(kept)], np.array([listing.labels[index] for index in kept], dtype=np.int64)
    digest = hashlib.sha256(images.data)
    digest.update(labels.tobytes())
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return Decoded(images, labels, digest.hexdigest(), (by_area[0], by_area[-1]), count - len(kept))


def read_cache(folder: Path) -> Decoded | None:
    """What `write_cache` kept, in memory if all ranks of this machine together take less than a quarter of it, else mapped;
    None if there is nothing.

    A damaged entry is reported and removed.
    """
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
    """A cache entry, whole or not at all. Raises OSError, for example on a full disk."""
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
