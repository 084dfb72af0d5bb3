"""Data sets of the Hugging Face hub, or folders that the `datasets` library loads, as listings."""

import hashlib
import os
import shlex
from collections.abc import Iterable
from typing import Any

from biggan.data.image_names import MAX_FILE_BYTES
from biggan.data.label_values import COLUMN, FILE, FOLDERS, NONE, column_option, likely_label_columns, number_classes
from biggan.data.listing import Listing
from biggan.runtime.bounded_io import read_file
from biggan.runtime.errors import DataError, first_line

INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}

LABEL_TYPES = INTEGERS | {"string", "large_string", "bool"}
"""Types of columns that can hold labels, beside ClassLabel."""


def list_hugging_face(dataset: str, labels: str | None = None) -> Listing:
    """A data set of the Hugging Face hub, or a folder that `datasets` can load, as "NAME[:SPLIT]" (default split: train).

    It needs one column of images. `labels`: the column of the classes; "none": one class; None: the only ClassLabel column,
    or without one the only column of integers, texts or booleans that looks like labels (see `likely_label_columns`), or
    without one a single class. The library downloads and memory-maps the data. Raises DataError if `datasets` is missing,
    if the data set does not fit, and if several columns may be the labels."""
    if not dataset or dataset.startswith(":"):
        raise DataError(f"data source hf:{dataset} names no data set: use hf:NAME or hf:NAME:SPLIT")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError("hf: sources need datasets: pip install 'biggan-torch[hf]'") from error
    name, separator, split = dataset.rpartition(":")
    if not separator or "/" in split:
        name, split = dataset, "train"
    try:
        if os.path.isdir(name):
            builder = datasets.load_dataset_builder(name)
            check_files((file for files in (builder.config.data_files or {}).values() for file in files), name)
        table = datasets.load_dataset(name, split=split)
    except DataError:
        raise
    except Exception as error:  # the library and those below it raise many kinds of error
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # the library only says that something went wrong
        raise DataError(f"data source hf:{dataset} cannot be read ({first_line(cause)})") from error
    image, label, origin = choose_columns(table, f"data source hf:{dataset}", labels, datasets)
    try:
        files = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        cells = [files[index][image] or {} for index in range(len(files))] if refers_to_files(files, image) else []
        values = [0] * len(table) if label is None else list(table[label])
    except Exception as error:  # as above
        raise DataError(f"data source hf:{dataset} cannot be read ({first_line(error)})") from error

    def read(number: str) -> bytes:
        """The bytes of one image, from the table or from the file that it refers to."""
        cell = files[int(number)][image]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise ValueError("its cell is empty")
        if cell["bytes"] is not None:
            return cell["bytes"]
        check_files([cell["path"]], *folders)
        return read_file(cell["path"], MAX_FILE_BYTES)

    paths = [cell["path"] for cell in cells if cell.get("path") and cell.get("bytes") is None]
    folders = [name, datasets.config.DOWNLOADED_DATASETS_PATH, os.path.join(datasets.config.HF_CACHE_HOME, "hub")]
    check_files(paths, *folders)
    stamps = [stamp for path in paths for stamp in stamp_of_file(path)]
    images = tuple(str(index) for index in range(len(table)))
    if not images:
        raise DataError(f"data source hf:{dataset} has no image in split {split}: use another split")
    if label is not None and isinstance(table.features[label], datasets.ClassLabel):
        numbers, names = number_class_labels(values, table.features[label].names, f"hf:{dataset}", split)
    elif label is not None:
        where = f"data source hf:{dataset}, column {label}"
        numbers, names = number_classes(values, images, where, remedy="give --data.labels none, or another column or split")
    else:
        numbers, names = values, [name]
    return Listing(
        name=f"hf:{dataset}",
        images=images,
        labels=tuple(numbers),
        class_names=tuple(names),
        read=read,
        stamp=hashlib.sha256(f"{table._fingerprint} {len(table)} {stamps}".encode()).hexdigest(),
        origin=origin,
    )


def refers_to_files(files: Any, image: str) -> bool:
    """Whether the first image of a table is a file of its own, and so all of them may be."""
    cell = files[0][image] if len(files) else None
    return cell is not None and cell["bytes"] is None


def stamp_of_file(path: str) -> tuple[int, int]:
    """Size and time of a file; zeros if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def check_files(files: Iterable[str], *folders: Any) -> None:
    """Raises DataError where a table of somebody else names files of this machine outside of its own folders, or files in an
    archive."""
    roots = [os.path.realpath(folder) for folder in folders]
    for file in files:
        if file.startswith("zip://"):
            raise DataError(f"data source hf:{folders[0]} names files in an archive ({file}): use zip:FILE for it")
        if "://" not in file and not any(os.path.realpath(file).startswith(f"{root}{os.sep}") for root in roots):
            raise DataError(f"data source hf:{folders[0]} names the file {file}, not in that folder: it is not read")


def number_class_labels(values: list[int], names: list[str], source: str, split: str) -> tuple[list[int], list[str]]:
    """The number of each image's class among those present, sorted by name, of a ClassLabel column. Raises DataError if an
    image has no label."""
    missing = sum(value is None or value < 0 for value in values)
    if missing == len(values):
        raise DataError(f"data source {source} has no labels in split {split}: use another split, or --data.labels none")
    if missing:
        raise DataError(
            f"data source {source}: {missing} of {len(values)} images have no label in split {split}: use another split, or "
            "--data.labels none"
        )
    present = sorted(set(values), key=lambda number: names[number])
    label_by_number = {number: index for index, number in enumerate(present)}
    return [label_by_number[value] for value in values], [names[number] for number in present]


def choose_columns(table: Any, where: str, labels: str | None, datasets: Any) -> tuple[str, str | None, str]:
    """The column of images, the column of labels (None: one class), and where the classes come from, for a message. Raises
    DataError if the columns leave a choice or do not fit."""
    features = table.features
    listed = ", ".join(f"{key} ({type_name(feature)})" for key, feature in features.items())
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    images = images or [key for key, feature in features.items() if is_encoded_image(feature)]
    if len(images) != 1:
        raise DataError(f"{where} needs one Image column; it has {listed}")
    named = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    scalar = [key for key, feature in features.items() if getattr(feature, "dtype", None) in LABEL_TYPES]
    possible = [key for key in features if key in named or (key in scalar and key not in images)]
    if labels == NONE:
        return images[0], None, "none: all images are one class"
    if labels is not None:
        column = labels.removeprefix(COLUMN) if labels.startswith(COLUMN) or labels not in (FOLDERS, FILE) else None
        if column not in possible:
            known = ", ".join([NONE, *(shlex.quote(column_option(key)) for key in possible)])
            raise DataError(f"data.labels={labels}: {where} has no such column of labels; known: {known}; it has {listed}")
        return images[0], column, f"column {column}"
    likely = named or likely_label_columns({key: len(table.unique(key)) for key in possible}, len(table))
    if len(likely) > 1:
        choices = " or ".join(f"--data.labels {shlex.quote(column_option(key))}" for key in likely)
        raise DataError(f"{where}: its classes can be read from the columns {', '.join(likely)}: choose with {choices}")
    if likely:
        return images[0], likely[0], f"column {likely[0]}"
    others = f"none: no column of labels among {listed}" if len(features) > 1 else "none: there is no other column"
    return images[0], None, others


def is_encoded_image(feature: Any) -> bool:
    """Whether a column holds image files without saying so: {"bytes": ..., "path": ...}, or bytes."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def type_name(feature: Any) -> str:
    """The type of a column, for a message."""
    name = type(feature).__name__
    return getattr(feature, "dtype", name) if name == "Value" else name
