"""WebDataset shards as an endless stream: tar files on a disk, a web server or an object store, larger than any memory.

The stream is a function of the seed and the batch alone, whatever the number of ranks, and starts at any place. A batch is
cut into lanes; in every epoch the shuffled shards are dealt out to the lanes, and each lane reads its shards one after the
other, mixing the images within a window. A rank reads the lanes of its own part of the batch: the shards are split over
ranks. Decoding runs ahead in threads. A shard that fails is tried again, then left out and counted, after which the
stream is no longer that of an undisturbed run; while nothing at all can be read, the stream waits.
"""

import contextlib
import dataclasses
import http.client
import io
import itertools
import logging
import os
import queue
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import ModuleType
from typing import IO, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from biggan.data.manifest import Shard
from biggan.data.sources import IMAGE_SUFFIXES, decode
from biggan.runtime.errors import DataError
from biggan.runtime.logging import EVERY_RANK
from biggan.runtime.precision import to_device
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

T = TypeVar("T")

LANES = 32  # shards that are read side by side, at most

TRIES = 4  # of one shard

PAUSE = 1.0  # seconds before a shard is tried again; doubled for the next, up to LONGEST_PAUSE

LONGEST_PAUSE = 30.0

PATIENCE = 900.0  # seconds in which a lane gets nothing before it gives up

BATCHES_AHEAD = 3

TIMEOUT = 60.0  # seconds without an answer of a web server

FAILURES = (OSError, EOFError, ValueError, tarfile.TarError, http.client.HTTPException)

"""What reading a shard raises: the network, the disk, a tar file that is cut short, a sample without image or class."""


class Sample(NamedTuple):
    """One image file of a shard."""

    name: str
    data: bytes
    label: int


class Place(NamedTuple):
    """One image of a window, and the window: where it is broken, the next sound one stands in for it."""

    window: list[Sample]
    number: int


class ReadErrors:
    """What went wrong while reading, counted; lanes run in threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = {"data_retries": 0, "data_skipped_shards": 0, "data_skipped_images": 0, "data_broken_images": 0}

    def add(self, **counts: int) -> None:
        """Count."""
        with self.lock:
            for name, count in counts.items():
                self.counts[name] += count


@dataclass(frozen=True)
class ShardSource:
    """A stream of images (N, 3, R, R) uint8 and labels (N,) int64 out of shards; see the top of the file."""

    name: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    labels_in_files: dict[int, int]
    """The class of each number that stands in the shards."""
    resolution: int
    content_hash: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    flip: bool
    skip_broken: bool
    shuffle_buffer: int
    """Images that all lanes together mix at a time; up to three times as many are held, as files."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    trouble: ReadErrors = field(default_factory=ReadErrors)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def count(self) -> int:
        return sum(shard.images for shard in self.shards)

    def to(self, device: torch.device) -> "ShardSource":
        """The same source; its batches come on the device."""
        return dataclasses.replace(self, device=device)

    def read_errors(self) -> dict[str, int]:
        """What this rank has had to try again, or to leave out, so far."""
        return dict(self.trouble.counts)

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in the order of the shards, unflipped: uint8 (<= batch, 3, R, R) and classes."""
        samples = itertools.chain.from_iterable(self.read(shard, 0) for shard in self.shards)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            while part := list(itertools.islice(samples, batch)):
                places = [Place(part, number) for number in range(len(part))]
                pixels, labels = zip(*pool.map(self.decoded, places), strict=True)
                yield torch.from_numpy(np.stack(pixels)), torch.tensor(labels)

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches: images (batch / world_size, 3, R, R) uint8 and labels, on the source's device.

        `batch` is the global one; each rank gets its part of it. In an epoch of a lane each of its images comes once.
        Raises DataError where shard after shard cannot be read, or an image cannot be decoded and may not be left out.
        """
        assert batch % world_size == 0, "the global batch divides by the ranks, or the config was not checked"
        assert start_image % batch == 0, "streams start between batches"
        share = batch // world_size
        with contextlib.closing(ahead(self.batches(batch, rank, share, start_image, seed), BATCHES_AHEAD)) as batches:
            for position, (pixels, labels) in zip(itertools.count(start_image, batch), batches, strict=False):
                images = to_device(torch.from_numpy(pixels), self.device)  # (share, 3, R, R)
                if self.flip:
                    bernoulli = torch.rand(batch, generator=addressed_rng(seed, "flips", position)) < 0.5
                    mask = to_device(bernoulli[rank * share : (rank + 1) * share], self.device)
                    images = torch.where(mask[:, None, None, None], images.flip(3), images)
                yield images, to_device(torch.from_numpy(labels), self.device)

    def batches(
        self, batch: int, rank: int, share: int, start_image: int, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """This rank's part of each batch, decoded."""
        lanes = max(number for number in range(1, min(LANES, len(self.shards)) + 1) if batch % number == 0)
        slab = batch // lanes  # images of one lane in a batch
        mine = range(rank * share, (rank + 1) * share)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(min(16, os.cpu_count() or 1)))
            readers = []
            for lane in range(mine.start // slab, (mine.stop - 1) // slab + 1):
                window = max(1, self.shuffle_buffer // lanes)
                windows = self.windows(lane, lanes, start_image // batch * slab, seed, window)
                reader = stack.enter_context(contextlib.closing(ahead(windows, 1)))
                part = slice(max(mine.start - lane * slab, 0), min(mine.stop - lane * slab, slab))
                readers.append((itertools.chain.from_iterable(reader), part))
            while True:
                places = [place for lane, part in readers for place in list(itertools.islice(lane, slab))[part]]
                pixels, labels = zip(*pool.map(self.decoded, places), strict=True)
                yield np.stack(pixels), np.array(labels, dtype=np.int64)

    def windows(self, lane: int, lanes: int, start: int, seed: int, window: int) -> Iterator[list[Place]]:
        """The images of one lane from its `start`-th on, mixed within each window."""
        last = time.monotonic()
        for epoch in itertools.count():
            order = torch.randperm(len(self.shards), generator=addressed_rng(seed, "shard order", epoch))
            for number in order[lane::lanes].tolist():
                shard = self.shards[number]
                if start >= shard.images:
                    start -= shard.images
                    continue
                first = start - start % window  # of a window, in the shard
                start -= first
                samples = self.read(shard, first)
                while mixed := list(itertools.islice(samples, window)):
                    mixing = torch.randperm(len(mixed), generator=addressed_rng(seed, "window", epoch, number, first))
                    mixed = [mixed[place] for place in mixing.tolist()]
                    yield [Place(mixed, place) for place in range(start, len(mixed))]
                    first, start, last = first + window, 0, time.monotonic()
                start = 0
                if time.monotonic() - last > PATIENCE:
                    raise self.gone(shard)

    def read(self, shard: Shard, first: int) -> Iterator[Sample]:
        """The samples of a shard from its `first` on. What cannot be read after some tries, while other shards can (seen
        twice: a server may come back between a try and the look at the others), is left out and counted."""
        done, began, others = first, time.monotonic(), False
        for trial in itertools.count(1):
            try:
                for sample in itertools.islice(read_samples(shard.name), done, shard.images):
                    yield sample
                    done, began = done + 1, time.monotonic()
                if done == shard.images:
                    return
                raise EOFError(f"it ends after {done} of {shard.images} images")
            except FAILURES as error:
                reason = error_reason(error)
            before, others = others, trial >= TRIES - 1 and self.others_can_be_opened(shard)
            if before and others:
                break
            if time.monotonic() - began > PATIENCE:
                raise self.gone(shard)
            if trial == TRIES and not others:
                logger.warning("data: %s cannot be read, nor can others (%s): waiting", shard.name, reason, extra=EVERY_RANK)
            time.sleep(min(PAUSE * 2 ** (trial - 1), LONGEST_PAUSE))
            self.trouble.add(data_retries=1)
        left = shard.images - done
        self.trouble.add(data_skipped_shards=1, data_skipped_images=left)
        text = "data: %s failed %d times and is left out, %d images (%s)"
        logger.warning(text, shard.name, trial, left, reason, extra=EVERY_RANK)

    def others_can_be_opened(self, shard: Shard) -> bool:
        """Whether it is this shard that fails, and not the disk or the server. True where there is no other."""
        place = self.shards.index(shard)
        others = [self.shards[(place + step) % len(self.shards)] for step in (1, len(self.shards) // 2)]
        return shard in others or any(map(can_be_opened, others))

    def gone(self, shard: Shard) -> DataError:
        """What to say when nothing can be read any more."""
        return DataError(
            f"data source {self.name}: nothing could be read for {PATIENCE:.0f} seconds, last of all {shard.name}: "
            "when it is there again, the same command carries on from the last checkpoint"
        )

    def decoded(self, place: Place) -> tuple[np.ndarray, int]:
        """Pixels (3, R, R) uint8 and class of an image, or, where it is broken and may be left out, of the next in its
        window. Raises DataError where it may not, where the whole window is broken, and where the class is unknown."""
        window, number = place
        for sample in window[number:] + window[:number]:
            if sample.label not in self.labels_in_files:
                raise DataError(f"image {sample.name} in {self.name} is of class {sample.label}, which its manifest lacks")
            try:
                image, _ = decode(sample.data, self.resolution)
            except Exception as error:  # Pillow raises a dozen kinds; each means that this image is damaged
                if self.skip_broken:
                    self.trouble.add(data_broken_images=1)
                    continue
                raise DataError(
                    f"image {sample.name} in {self.name} cannot be read ({error}): mend it, or add --data.skip-broken"
                ) from error
            return np.asarray(image).transpose(2, 0, 1), self.labels_in_files[sample.label]
        raise DataError(f"data source {self.name}: of {len(window)} images around {window[number].name} none can be read")


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, made in a thread up to `depth` before they are asked for. An error comes out in its place; closing
    this closes `items`."""
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def hand_over(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((item, error), timeout=0.1)
                return

    def work() -> None:
        with contextlib.closing(items):
            try:
                for item in items:
                    hand_over(item, None)
                    if stopped.is_set():
                        return
                hand_over(None, StopIteration())
            except BaseException as error:  # it is raised where the item was wanted
                hand_over(None, error)

    def take() -> Iterator[T]:
        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                item, error = waiting.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            stopped.set()

    return take()


def read_samples(url: str) -> Iterator[Sample]:
    """The images of a tar file, in order. Raises one of FAILURES."""
    library = webdataset()
    with open_url(url) as stream:
        files = library.tariterators.tar_file_expander([{"url": url, "stream": stream}])
        for sample in library.tariterators.group_by_keys(files):
            suffix = next((name for name in sample if f".{name}" in IMAGE_SUFFIXES), None)
            if suffix is None or "cls" not in sample:
                raise ValueError(f"{sample['__key__']} has no image or no class (.cls) beside it")
            yield Sample(f"{PurePosixPath(url).name}/{sample['__key__']}.{suffix}", sample[suffix], int(sample["cls"]))


def error_reason(error: Exception) -> str:
    """One line; webdataset adds its own objects to the words of others' errors."""
    words = error if isinstance(error, OSError) or not error.args else error.args[0]
    return f"{type(error).__name__}: {words}"


def can_be_opened(shard: Shard) -> bool:
    """Whether there is a first byte."""
    try:
        with open_url(shard.name) as stream:
            return bool(stream.read(1))
    except FAILURES:
        return False


def open_url(url: str) -> IO[bytes]:
    """An absolute path, http(s), or what webdataset runs a program for (gs:, hf:, pipe:). Raises OSError."""
    if url.startswith(("http://", "https://")):
        return io.BufferedReader(urllib.request.urlopen(url, timeout=TIMEOUT), 1 << 20)
    if not os.path.isabs(url) and (url.startswith("pipe:") or "://" in url):
        return webdataset().gopen(url, "rb")
    return open(url, "rb")


def webdataset() -> ModuleType:
    """The library. Raises DataError where it is not installed."""
    try:
        import webdataset
    except ModuleNotFoundError as error:
        raise DataError("shards need webdataset: pip install 'biggan[wds]'") from error
    return webdataset
