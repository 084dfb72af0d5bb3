"""Inspection of a data set: class counts, image sizes, broken files and sample images."""

import collections
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from biggan.data.image_decoding import WHITE, area
from biggan.data.prepare import result_or_reason
from biggan.data.sources import Listing
from biggan.runtime.errors import DataError
from biggan.runtime.progress import progress_bar


class Inspection(NamedTuple):
    """The result of reading every file of a data set. Sizes are (width, height)."""

    counts: dict[str, int]
    """Number of readable images of each class."""
    smallest: tuple[int, int]
    """Size of the image with the smallest area."""
    median: tuple[int, int]
    """Median width and median height."""
    largest: tuple[int, int]
    """Size of the image with the largest area."""
    broken: list[tuple[str, str]]
    """Names of the files that cannot be read, each with the reason."""
    samples: list[np.ndarray]
    """Up to `columns` images (3, R, R) uint8 of each of the first `rows` classes, class by class."""
    samples_per_class: list[int]
    """Number of sample images of each of these classes."""


def inspect(
    listing: Listing, resolution: int, *, rows: int, columns: int, background: tuple[int, int, int] = WHITE
) -> Inspection:
    """Decode every image once. `rows` classes get up to `columns` sample images each; transparent pixels show the
    background (red, green, blue). Raises DataError if no image can be read."""
    counts: collections.Counter[str] = collections.Counter()
    sizes, broken = [], []
    samples: dict[int, list[np.ndarray]] = collections.defaultdict(list)
    indices = range(len(listing.images))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decode = partial(Listing.decode_image, resolution=resolution, background=background)
        results = pool.map(partial(result_or_reason, decode, listing), indices)
        for index, result in zip(indices, progress_bar(results, len(indices), "reading"), strict=True):
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
    median = (round(statistics.median(width for width, _ in sizes)), round(statistics.median(height for _, height in sizes)))
    by_class = [samples[label] for label in sorted(samples)]
    return Inspection(
        counts={name: counts[name] for name in listing.class_names},
        smallest=by_area[0],
        median=median,
        largest=by_area[-1],
        broken=broken,
        samples=[image for images in by_class for image in images],
        samples_per_class=[len(images) for images in by_class],
    )
