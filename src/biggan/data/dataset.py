"""Data sets: `open_source` opens a description such as "folder:DIR" as a Source of labeled images."""

import logging
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
from biggan.data.image_modes import parse_color
from biggan.data.listing import Listing
from biggan.data.loader import decode_or_load
from biggan.data.prepare import filter_listing
from biggan.data.sources import list_source, location_path
from biggan.data.webdataset_index import load_manifest, open_shards
from biggan.runtime.atomic_io import default_cache
from biggan.runtime.constraints import Remedy, check_fields
from biggan.runtime.errors import DataError

logger = logging.getLogger(__name__)


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
    def background(self) -> str:
        """The color that transparent pixels are composed on, as #rrggbb."""
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
    """Data source: embedded:digits, folder:DIR, zip:FILE, zip:FILE:FOLDER (a folder in it), hf:NAME[:SPLIT], packed:DIR,
    wds:DIR_OR_ADDRESS, or a path."""
    labels: str | None = None
    """Where the classes come from. folders: the folder of each image; file: the only label file (dataset.json, metadata.csv,
    metadata.jsonl); the name of a label file, or of a column of one or of a Hugging Face data set; none: all images are one
    class. None: whichever is the only possible one."""
    allow_empty_classes: bool = False
    """Leave out class folders without an image instead of stopping."""
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
    background: Annotated[str | None, tyro.conf.arg(aliases=("--background",))] = None
    """Color behind transparent pixels: white, black, another name or #rrggbb; None: white, or that of a prepared set."""
    skip_broken: Annotated[bool, tyro.conf.arg(aliases=("--skip-broken",))] = False
    """Leave out images that cannot be read instead of stopping at the first one."""
    verify: Annotated[bool, tyro.conf.arg(aliases=("--verify",))] = False
    """Compare everything that is stored with its checksums, and decode images again that are in the cache; else only small
    files and a few random blocks are compared."""
    shuffle_buffer: Count = 2048
    """Number of images in the shuffle buffer of a wds: source; up to three times as many encoded images are in memory."""
    cache: Path | None = None
    """Folder for decoded images; None: $BIGGAN_CACHE if set, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan."""

    @property
    def class_options(self) -> dict[str, Any]:
        """The keyword arguments of `open_source` that say what the classes are, also for another source of the same
        classes: labels and allow_empty_classes."""
        return {"labels": self.labels, "allow_empty_classes": self.allow_empty_classes}

    @property
    def filters(self) -> dict[str, object]:
        """The keyword arguments of `filter_listing`: classes, min_per_class and max_per_class."""
        return {name: getattr(self, name) for name in ("classes", "min_per_class", "max_per_class")}

    def check(self) -> None:
        """Raises ConfigError if a field is out of its range."""
        check_fields(self, "data")
        if self.background is not None:
            parse_color(self.background)


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
    labels: str | None = None,
    allow_empty_classes: bool = False,
    filters: dict[str, object] | None = None,
    flip: bool = False,
    background: str | None = None,
    skip_broken: bool = False,
    verify: bool = False,
    shuffle_buffer: int = 2048,
    cache: Path | None = None,
) -> Source:
    """Open a data set as square RGB images of resolution x resolution pixels.

    `spec`: "embedded:digits", "folder:DIR", "zip:FILE", "zip:FILE:FOLDER", "hf:NAME[:SPLIT]", "packed:DIR",
    "wds:DIR_OR_ADDRESS" or a path. `labels`: where the classes come from: "folders", "file", "none", the name of a label
    file or of a column (see `list_source`); None: whichever is the only possible one. `allow_empty_classes`: leave out class
    folders without an image. `filters`: keyword arguments of `filter_listing`. `flip`: mirror images of `stream` with
    probability 1/2. `background`: color behind transparent pixels (None: white, or that of a prepared set). `skip_broken`:
    leave out unreadable images. `verify`: compare all stored data with its checksums, and decode again what is in the cache.
    `shuffle_buffer`: images in the shuffle buffer of a wds: source. `cache`: folder for decoded images (None: the default
    one).

    Images are center-cropped to a square along the longer edge and resized (see `image_decoding.decode`). They are decoded
    once and stored in the cache; a wds: source decodes on the fly. Raises DataError if there is no image, if stored data is
    damaged, if an image cannot be read and `skip_broken` is not set, if the classes are not certain, and if a class folder
    has no image; ConfigError if `background` is no color.
    """
    layout, location = parse_prepared(spec)
    check_prepared_options(spec, layout, labels, filters or {})
    folder = cache or default_cache()
    if layout == "packed":
        return open_packed(location_path(location, spec), resolution, flip=flip, background=background, verify=verify)
    options = {"flip": flip, "skip_broken": skip_broken, "cache": folder, "verify": verify}
    if layout == "wds":
        return open_shards(location, resolution, shuffle_buffer=shuffle_buffer, background=background, **options)
    listing = list_classes(spec, labels=labels, allow_empty_classes=allow_empty_classes, filters=filters or {})
    return decode_or_load(listing, resolution, background=background or "white", **options)


def check_prepared_options(spec: str, layout: str | None, labels: str | None, filters: dict[str, object]) -> None:
    """Raises DataError on options that packed: and wds: sources do not have."""
    what = f"data source {spec} holds the images as they are used"
    if layout is not None and any(value is not None for value in filters.values()):
        raise DataError(f"{what}: filter them when they are prepared (biggan data prepare), not here")
    if layout is not None and labels is not None:
        raise DataError(f"{what}: choose their labels when they are prepared (biggan data prepare), not here")


def open_data(config: DataConfig, resolution: int, source: str | None = None, **overrides: Any) -> Source:
    """Open the source of a config at the given resolution, or another `source` in the same way. `overrides` replace keyword
    arguments of `open_source`."""
    names = ("filters", "flip", "background", "skip_broken", "verify", "shuffle_buffer", "cache")
    options = {name: getattr(config, name) for name in names}
    return open_source(source or config.source, resolution, **config.class_options | options | overrides)


def list_classes(spec: str, *, labels: str | None, allow_empty_classes: bool, filters: dict[str, Any]) -> Listing:
    """The filtered listing of a source. The log says where its classes come from, if not from folders, and what was left
    out. Raises DataError as `list_source` and `filter_listing`, and if a class folder that the filters keep has no image."""
    listing = list_source(spec, labels)
    for note in listing.notes():
        logger.info("data: %s", note)
    allowed = allow_empty_classes or filters.get("min_per_class") is not None
    empty = listing.check_empty_classes(allowed=allowed, classes=filters.get("classes"))
    if empty:
        logger.warning("data: classes without an image are left out: %s", ", ".join(empty))
    return filter_listing(listing, **filters) if any(value is not None for value in filters.values()) else listing


def parse_prepared(spec: str) -> tuple[str | None, str]:
    """The layout and the location of a prepared set: of "packed:DIR", "wds:LOCATION", or a path to a prepared folder,
    which is made absolute so that it cannot be taken for an address. The layout is None for all other sources."""
    kind, separator, location = spec.partition(":")
    if separator and kind in ("packed", "wds"):
        if not location.strip():
            raise DataError(f"data source {spec!r} names no folder: use {kind}:DIR")
        return kind, location
    folder = location_path(spec, spec)
    if not manifest.is_prepared(folder):
        return None, spec
    return ("packed" if (folder / "images.u8").exists() else "wds"), str(folder.absolute())


def count_images_and_classes(config: DataConfig) -> tuple[int, tuple[str, ...]]:
    """The number of images and the class names of a config's source, without decoding images. Raises DataError if the source
    cannot be listed."""
    layout, location = parse_prepared(config.source)
    check_prepared_options(config.source, layout, config.labels, config.filters)
    if layout == "packed":
        contents = manifest.read_manifest(location_path(location, config.source), layout)
        return contents.images, contents.class_names
    if layout == "wds":
        contents, _ = load_manifest(location, config.cache or default_cache())
        return contents.images, contents.class_names
    listing = list_classes(config.source, filters=config.filters, **config.class_options)
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
