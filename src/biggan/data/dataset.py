"""Data sets: `open_source` opens a description such as "folder:DIR" as a Source of labeled images."""

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
from biggan.data.loader import decode_or_load
from biggan.data.prepare import filter_listing
from biggan.data.sources import list_source
from biggan.data.webdataset_index import load_manifest, open_shards
from biggan.runtime.atomic_io import default_cache
from biggan.runtime.constraints import Remedy, check_fields
from biggan.runtime.errors import DataError


class Source(Protocol):
    """A labeled image data set, as training and evaluation use it: batches of uint8 images (N, 3, R, R) and labels (N,)."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def resolution(self) -> int: ...

    @property
    def content_hash(self) -> str:
        """sha256 that changes with the images or the labels."""
        ...

    @property
    def count(self) -> int:
        """Number of images."""
        ...

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of the smallest and of the largest image file."""
        ...

    def read_errors(self) -> dict[str, int]:
        """Counts of read errors so far, by log key; empty for a source that was read completely when it was opened."""
        ...

    def to(self, device: torch.device) -> "Source":
        """A source of the same images, moved to the device if its memory suffices."""
        ...

    def iterate_once(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in a fixed order, not flipped: batches of uint8 (<= batch, 3, R, R) and labels (<= batch,)."""
        ...

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches of uint8 images (batch / world_size, 3, R, R) and labels. `batch` is the global batch size; the
        stream resumes after `start_image` images."""
        ...


Count = Annotated[int, Ge(1), Remedy("leave it out")]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training images: where they come from, which of them are used, and how they are augmented."""

    source: Annotated[str | None, tyro.conf.arg(aliases=("--data",))] = None
    """Data source: embedded:digits, folder:DIR, zip:FILE, hf:NAME[:SPLIT], packed:DIR, wds:DIR_OR_ADDRESS, or a path."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to use; None: all classes."""
    min_per_class: Count | None = None
    """Leave out classes with fewer images than this; None: keep all classes."""
    max_per_class: Count | None = None
    """Use at most this many images of each class, a fixed random choice; None: all images."""
    labels_per_class: Count | None = None
    """Number of labeled images of each class in semi-supervised training, chosen at random; None: all images are
    labeled."""
    label_seed: int = 0
    """Seed of the random choice of the labeled images (see labels_per_class)."""
    flip: bool = False
    """Mirror each image horizontally with probability 1/2."""
    skip_broken: bool = False
    """Leave out images that cannot be read instead of stopping at the first one."""
    shuffle_buffer: Count = 2048
    """Number of images in the shuffle buffer of a wds: source; up to three times as many encoded images are in memory."""
    cache: Path | None = None
    """Folder for decoded images; None: $BIGGAN_CACHE if set, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan."""

    @property
    def filters(self) -> dict[str, object]:
        """The keyword arguments of `filter_listing`: classes, min_per_class and max_per_class."""
        return {name: getattr(self, name) for name in ("classes", "min_per_class", "max_per_class")}

    def check(self) -> None:
        """Raises ConfigError if a field is out of its range."""
        check_fields(self, "data")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Description of an opened source, stored in the config of a run and compared when the run is resumed."""

    name: str
    images: int
    """Number of images."""
    class_names: tuple[str, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(width, height) of the smallest and of the largest image file."""
    content_hash: str
    """sha256 that changes with the images or the labels."""


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
    """Open a data set as square RGB images of resolution x resolution pixels.

    `spec`: "embedded:digits", "folder:DIR", "zip:FILE", "hf:NAME[:SPLIT]", "packed:DIR", "wds:DIR_OR_ADDRESS" or a path.
    `filters`: keyword arguments of `filter_listing`. `flip`: mirror images of `stream` with probability 1/2. `skip_broken`:
    leave out unreadable images. `shuffle_buffer`: images in the shuffle buffer of a wds: source. `cache`: folder for decoded
    images (None: the default one).

    Images are center-cropped to a square along the longer edge and resized (see `image_decoding.decode`). They are decoded
    once and stored in the cache; a wds: source decodes on the fly. Raises DataError if there is no image, or if an image
    cannot be read and `skip_broken` is not set.
    """
    has_filters = any(value is not None for value in (filters or {}).values())
    layout, location = parse_prepared(spec)
    if layout is not None and has_filters:
        raise DataError(f"data source {spec} is a prepared set: filter it when it is prepared, not here")
    folder = cache or default_cache()
    if layout == "packed":
        return open_packed(Path(location).expanduser(), resolution, flip=flip)
    options = {"flip": flip, "skip_broken": skip_broken, "cache": folder}
    if layout == "wds":
        return open_shards(location, resolution, shuffle_buffer=shuffle_buffer, **options)
    listing = list_source(spec)
    return decode_or_load(filter_listing(listing, **filters) if has_filters else listing, resolution, **options)


def open_data(config: DataConfig, resolution: int, **overrides: Any) -> Source:
    """Open the source of a config at the given resolution. `overrides` replace keyword arguments of `open_source`."""
    options = {name: getattr(config, name) for name in ("filters", "flip", "skip_broken", "shuffle_buffer", "cache")}
    return open_source(config.source, resolution, **options | overrides)


def parse_prepared(spec: str) -> tuple[str | None, str]:
    """The layout and the location of a prepared set: of "packed:DIR", "wds:LOCATION", or a path to a prepared folder,
    which is made absolute so that it cannot be taken for an address. The layout is None for all other sources."""
    kind, _, location = spec.partition(":")
    if location and kind in ("packed", "wds"):
        return kind, location
    folder = Path(spec).expanduser()
    if not manifest.is_prepared(folder):
        return None, spec
    return ("packed" if (folder / "images.u8").exists() else "wds"), str(folder.absolute())


def count_images_and_classes(config: DataConfig) -> tuple[int, tuple[str, ...]]:
    """The number of images and the class names of a config's source, without decoding images. Raises DataError if the source
    cannot be listed."""
    layout, location = parse_prepared(config.source)
    if layout == "packed":
        contents = manifest.read_manifest(Path(location).expanduser(), layout)
        return contents.images, contents.class_names
    if layout == "wds":
        contents, _ = load_manifest(location, config.cache or default_cache())
        return contents.images, contents.class_names
    listing = filter_listing(list_source(config.source), **config.filters)
    return len(listing.images), listing.class_names


def dataset_info(source: Source) -> DatasetInfo:
    """The description of a source that is stored in the config of a run."""
    return DatasetInfo(
        name=source.name,
        images=source.count,
        class_names=source.class_names,
        sizes=source.sizes,
        content_hash=source.content_hash,
    )
