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
from biggan.data.sources import list_source


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
    """embedded:digits, folder:DIR, zip:FILE or a plain path."""
    flip: bool = False
    """Mirror half of the images, at random, left to right."""
    skip_broken: bool = False
    """Leave out images that cannot be read, instead of stopping at the first."""
    cache: Path | None = None
    """Folder for decoded images; None: $BIGGAN_CACHE, else $XDG_CACHE_HOME/biggan, else ~/.cache/biggan."""


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
    flip: bool = False,
    skip_broken: bool = False,
    cache: Path | None = None,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda line: None,
) -> ResidentSource:
    """The images of "embedded:digits", "folder:DIR", "zip:FILE" or a plain path, square, RGB, of the given resolution.

    Images are cropped to a centre square along the long edge and resized with area resampling. Decoding is kept in the
    cache folder. Raises DataError where there is no image, or one cannot be read and `skip_broken` is not set.
    """
    listing = list_source(spec)
    folder = cache or default_cache()
    return load(listing, resolution, flip=flip, skip_broken=skip_broken, cache=folder, progress=progress, report=report)


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
