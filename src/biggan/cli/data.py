"""biggan data inspect, biggan data prepare."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from biggan.cli.common import (
    check_between,
    check_out_file,
    check_out_folder,
    check_outside,
    count_classes,
    is_inside,
    parse,
    save_image_grid,
    writing_to,
)
from biggan.cli.inputs import DecodingOptions
from biggan.cli.output import say
from biggan.runtime.errors import ConfigError, suggestion

MAX_RESOLUTION, MAX_COUNT = 4096, 10**9

Labels = Annotated[str | None, tyro.conf.arg(aliases=("--data.labels",))]

SHOWN = 20  # classes, and broken files, that are listed one by one


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Inspect every image of a data set: counts per class, sizes, broken files, and a sheet of images."""

    source: tyro.conf.Positional[str]
    """folder:DIR, zip:FILE, zip:FILE:FOLDER, hf:NAME[:SPLIT], embedded:digits or a plain path."""
    labels: Labels = None
    """Where the classes come from, as --data.labels of biggan train: folders, file, none, or the name of a label file or a
    column; None: whichever is the only possible one."""
    out: Path | None = None
    """Image file (.png) to write, outside of the data set: one row for each of the first 20 classes. None: inspected.png in
    the current folder, or beside the data set if the current folder is in it."""
    resolution: int = 64
    """Size of an image on the sheet."""
    background: str = "white"
    """Color behind transparent pixels: white, black, another name or #rrggbb."""


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(DecodingOptions):
    """Decode a data set once. The same command, given again, resumes where it stopped, or checks what is finished."""

    source: tyro.conf.Positional[str]
    """folder:DIR, zip:FILE, zip:FILE:FOLDER, hf:NAME[:SPLIT], embedded:digits or a plain path."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    labels: Labels = None
    """Where the classes come from, as --data.labels of biggan train: folders, file, none, or the name of a label file or a
    column; None: whichever is the only possible one."""
    allow_empty_classes: Annotated[bool, tyro.conf.arg(aliases=("--data.allow-empty-classes",))] = False
    """Leave out class folders without an image instead of stopping."""
    resolution: int = 128
    """Size of the stored images in pixels."""
    format: Literal["packed", "wds"] = "packed"
    """packed: one memory-mapped file of uint8 pixels. wds: WebDataset shards, for servers and sets larger than memory."""
    shard_images: int = 1000
    """wds: largest number of images in a shard."""
    quality: int | None = None
    """wds: store resized images as JPEG of this quality (1 to 100); None: as PNG, without loss."""
    classes: Annotated[tuple[str, ...] | None, tyro.conf.arg(aliases=("--data.classes",))] = None
    """Names of the classes to keep; None: all."""
    min_per_class: int | None = None
    """Leave out classes with fewer images than this; None: keep all classes."""
    max_per_class: int | None = None
    """Keep at most this many images of each class, a fixed random choice; None: all."""
    background: str | None = None
    """Color behind transparent pixels: white, black, another name or #rrggbb; None: white."""
    skip_broken: bool = True
    """Leave out images that cannot be read, and list them in rejected.jsonl; --no-skip-broken stops at the first one."""
    verify: bool = False
    """Of a set that is finished: compare all pixels with their checksums, not only a few random blocks."""


def data(arguments: list[str]) -> int:
    """biggan data inspect|prepare SOURCE ..."""
    what = arguments[0] if arguments else ""
    if what in ("-h", "--help"):
        say("usage: biggan data {inspect,prepare} SOURCE [options]")
        return 0
    if what not in VERBS:
        raise ConfigError(f"data{what and ' ' + what}: name what to do; {suggestion(what, VERBS)}")
    return VERBS[what](arguments[1:])


def inspect(arguments: list[str]) -> int:
    """biggan data inspect SOURCE [options]"""
    command = parse(InspectCommand, arguments, "biggan data inspect")
    check_between(resolution=(command.resolution, 1, MAX_RESOLUTION))
    out = command.out or default_sheet(command.source)
    if not out.suffix:
        raise ConfigError(f"--out {out} is no image file: give one such as {out / 'inspected.png'}")
    check_out_file(out)
    check_outside(out, command.source, "--out")
    from biggan.data import inspection, sources
    from biggan.data.image_modes import parse_color

    listing = sources.list_source(command.source, command.labels)
    options = {"rows": SHOWN, "columns": 10, "background": parse_color(command.background)}
    found = inspection.inspect(listing, command.resolution, **options)
    counts = sorted(found.counts.items(), key=lambda item: -item[1])
    say(f"images {sum(found.counts.values())} of {count_classes(len(counts))}")
    for name, count in counts[:SHOWN]:
        say(f"  {count:8} {name}")
    if len(counts) > SHOWN:
        say(f"  {len(counts) - SHOWN} classes more, the smallest of {counts[-1][1]} images ({counts[-1][0]})")
    say(f"classes from {listing.origin}")
    for name, reason in listing.empty_classes[:SHOWN]:
        say(f"  without an image: {name} ({reason})")
    if listing.empty_classes:
        say("  biggan train stops at these unless --data.allow-empty-classes is given")
    sizes = (found.smallest, found.median, found.largest)
    say("sizes  {} smallest, {} median, {} largest".format(*(f"{width}x{height}" for width, height in sizes)))
    say(f"broken {len(found.broken)}")
    for name, reason in found.broken[:SHOWN]:
        say(f"  {name}: {reason}")
    for line in listing.left_out:
        say(f"left out {line}")
    blank = torch.zeros(3, command.resolution, command.resolution, dtype=torch.uint8)
    cells, images = [], iter(found.samples)
    for count in found.samples_per_class:
        cells += [torch.from_numpy(next(images).copy()) for _ in range(count)] + [blank] * (10 - count)
    save_image_grid(torch.stack(cells), 10, out)
    say(f"sheet  {out}")
    return 0


def default_sheet(source: str) -> Path:
    """Where the sheet of a data set goes."""
    sheet = Path("inspected.png")
    while is_inside(sheet, source):
        sheet = Path("..") / sheet
    return sheet


def prepare(arguments: list[str]) -> int:
    """biggan data prepare SOURCE OUT [options]"""
    command = parse(PrepareCommand, arguments, "biggan data prepare")
    counts = {name: (getattr(command, name), 1, MAX_COUNT) for name in ("shard_images", "min_per_class", "max_per_class")}
    check_between(resolution=(command.resolution, 1, MAX_RESOLUTION), quality=(command.quality, 1, 100), **counts)
    check_out_folder(command.out)
    check_outside(command.out, command.source, "the folder")
    if command.format == "packed" and (command.quality, command.shard_images) != (None, PrepareCommand.shard_images):
        raise ConfigError("--quality and --shard-images go with --format wds")
    from biggan.data import prepare as preparing
    from biggan.data.dataset import list_classes
    from biggan.data.formats import Packed, Shards
    from biggan.data.image_modes import color_code

    filters = {name: getattr(command, name) for name in ("classes", "min_per_class", "max_per_class")}
    class_options = {"labels": command.labels, "allow_empty_classes": command.allow_empty_classes}
    listing = list_classes(command.source, filters=filters, **class_options)
    ground = color_code(command.background or "white")
    layout: Packed | Shards
    if command.format == "packed":
        layout = Packed(command.resolution, background=ground)
    else:
        options = {"shard_images": command.shard_images, "quality": command.quality, "background": ground}
        layout = Shards(command.resolution, **options)
    with writing_to(command.out):
        options = {"skip_broken": command.skip_broken, "verify": command.verify}
        manifest = preparing.prepare(listing, command.out, layout, **options)
    classes = count_classes(len(manifest.class_names))
    say(f"images {manifest.images} of {classes} at {manifest.resolution} px in {command.out}")
    if manifest.rejected:
        say(f"broken {manifest.rejected}, listed with reasons in {command.out / 'rejected.jsonl'}")
    say(f"next   biggan train PRESET --data {shlex.quote(f'{command.format}:{command.out}')}")
    return 0


VERBS = {"inspect": inspect, "prepare": prepare}
