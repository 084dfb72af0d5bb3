"""A look at every file of a data set: how many of each class, how large, which are broken, and some to see."""

import collections
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from biggan.data.formats import pixels_of
from biggan.data.prepare import area, attempt
from biggan.data.sources import Listing
from biggan.runtime.errors import DataError
from biggan.runtime.progress import progress_bar


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


def inspect(listing: Listing, resolution: int, *, rows: int, columns: int) -> Inspection:
    """Decode every image once. Raises DataError where none can be read."""

    counts, sizes, broken = collections.Counter(), [], []
    samples: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    indices = range(len(listing.images))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(partial(attempt, partial(pixels_of, resolution=resolution), listing), indices)
        for index, result in zip(indices, progress_bar(looks, len(indices), "reading"), strict=True):
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
