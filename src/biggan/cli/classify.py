"""biggan classify: the discriminator of a semi-supervised run as a classifier."""

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from torch import Tensor

from biggan.cli.common import check_between, check_out_file, parse, writing_to
from biggan.cli.inputs import DecodingOptions
from biggan.cli.output import say
from biggan.runtime.atomic_io import write_file
from biggan.runtime.errors import DataError, first_line
from biggan.runtime.precision import DeviceName
from biggan.runtime.progress import progress_bar
from biggan.runtime.rng import addressed_rng

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from biggan.data.sources import Listing


@dataclass(frozen=True, kw_only=True)
class ClassifyCommand(DecodingOptions):
    """Classify images with the discriminator of a semi-supervised run, and count the errors where the images lie in folders
    named as its classes."""

    model: tyro.conf.Positional[Path]
    """A run folder, or a model folder, with a classifier."""
    images: tyro.conf.Positional[str]
    """A folder, a .zip, or another data source of single files, as --data of biggan train takes it; not a prepared one."""
    labels: Annotated[str | None, tyro.conf.arg(aliases=("--data.labels",))] = None
    """Where the true classes come from, as --data.labels of biggan train; none: the errors are not counted."""
    out: Path | None = None
    """A .csv file for every image's class and its probability; None: only the first are shown."""
    batch: int = 100
    """Images at a time, in a fixed random order. Minibatch features compare those with each other, so that with them an
    answer depends a little on the batch, and those of a smaller last one more."""
    device: DeviceName = "auto"
    """auto: CUDA if there is a GPU, else the CPU."""


def classify(arguments: list[str]) -> int:
    """biggan classify RUN IMAGES [options]"""
    command = parse(ClassifyCommand, arguments, "biggan classify")
    check_between(batch=(command.batch, 1, 100_000))
    check_out_file(command.out, (".csv",))
    from biggan.checkpoints.run_model import open_model
    from biggan.data.sources import list_source
    from biggan.pretrained.classifier import open_classifier

    classifier = open_classifier(command.model, command.device)
    resolution = open_model(command.model).card.model.resolution
    listing = list_source(command.images, command.labels)
    count, found = len(listing.images), list[Any]()
    order = torch.randperm(count, generator=addressed_rng(0, "every image once")).tolist()
    read = list[int]()
    batches = in_batches(listing, order, resolution, command, read)
    for answer in classifier.predictions(progress_bar(batches, -(-count // command.batch), "classifying", "batches")):
        found += zip(*(values.tolist() for values in answer), strict=True)
    if not found:
        raise DataError(f"data source {listing.name}: none of its {count} images can be read")
    if len(read) < count:
        logger.warning("%d of %d images could not be read and were left out", count - len(read), count)
    rows, true = list[tuple[str, str, float]](), list[str]()
    for index, (number, probability) in sorted(zip(read, found, strict=True)):
        rows.append((listing.images[index], classifier.class_names[number], probability))
        true.append(listing.class_names[listing.labels[index]])
    for image, name, probability in rows[: None if command.out is None and len(rows) <= 20 else 10]:
        say(f"{image}  {name}  {probability:.3f}")
    if set(listing.class_names) <= set(classifier.class_names):
        wrong = sum(name != known for (_, name, _), known in zip(rows, true, strict=True))
        say(f"{wrong} of {len(rows)} wrong ({100 * wrong / len(rows):.2f} %)")
    if command.out is not None:
        write_csv(command.out, rows)
        say(f"every image: {command.out}")
    return 0


def in_batches(
    listing: "Listing", order: list[int], resolution: int, command: ClassifyCommand, read: list[int]
) -> Iterator[Tensor]:
    """The images of a listing in this order, uint8 (<= batch, 3, R, R), without those that cannot be read; their indices are
    appended to `read`. Raises DataError on one that cannot be read, unless such images are skipped."""
    from biggan.data.image_modes import parse_color
    from biggan.data.loader import broken_image_error

    ground = parse_color(command.background or "white")
    for first in range(0, len(order), command.batch):
        part = list[Tensor]()
        for index in order[first : first + command.batch]:
            try:
                pixels, _ = listing.decode_image(index, resolution, ground)
            except Exception as error:  # archives raise many kinds of error; each means that this image is damaged
                if not command.skip_broken:
                    raise broken_image_error(listing.images[index], listing.name, first_line(error)) from error
                continue
            part.append(torch.from_numpy(pixels.copy()))
            read.append(index)
        if part:
            yield torch.stack(part)


def write_csv(file: Path, rows: list[tuple[str, str, float]]) -> None:
    """One line for each image, in UTF-8; file names that are no text keep their bytes. Written whole, or not at all: raises
    ConfigError where it cannot be."""
    import csv

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image", "class", "probability"])
    writer.writerows((image, name, f"{probability:.6f}") for image, name, probability in rows)
    try:
        data = text.getvalue().encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        data = text.getvalue().encode(errors="backslashreplace")
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, data)
