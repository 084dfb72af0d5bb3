"""Data sets that are decoded once, stored as uint8 in memory or in a memory-mapped cache, and streamed in a seeded order.

The order depends on the seed and the number of images only, so a stream can start at any image.
Shapes: N images, R resolution.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from biggan.data.decoded_cache import Decoded, content_hash, read_cache, remove_cache, write_cache
from biggan.data.image_decoding import DECODING, Size, area
from biggan.data.image_modes import color_code, parse_color
from biggan.data.read_ahead import ReadAhead
from biggan.data.sources import Listing
from biggan.runtime.errors import DataError, first_line
from biggan.runtime.memory import gibibytes, total_memory
from biggan.runtime.precision import to_device
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

CACHE_FORMAT = 2  # increased when the files of an entry change; see also DECODING


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
    background: str = "#ffffff"
    """The color that transparent pixels were composed on."""
    pin: bool = False
    """Whether `stream` gives tensors in pinned memory, from which a GPU copies without holding up the host."""

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
        """The source for use on a GPU: with its images there if they take less than a third of its free memory, else with
        batches in pinned memory. Unchanged for another device."""
        if device.type != "cuda":
            return self
        if self.images.nbytes > torch.cuda.mem_get_info(device)[0] / 3:
            return dataclasses.replace(self, pin=True)
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
        any number of ranks. Images that are memory-mapped are read ahead by a thread, which ends when the stream is closed
        or no longer referred to.
        """
        batches = self.gather_batches(batch, rank, world_size, start_image, seed)
        return ReadAhead(batches) if self.from_cache and self.images.device.type == "cpu" else batches

    def gather_batches(
        self, batch: int, rank: int, world_size: int, start_image: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `stream`."""
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        local_batch, position, device = batch // world_size, start_image, self.images.device
        orders: dict[int, Tensor] = {}
        while True:
            positions = range(position + rank * local_batch, position + (rank + 1) * local_batch)
            chosen = to_device(self.image_indices(positions, seed, orders), device)
            images = self.images.index_select(0, chosen)  # (local_batch, 3, R, R)
            if self.flip:
                images = flip_at_random(images, batch, rank, seed, position)
            labels = self.labels.index_select(0, chosen)
            if self.pin:
                images, labels = images.pin_memory(), labels.pin_memory()
            yield images, labels
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
    background: str = "white",
    verify: bool = False,
) -> ResidentSource:
    """Decode every image of the listing, or load the images from the cache folder if they were decoded before.

    An unreadable image raises DataError with its name; with `skip_broken` such images are left out, counted and reported in
    the log. Transparent images are composed on the `background`. A cache that cannot be written is reported in the log and
    not used. `verify`: decode in any case, and compare with what is in the cache. Raises DataError if a class has no image.
    """
    ground = color_code(background)
    facts = [CACHE_FORMAT, DECODING, listing.stamp, listing.images, listing.labels, listing.class_names, resolution, ground]
    folder = cache / hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    entry = read_cache(folder)
    stored = None if entry is None else content_hash(entry.images, entry.labels) if verify else entry.content_hash
    if entry is not None and (verify or (entry.broken and not skip_broken)):  # the latter names the first broken image
        entry = None
    from_cache = entry is not None
    if entry is None:
        entry = decode_all(listing, resolution, skip_broken, ground)
        if stored is not None and entry.content_hash != stored:
            logger.warning(
                "%s: the decoded images in %s were not those of its files: they are replaced", listing.name, folder
            )
            remove_cache(folder)
        try:
            write_cache(folder, entry, len(listing.class_names))
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
        background=ground,
    )


def broken_image_error(name: str, source: str, reason: str) -> DataError:
    """The error for the first image that cannot be read, in a verb or function that was not told to skip such images."""
    inspected = "" if source.startswith("wds:") else " (there may be more: biggan data inspect lists them)"
    return DataError(
        f"image {name} in {source} cannot be read ({reason}): repair or remove it{inspected}, or leave out all that cannot "
        "be read (--skip-broken)"
    )


def decode_all(listing: Listing, resolution: int, skip_broken: bool, background: str) -> Decoded:
    """Decode all images in the order of the listing, in parallel. Raises DataError on the first unreadable image unless
    `skip_broken`, and if the decoded images would not fit into memory."""
    ground = parse_color(background)

    def decode_one(index: int) -> tuple[np.ndarray, Size] | None:
        """Pixels (3, R, R) and original size of one image, or None for a broken image that is skipped."""
        try:
            return listing.decode_image(index, resolution, ground)
        except Exception as error:  # archives raise many kinds of error; each means that this image is damaged
            if skip_broken:
                return None
            raise broken_image_error(listing.images[index], listing.name, first_line(error)) from error

    count = len(listing.images)
    readable: list[int] = []
    sizes: list[Size] = []
    needed, memory = count * 3 * resolution**2, total_memory()
    if memory is not None and needed > 0.8 * memory:
        raise DataError(
            f"data source {listing.name}: {count} images of {resolution} px take {gibibytes(needed)} decoded, this "
            f"machine has {gibibytes(memory)}: use fewer images or a smaller model.resolution"
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
    by_area = sorted(sizes, key=area)
    return Decoded(images, labels, content_hash(images, labels), (by_area[0], by_area[-1]), count - len(readable))
