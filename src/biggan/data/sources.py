"""Listing and reading image files: folders, zip archives, Hugging Face data sets, embedded digits.

A listing contains the name and the class of every image without opening the files. Classes are the folders that contain the
images, sorted by name; images in a single flat folder form one class. Archives are never unpacked to disk.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from biggan.data.image_decoding import Size, decode_pixels, png_bytes
from biggan.runtime.errors import DataError, first_line, suggestion

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}

EMBEDDED = ("digits",)

MAX_FILE_BYTES = 1 << 28  # of one file of an archive, decompressed


class Listing(NamedTuple):
    """The image files of a source with their labels. `read(name)` returns the bytes of an image file; `stamp` is a hash that
    changes when a file does."""

    name: str
    images: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    read: Callable[[str], bytes]
    stamp: str

    def decode_image(self, index: int, resolution: int) -> tuple[np.ndarray, Size]:
        """`decode_pixels` of image number `index`. Raises any exception on a damaged file."""
        return decode_pixels(self.read(self.images[index]), resolution)


def list_source(spec: str) -> Listing:
    """The listing of "embedded:digits", "folder:DIR", "zip:FILE", "hf:NAME[:SPLIT]" or a path of a folder, a zip archive or
    an image.

    Raises DataError if the source does not exist, cannot be read or contains no image.
    """
    kind, separator, rest = spec.partition(":")
    if separator and kind == "embedded":
        if rest != "digits":
            raise DataError(f"data source {spec!r}: no such embedded set; {suggestion(rest, EMBEDDED)}")
        return list_digits()
    if separator and kind == "folder":
        return list_folder(Path(rest).expanduser())
    if separator and kind == "zip":
        return list_zip(Path(rest).expanduser())
    if separator and kind == "hf":
        return list_hugging_face(rest)
    path = Path(spec).expanduser()
    if path.is_dir():
        return list_folder(path)
    if path.is_file() and is_image(PurePosixPath(path.name)):
        facts = [(path.name, *size_and_mtime(path))]
        return group_by_folder(f"image {path}", path.parent.name, [path.name], lambda name: path.read_bytes(), facts)
    if path.is_file():
        return list_zip(path)
    if kind in ("packed", "wds") and separator:
        raise DataError(f"data source {spec!r} is already prepared: name the source that it was made from")
    kinds = "folder:DIR, zip:FILE, hf:NAME, packed:DIR, wds:DIR, wds:https://HOST/DIR or embedded:digits"
    raise DataError(f"data source {spec!r}: no such file or folder; use {kinds}")


def list_folder(folder: Path) -> Listing:
    """All images in a folder and its subfolders; symbolic links are followed. Raises DataError if it is not a folder or
    holds no image."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} is not a folder")
    paths = (Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names)
    files = sorted(path for path in paths if is_image(path.relative_to(folder)))
    names = [path.relative_to(folder).as_posix() for path in files]
    facts = [(name, *size_and_mtime(path)) for name, path in zip(names, files, strict=True)]
    return group_by_folder(
        f"folder:{folder}", folder.resolve().name, names, lambda name: (folder / name).read_bytes(), facts
    )


def list_zip(file: Path) -> Listing:
    """All images in a zip archive, which stays open for reading. Raises DataError if it cannot be read or holds no image."""
    if not file.is_file():
        raise DataError(f"data zip {file} is not a file")
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"data zip {file} cannot be read as a zip archive ({error}): make it again") from error
    infos = sorted((info for info in archive.infolist() if is_image(PurePosixPath(info.filename))), key=lambda i: i.filename)
    facts = [(info.filename, info.file_size, info.CRC) for info in infos]
    sizes = {info.filename: info.file_size for info in infos}

    def read(name: str) -> bytes:
        """Decompress one file into memory. Raises ValueError if it is too large."""
        if sizes[name] > MAX_FILE_BYTES:
            raise ValueError(f"{sizes[name]:,} bytes unpacked are more than {MAX_FILE_BYTES:,}")
        return archive.read(name)

    return group_by_folder(f"zip:{file}", file.stem, [info.filename for info in infos], read, facts)


def list_digits() -> Listing:
    """1,797 handwritten digits of 8x8 pixels, which come with the package (data/embedded/README.md)."""
    table = np.loadtxt(Path(__file__).parent / "embedded" / "digits.csv.gz", delimiter=",")  # (1797, 65)
    images = {
        f"{row[-1]:.0f}/{index:04d}.png": png_bytes((row[:-1].reshape(8, 8) * 255 / 16).round().astype("uint8"))
        for index, row in enumerate(table)
    }
    facts = [(name, hashlib.sha256(data).hexdigest()) for name, data in images.items()]
    return group_by_folder("embedded:digits", "digits", sorted(images), images.__getitem__, facts)


def list_hugging_face(dataset: str) -> Listing:
    """A data set of the Hugging Face hub, or a folder that `datasets` can load, as "NAME[:SPLIT]" (default split: train).

    It needs exactly one Image column and at most one ClassLabel column; without labels all images form one class. The
    library downloads and memory-maps it. Raises DataError if `datasets` is missing or the data set does not fit."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError("hf: sources need datasets: pip install 'biggan-torch[hf]'") from error
    name, separator, split = dataset.rpartition(":")
    if not separator or "/" in split:
        name, split = dataset, "train"
    try:
        table = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError, RuntimeError) as error:
        raise DataError(f"data source hf:{dataset} cannot be read ({first_line(error)})") from error
    columns = {
        kind: [key for key, feature in table.features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    }
    if len(columns[datasets.Image]) != 1 or len(columns[datasets.ClassLabel]) > 1:
        features = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in table.features.items())
        raise DataError(f"data source hf:{dataset} needs one Image column and at most one ClassLabel; it has {features}")
    image, label = columns[datasets.Image][0], next(iter(columns[datasets.ClassLabel]), None)
    files = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def read(number: str) -> bytes:
        """The bytes of one image, from the table or from the file that it refers to."""
        cell = files[int(number)][image]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    numbers = [0] * len(table) if label is None else list(table[label])
    if not numbers or min(numbers) < 0:
        raise DataError(f"data source hf:{dataset} has no labels in split {split}: use another split")
    names = [name] if label is None else table.features[label].names
    present = sorted(set(numbers), key=lambda number: names[number])
    label_by_number = {number: index for index, number in enumerate(present)}
    return Listing(
        name=f"hf:{dataset}",
        images=tuple(str(index) for index in range(len(table))),
        labels=tuple(label_by_number[number] for number in numbers),
        class_names=tuple(names[number] for number in present),
        read=read,
        stamp=hashlib.sha256(f"{table._fingerprint} {len(table)}".encode()).hexdigest(),
    )


def group_by_folder(
    spec: str, flat_name: str, names: list[str], read: Callable[[str], bytes], facts: list[tuple]
) -> Listing:
    """A listing whose classes are the folders at the first level where the paths differ.

    Images that are all in the same folder form one class, named after the folder, or `flat_name` if the paths have none.
    `facts` are what the stamp is computed from. Raises DataError if there is no image, if images lie beside class
    folders, and if the classes are called like splits (train, test)."""
    if not names:
        raise DataError(f"data source {spec} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while all(len(path) > depth for path in folders) and len({path[depth] for path in folders}) == 1:
        depth += 1
    if all(len(path) == depth for path in folders):
        image_classes = [folders[0][-1] if depth else flat_name] * len(names)
    else:
        loose = [name for name, path in zip(names, folders, strict=True) if len(path) == depth]
        if loose:
            raise DataError(
                f"data source {spec} has images beside class folders ({loose[0]}): move them into a class folder"
            )
        image_classes = [path[depth] for path in folders]
    class_names = sorted(set(image_classes))
    if len(class_names) > 1 and {name.lower() for name in class_names} <= SPLIT_NAMES:
        raise DataError(
            f"data source {spec}: {', '.join(class_names)} look like splits, not classes: name one of them as the source"
        )
    index = {name: number for number, name in enumerate(class_names)}
    stamp = hashlib.sha256(repr(facts).encode()).hexdigest()
    return Listing(spec, tuple(names), tuple(index[name] for name in image_classes), tuple(class_names), read, stamp)


def is_image(path: Path | PurePosixPath) -> bool:
    """Whether a path has the suffix of an image. Hidden files and the __MACOSX folders of zip archives do not count."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def size_and_mtime(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
