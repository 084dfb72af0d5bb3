"""Data sets: `open_source` turns a short description into a Source, a stream of images with classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
import tyro
from annotated_types import Ge
from torch import Tensor

from biggan.data import manifest
from biggan.data.formats import open_packed
from biggan.data.loader import load
from biggan.data.prepare import filtered
from biggan.data.sources import list_source
from biggan.data.webdataset_index import load_manifest, open_shards
from biggan.runtime.atomic_io import default_cache as default_cache
from biggan.runtime.constraints import Remedy, check_fields
from biggan.runtime.errors import DataError


class Source(Protocol):
    """What training and measuring need of a data set."""

    name: str
    class_names: tuple[str, ...]
    num_classes: int
    resolution: int
    content_hash: str
    count: int
    """Images."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""

    def read_errors(self) -> dict[str, int]:
        """What could not be read so far, by name, for the log; empty for a source that is whole once it is open."""
        ...

    def to(self, device: torch.device) -> "Source":
        """The same source, on the device if it is worth it."""
        ...

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in a fixed random order, unflipped: uint8 (<= batch, 3, R, R) and classes."""
        ...

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless global batches of uint8 images (batch / world_size, 3, R, R) and labels, resumable by position."""
        ...


Count = Annotated[int, Ge(1), Remedy("leave it out")]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and what is done to them."""

    source: Annotated[str | None, tyro.conf.arg(aliases=("--data",))] = None
    """embedded:digits, folder:DIR, zip:FILE, hf:NAME[:SPLIT], packed:DIR, wds:DIR_OR_ADDRESS, or a plain path."""
    classes: tuple[str, ...] | None = None
    """Only these classes; None: all."""
    min_per_class: Count | None = None
    """Leave out classes of fewer images."""
    max_per_class: Count | None = None
    """A fixed random choice of so many images from larger classes."""
    labels_per_class: Count | None = None
    """Only so many images of each class, chosen at random, have a label that semi-supervised training looks at; None:
    all."""
    label_seed: int = 0
    """Of that choice."""
    flip: bool = False
    """Mirror half of the images, at random, left to right."""
    skip_broken: bool = False
    """Leave out images that cannot be read, instead of stopping at the first."""
    shuffle_buffer: Count = 2048
    """Of wds: streams: images that are mixed at a time; up to three times as many are held in memory, as files."""
    cache: Path | None = None
    """Folder for decoded images; None: $BIGGAN_CACHE, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan."""

    @property
    def filters(self) -> dict[str, object]:
        """What chooses among the images, as `prepare.filtered` takes it."""
        return {name: getattr(self, name) for name in ("classes", "min_per_class", "max_per_class")}

    def check(self) -> None:
        """Raises ConfigError on numbers that make no sense."""
        check_fields(self, "data")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What was found when the source was opened: part of a run's identity."""

    name: str
    images: int
    class_names: tuple[str, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    content_hash: str


def open_source(
    spec: str,
    resolution: int,
    *,
    filters: dict[str, object] | None = None,
    flip: bool = False,
    skip_broken: bool = False,
    shuffle_buffer: int = 2048,
    cache: Path | None = None,
) -> Source:
    """The images of "embedded:digits", "folder:DIR", "zip:FILE", "hf:NAME[:SPLIT]", "packed:DIR", "wds:DIR_OR_ADDRESS" or a
    plain path, square, RGB, of the given resolution. `filters` are those of `prepare.filtered`.

    Images are cropped to a centre square along the long edge and resized with area resampling. Decoding is kept in the
    cache folder; a wds: source is read as it is needed. Raises DataError where there is no image, or one cannot be read and
    `skip_broken` is not set.
    """
    chosen = any(value is not None for value in (filters or {}).values())
    layout, where = prepared(spec)
    if layout is not None and chosen:
        raise DataError(f"data source {spec} is prepared: filter it when it is prepared, not here")
    folder = cache or default_cache()
    if layout == "packed":
        return open_packed(Path(where).expanduser(), resolution, flip=flip)
    options = {"flip": flip, "skip_broken": skip_broken, "cache": folder}
    if layout == "wds":
        return open_shards(where, resolution, shuffle_buffer=shuffle_buffer, **options)
    listing = list_source(spec)
    return load(filtered(listing, **filters) if chosen else listing, resolution, **options)


def open_data(config: DataConfig, resolution: int, **how: Any) -> Source:
    """`open_source` as a config says; `how`: the rest of its arguments."""
    options = {name: getattr(config, name) for name in ("filters", "flip", "skip_broken", "shuffle_buffer", "cache")}
    return open_source(config.source, resolution, **options | how)


def is_streamed(config: DataConfig) -> bool:
    """Whether the source of a config is read as it is needed, and not once when it is opened."""
    return prepared(config.source)[0] == "wds"


def prepared(spec: str) -> tuple[str | None, str]:
    """The layout of a prepared set, and where it is: of "packed:DIR", "wds:WHERE", or a plain path to such a folder, made
    absolute lest it be taken for an address. None for other sources."""
    kind, _, where = spec.partition(":")
    if where and kind in ("packed", "wds"):
        return kind, where
    folder = Path(spec).expanduser()
    if not manifest.is_prepared(folder):
        return None, spec
    return ("packed" if (folder / "images.u8").exists() else "wds"), str(folder.absolute())


def summary(config: DataConfig) -> tuple[int, tuple[str, ...]]:
    """How many images and which classes the source of a config has; decodes nothing. Raises DataError as `open_source`."""
    layout, where = prepared(config.source)
    if layout == "packed":
        found = manifest.read_manifest(Path(where).expanduser(), layout)
        return found.images, found.class_names
    if layout == "wds":
        found, _ = load_manifest(where, config.cache or default_cache())
        return found.images, found.class_names
    listing = filtered(list_source(config.source), **config.filters)
    return len(listing.images), listing.class_names


def dataset_info(source: Source) -> DatasetInfo:
    """What a run's config keeps of its data."""
    return DatasetInfo(
        name=source.name,
        images=source.count,
        class_names=source.class_names,
        sizes=source.sizes,
        content_hash=source.content_hash,
    )
