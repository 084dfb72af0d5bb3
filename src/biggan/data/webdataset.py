"""Endless, seeded and resumable streams of images from WebDataset shards on a disk, a web server or an object store.

The order of images depends only on the seed, the global batch size and the shards, not on the number of ranks, and a stream
can start at any batch. Each batch is the concatenation of equal slices from up to MAX_READERS readers. In each epoch the
shuffled shards are distributed round-robin over the readers; a reader reads its shards sequentially and shuffles within
windows of consecutive images. A rank runs only the readers of its slice of the batch, so shards are divided among ranks.
Decoding runs ahead in threads.

A shard that fails is retried, then skipped and counted; from then on the stream differs from that of an undisturbed run.
While no shard can be read at all, the stream waits, at most STALL_TIMEOUT seconds.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from biggan.data.image_decoding import BrokenImage, decode_pixels
from biggan.data.image_modes import parse_color
from biggan.data.loader import broken_image_error, flip_at_random
from biggan.data.manifest import Shard
from biggan.data.read_ahead import ReadAhead
from biggan.data.tar_samples import Sample
from biggan.data.webdataset_io import READ_FAILURES, can_be_opened, error_reason, read_samples
from biggan.runtime.errors import DataError
from biggan.runtime.logging import EVERY_RANK
from biggan.runtime.precision import to_device
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

MAX_READERS = 32  # shards that are read concurrently

MAX_ATTEMPTS = 4  # to read one shard, while other shards can be read

RETRY_DELAY = 1.0  # seconds before the first retry; doubled for each further one, up to MAX_RETRY_DELAY

MAX_RETRY_DELAY = 30.0

STALL_TIMEOUT = 900.0  # seconds without one image after which a reader gives up

PREFETCH_BATCHES = 3


class WindowItem(NamedTuple):
    """An image of a shuffled window, by its position. If it is broken, the next readable image of the window replaces it."""

    window: list[Sample]
    position: int


class ReadErrors:
    """Counts of read errors by log key. Thread-safe, because shards are read and decoded in threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = {"data_retries": 0, "data_skipped_shards": 0, "data_skipped_images": 0, "data_broken_images": 0}

    def add(self, **counts: int) -> None:
        """Increase the counts with these names."""
        with self.lock:
            for name, count in counts.items():
                self.counts[name] += count


@dataclass(frozen=True)
class ShardSource:
    """A Source of uint8 images (N, 3, R, R) and int64 labels (N,) that reads WebDataset shards on demand.

    The module's docstring describes the order of images and what happens on read errors."""

    name: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    label_by_class: dict[str, int]
    """The label (0 .. K - 1) of each class that is stored in the shards, a number or a name."""
    resolution: int
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    flip: bool
    """Whether `stream` mirrors each image horizontally with probability 1/2."""
    skip_broken: bool
    """Whether images that cannot be decoded are replaced by others instead of raising DataError."""
    shuffle_buffer: int
    """Images in the shuffling windows of all readers together; up to three times as many encoded images are in memory."""
    background: str = "#ffffff"
    """The color that transparent pixels are composed on."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    errors: ReadErrors = field(default_factory=ReadErrors)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def count(self) -> int:
        return sum(shard.images for shard in self.shards)

    def to(self, device: torch.device) -> "ShardSource":
        """A copy of the source that yields its batches on `device`."""
        return dataclasses.replace(self, device=device)

    def read_errors(self) -> dict[str, int]:
        """How often this rank has retried or skipped shards and images so far, by log key."""
        return dict(self.errors.counts)

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in shard order, not flipped: batches of uint8 (<= batch, 3, R, R) and labels (<= batch,).

        Without the images that cannot be decoded, if `skip_broken` is set; how many they are is logged."""
        samples = itertools.chain.from_iterable(self.read_shard(shard, 0) for shard in self.shards)
        before = self.errors.counts["data_broken_images"]
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            while window := list(itertools.islice(samples, batch)):
                decoded = [item for item in pool.map(self.decode, window) if item is not None]
                if decoded:
                    pixels, labels = zip(*decoded, strict=True)
                    yield torch.from_numpy(np.stack(pixels)), torch.tensor(labels)
        if broken := self.errors.counts["data_broken_images"] - before:
            logger.warning("data: %d images of %s could not be read and were left out", broken, self.name)

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches on the source's device: images (batch / world_size, 3, R, R) uint8 and labels.

        `batch` is the global batch size; each rank gets an equal, contiguous slice of every batch. `start_image` is the
        number of images before the first batch, a multiple of `batch`. Each reader yields each of its images once per epoch.
        Raises DataError if no shard can be read for STALL_TIMEOUT seconds, or if an image cannot be decoded and
        `skip_broken` is not set.
        """
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        assert start_image % batch == 0, "streams start between batches"
        local_batch = batch // world_size
        decoded_batches = self.decoded_batches(batch, rank, local_batch, start_image, seed)
        with contextlib.closing(ReadAhead(decoded_batches, ahead=PREFETCH_BATCHES)) as batches:
            for position, (pixels, labels) in zip(itertools.count(start_image, batch), batches, strict=False):
                images = to_device(torch.from_numpy(pixels), self.device)  # (local_batch, 3, R, R)
                if self.flip:
                    images = flip_at_random(images, batch, rank, seed, position)
                yield images, to_device(torch.from_numpy(labels), self.device)

    def decoded_batches(
        self, batch: int, rank: int, local_batch: int, start_image: int, seed: int
    ) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """This rank's slices of the batches: pixels (local_batch, 3, R, R) uint8 and labels (local_batch,) int64."""
        num_readers = max(number for number in range(1, min(MAX_READERS, len(self.shards)) + 1) if batch % number == 0)
        per_reader = batch // num_readers  # images of one reader in a global batch
        start, stop = rank * local_batch, (rank + 1) * local_batch
        window_size = max(1, self.shuffle_buffer // num_readers)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(min(16, os.cpu_count() or 1)))
            readers = []
            for reader in range(start // per_reader, (stop - 1) // per_reader + 1):
                windows = self.windows(reader, num_readers, start_image // batch * per_reader, seed, window_size)
                windows = stack.enter_context(contextlib.closing(ReadAhead(windows, ahead=1)))
                local = slice(max(start - reader * per_reader, 0), min(stop - reader * per_reader, per_reader))
                readers.append((itertools.chain.from_iterable(windows), local))
            while True:
                items = [item for reader, local in readers for item in list(itertools.islice(reader, per_reader))[local]]
                pixels, labels = zip(*pool.map(self.decode_item, items), strict=True)
                yield np.stack(pixels), np.array(labels, dtype=np.int64)

    def windows(
        self, reader: int, num_readers: int, start: int, seed: int, window_size: int
    ) -> Generator[list[WindowItem], None, None]:
        """The endless images of one reader, without its first `start`, as shuffled windows of up to `window_size`."""
        last_success = time.monotonic()
        for epoch in itertools.count():
            order = torch.randperm(len(self.shards), generator=addressed_rng(seed, "shard order", epoch))
            for number in order[reader::num_readers].tolist():
                shard = self.shards[number]
                if start >= shard.images:
                    start -= shard.images
                    continue
                first = start - start % window_size  # where the window that holds `start` begins in the shard
                start -= first
                samples = self.read_shard(shard, first)
                while window := list(itertools.islice(samples, window_size)):
                    order_in_window = torch.randperm(
                        len(window), generator=addressed_rng(seed, "window", epoch, number, first)
                    )
                    window = [window[index] for index in order_in_window.tolist()]
                    yield [WindowItem(window, index) for index in range(start, len(window))]
                    first, start, last_success = first + window_size, 0, time.monotonic()
                start = 0
                if time.monotonic() - last_success > STALL_TIMEOUT:
                    raise self.stall_error(shard)

    def read_shard(self, shard: Shard, first: int) -> Iterator[Sample]:
        """The samples of a shard from index `first` on.

        A failure is retried with increasing delays. The rest of the shard is skipped and counted once it has failed
        MAX_ATTEMPTS times while other shards can be opened. Raises DataError after STALL_TIMEOUT seconds without a sample.
        """
        position, last_success, others_readable = first, time.monotonic(), False
        for attempt in itertools.count(1):
            try:
                for sample in itertools.islice(read_samples(shard.name), position, shard.images):
                    yield sample
                    position, last_success = position + 1, time.monotonic()
                if position == shard.images:
                    return
                raise EOFError(f"it ends after {position} of {shard.images} images")
            except READ_FAILURES as error:
                reason = error_reason(error)
            # Others must be readable after two attempts in a row: a server may recover between an attempt and this test.
            before, others_readable = others_readable, attempt >= MAX_ATTEMPTS - 1 and self.others_can_be_opened(shard)
            if before and others_readable:
                break
            if time.monotonic() - last_success > STALL_TIMEOUT:
                raise self.stall_error(shard)
            if attempt == MAX_ATTEMPTS and not others_readable:
                text = "data: %s cannot be read, nor can others (%s): waiting"
                logger.warning(text, shard.name, reason, extra=EVERY_RANK)
            time.sleep(min(RETRY_DELAY * 2 ** (attempt - 1), MAX_RETRY_DELAY))
            self.errors.add(data_retries=1)
        skipped = shard.images - position
        self.errors.add(data_skipped_shards=1, data_skipped_images=skipped)
        text = "data: %s failed %d times and is left out, %d images (%s)"
        logger.warning(text, shard.name, attempt, skipped, reason, extra=EVERY_RANK)

    def others_can_be_opened(self, shard: Shard) -> bool:
        """Whether one of two other shards can be opened, which tells a bad shard from a failing disk or server. True if
        there are no two others."""
        number = self.shards.index(shard)
        others = [self.shards[(number + step) % len(self.shards)] for step in (1, len(self.shards) // 2)]
        return shard in others or any(map(can_be_opened, others))

    def stall_error(self, shard: Shard) -> DataError:
        """The error for a source of which nothing could be read for STALL_TIMEOUT seconds."""
        return DataError(
            f"data source {self.name}: nothing could be read for {STALL_TIMEOUT:.0f} seconds, last of all {shard.name}: "
            "make it available again and give the same command; it continues from the last checkpoint"
        )

    def decode_item(self, item: WindowItem) -> tuple[np.ndarray, int]:
        """Pixels (3, R, R) uint8 and label of an image or, if it is broken and `skip_broken` is set, of the next readable
        image of its window. Raises DataError on a broken image without `skip_broken`, on a window without any readable
        image, and on a class that the manifest does not list."""
        window, index = item
        for sample in window[index:] + window[:index]:
            decoded = self.decode(sample)
            if decoded is not None:
                return decoded
        raise DataError(f"data source {self.name}: of {len(window)} images around {window[index].name} none can be read")

    def decode(self, sample: Sample) -> tuple[np.ndarray, int] | None:
        """Pixels (3, R, R) uint8 and label of an image; None if it is broken and `skip_broken` is set. Raises DataError on a
        broken image without `skip_broken`, and on a class that the manifest does not list."""
        if sample.label not in self.label_by_class:
            raise DataError(f"image {sample.name} in {self.name} is of class {sample.label!r}, which its manifest lacks")
        try:
            pixels, _ = decode_pixels(sample.data, self.resolution, parse_color(self.background))
            return pixels, self.label_by_class[sample.label]
        except BrokenImage as error:
            if not self.skip_broken:
                raise broken_image_error(sample.name, self.name, str(error)) from error
            self.errors.add(data_broken_images=1)
            return None
