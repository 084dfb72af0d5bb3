"""Data sets: `open_source` turns a short description into a Source, a stream of images with classes."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch
import tyro
from torch import Tensor

from biggan.data.loader import Progress, ResidentSource, load, no_progress
from biggan.data.prepare import filtered, open_packed
from biggan.data.sources import list_source
from biggan.errors import ConfigError, DataError


class Source(Protocol):
    """What training and measuring need of a data set."""

    name: str
    class_names: tuple[str, ...]
    num_classes: int
    resolution: int
    content_hash: str

    def placed_on(self, device: torch.device) -> "Source":
        """The same source, on the device if it is worth it."""
        ...

    def stream(
        self, batch: int, *, rank: int = 0, world_size: int = 1, start_image: int = 0, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless global batches of uint8 images (batch / world_size, 3, R, R) and labels, resumable by position."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and what is done to them."""

    source: Annotated[str | None, tyro.conf.arg(aliases=("--data",))] = None
    """embedded:digits, folder:DIR, zip:FILE, packed:DIR or a plain path."""
    classes: tuple[str, ...] | None = None
    """Only these classes; None: all."""
    min_per_class: int | None = None
    """Leave out classes of fewer images."""
    max_per_class: int | None = None
    """A fixed random choice of so many images from larger classes."""
    flip: bool = False
    """Mirror half of the images, at random, left to right."""
    skip_broken: bool = False
    """Leave out images that cannot be read, instead of stopping at the first."""
    cache: Path | None = None
    """Folder for decoded images; None: $BIGGAN_CACHE, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan."""

    @property
    def filters(self) -> dict[str, object]:
        """What chooses among the images, as `prepare.filtered` takes it."""
        return {name: getattr(self, name) for name in ("classes", "min_per_class", "max_per_class")}

    def check(self) -> None:
        """Raises ConfigError on numbers that make no sense."""
        for name in ("min_per_class", "max_per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}={value} must be at least 1: leave it out for no limit")


@dataclass(frozen=True, kw_only=True)
class DataFacts:
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
    cache: Path | None = None,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda line: None,
) -> ResidentSource:
    """The images of "embedded:digits", "folder:DIR", "zip:FILE", "packed:DIR" or a plain path, square, RGB, of the given
    resolution. `filters` are those of `prepare.filtered`.

    Images are cropped to a centre square along the long edge and resized with area resampling. Decoding is kept in the
    cache folder. Raises DataError where there is no image, or one cannot be read and `skip_broken` is not set.
    """
    chosen = any(value is not None for value in (filters or {}).values())
    packed = packed_folder(spec)
    if packed is not None:
        if chosen:
            raise DataError(f"data source {spec} is packed: filter it when it is prepared, not here")
        return open_packed(packed, resolution, flip=flip)
    listing = list_source(spec)
    if chosen:
        listing = filtered(listing, **filters)
    folder = cache or default_cache()
    return load(listing, resolution, flip=flip, skip_broken=skip_broken, cache=folder, progress=progress, report=report)


def packed_folder(spec: str) -> Path | None:
    """The folder of "packed:DIR", or of a plain path to a packed set; None for other sources."""
    if spec.startswith("packed:"):
        return Path(spec.removeprefix("packed:")).expanduser()
    path = Path(spec).expanduser()
    return path if (path / "manifest.json").exists() and (path / "images.u8").exists() else None


def facts_of(source: ResidentSource) -> DataFacts:
    """What a run's config keeps of its data."""
    return DataFacts(
        name=source.name,
        images=len(source.labels),
        class_names=source.class_names,
        sizes=source.sizes,
        content_hash=source.content_hash,
    )


def default_cache() -> Path:
    """Where decoded images are kept unless the config says otherwise."""
    if "BIGGAN_CACHE" in os.environ:
        return Path(os.environ["BIGGAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "biggan"
