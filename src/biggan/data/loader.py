"""A data set decoded once, kept as uint8, and streamed in an order that depends on nothing but the seed.

Not here: what the images are for. Randomness is addressed (see randomness), so a stream starts at any image.
Shapes: N images, R resolution.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from biggan.data.sources import Listing, decode
from biggan.errors import DataError
from biggan.randomness import addressed_generator

CACHE_FORMAT = 1  # raise it when decoding changes, so that old caches are not used
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

Progress = Callable[[Iterable, int, str], Iterable]
"""Passes an iterable through while showing how far it is: (iterable, total, what)."""


def no_progress(items: Iterable, total: int, what: str) -> Iterable:
    """Shows nothing."""
    return items


@dataclass(frozen=True)
class ResidentSource:
    """Images (N, 3, R, R) uint8 and labels (N,) int64, in memory or mapped from the cache, or on a GPU."""

    name: str
    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    content_hash: str
    broken: int
    """How many unreadable images were left out."""
    from_cache: bool
    flip: bool

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    def to(self, device: torch.device) -> "ResidentSource":
        """The same source with its images on the device."""
        moved = {"images": self.images.to(device), "labels": self.labels.to(device)}
        return ResidentSource(**{**self.__dict__, **moved})

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches: images (batch / world_size, 3, R, R) uint8 and labels, on the source's device.

        `batch` is the global one; each rank gets its share of it. Every epoch is a new permutation of all images; the
        stream that starts at `start_image` continues the one that has given that many, whatever the number of ranks.
        """
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        share, position = batch // world_size, start_image
        while True:
            mine = range(position + rank * share, position + (rank + 1) * share)
            chosen = self.order(mine, seed).to(self.images.device)
            images = self.images.index_select(0, chosen)  # (share, 3, R, R)
            if self.flip:
                coins = torch.rand(batch, generator=addressed_generator(seed, "flips", position)) < 0.5
                mask = coins[rank * share : (rank + 1) * share].to(images.device)
                images = torch.where(mask[:, None, None, None], images.flip(3), images)
            yield images, self.labels.index_select(0, chosen)
            position += batch

    def order(self, positions: range, seed: int) -> Tensor:
        """Indices of the images at these places of the endless sequence of shuffled epochs."""
        count = len(self.labels)
        pieces = []
        for epoch in range(positions.start // count, (positions.stop - 1) // count + 1):
            shuffled = epoch_order(count, seed, epoch)
            start, stop = positions.start - epoch * count, positions.stop - epoch * count
            pieces.append(shuffled[max(0, start) : min(count, stop)])
        return torch.cat(pieces)


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The permutation of one epoch."""
    return torch.randperm(count, generator=addressed_generator(seed, "epoch order", epoch))


def load(
    listing: Listing,
    resolution: int,
    *,
    flip: bool,
    skip_broken: bool,
    cache: Path,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda line: None,
) -> ResidentSource:
    """Decode every image of the listing, or read what was decoded before from the cache folder.

    Raises DataError naming the first unreadable image unless `skip_broken`, which leaves such images out, counts them and
    reports it. A cache that cannot be written is reported and done without.
    """
    key_facts = [CACHE_FORMAT, listing.stamp, listing.images, listing.labels, resolution, skip_broken]
    key = hashlib.sha256(repr(key_facts).encode()).hexdigest()[:24]
    folder = cache / key
    from_cache = (folder / "facts.json").is_file()
    if not from_cache:
        images, kept = decode_all(listing, resolution, skip_broken, progress)
        labels = np.array([listing.labels[index] for index in kept], dtype=np.int64)
        broken = len(listing.images) - len(kept)
        digest = hashlib.sha256(images.data)
        digest.update(labels.tobytes())
        facts = {"content_hash": digest.hexdigest(), "broken": broken}
        try:
            write_cache(folder, images, labels, facts)
        except OSError as error:
            report(f"the decoded images could not be kept in {cache} ({error}): the next start decodes them again")
    else:
        facts = json.loads((folder / "facts.json").read_text())
        images, labels = np.load(folder / "images.npy", mmap_mode="c"), np.load(folder / "labels.npy")
        if images.nbytes < available_memory() / 4:
            images = np.array(images)
    if facts["broken"]:
        report(f"{facts['broken']} of {len(listing.images)} images could not be read and were left out")
    return ResidentSource(
        name=listing.name,
        class_names=listing.class_names,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        content_hash=facts["content_hash"],
        broken=facts["broken"],
        from_cache=from_cache,
        flip=flip,
    )


def decode_all(listing: Listing, resolution: int, skip_broken: bool, progress: Progress) -> tuple[np.ndarray, list[int]]:
    """All images (N, 3, R, R) uint8 in the listing's order, and the indices of those that could be read."""

    def decode_one(index: int) -> np.ndarray | None:
        name = listing.images[index]
        try:
            return np.asarray(decode(listing.read(name), resolution)).transpose(2, 0, 1)
        except UNREADABLE as error:
            if skip_broken:
                return None
            raise DataError(
                f"image {name} in {listing.name} cannot be read ({error}): mend or remove it, or add --data.skip-broken"
            ) from error

    count, kept = len(listing.images), []
    images = np.empty((count, 3, resolution, resolution), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            decoded = pool.map(decode_one, range(count))
            for index, pixels in enumerate(progress(decoded, count, "decoding")):
                if pixels is not None:
                    images[len(kept)] = pixels
                    kept.append(index)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    if not kept:
        raise DataError(f"data source {listing.name}: none of its {count} images can be read")
    return images[: len(kept)], kept


def write_cache(folder: Path, images: np.ndarray, labels: np.ndarray, facts: dict) -> None:
    """A cache entry, whole or not at all. Raises OSError, for example on a full disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        np.save(scratch / "images.npy", images)
        np.save(scratch / "labels.npy", labels)
        (scratch / "facts.json").write_text(json.dumps(facts))
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def available_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
