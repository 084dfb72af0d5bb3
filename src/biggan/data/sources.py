"""Where images come from: folders, zips, Hugging Face data sets, scikit-learn's digits. Lists and reads; does not decode.

A listing names every image and its class without opening it. Classes are the folders that hold the images, in order of
name; a flat folder is one class. Nothing is ever unpacked to disk.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from biggan.runtime.errors import DataError, first_line, suggestion

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of these suffixes, as Pillow calls them

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}

EMBEDDED = ("digits",)

LARGEST_IMAGE = 100_000_000  # pixels; beyond it a file is taken for a bomb

LARGEST_FILE = 1 << 28  # bytes of one unpacked file in an archive


class Listing(NamedTuple):
    """What a source holds: `read(name)` gives an image file's bytes; `stamp` changes when a file does."""

    name: str
    images: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    read: Callable[[str], bytes]
    stamp: str


def list_source(spec: str) -> Listing:
    """The listing of "embedded:digits", "folder:DIR", "zip:FILE", "hf:NAME[:SPLIT]" or a plain path.

    Raises DataError where there is nothing, nothing readable, or no image.
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
        return classify(f"image {path}", path.parent.name, [path.name], lambda name: path.read_bytes(), facts)
    if path.is_file():
        return list_zip(path)
    if kind in ("packed", "wds") and separator:
        raise DataError(f"data source {spec!r} is prepared already: name what it was made from")
    kinds = "folder:DIR, zip:FILE, hf:NAME, packed:DIR, wds:DIR, wds:https://HOST/DIR or embedded:digits"
    raise DataError(f"data source {spec!r}: no such file or folder; use {kinds}")


def list_folder(folder: Path) -> Listing:
    """Every image below a folder; links to folders are followed."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} is not a folder")
    found = (Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names)
    files = sorted(path for path in found if is_image(path.relative_to(folder)))
    names = [path.relative_to(folder).as_posix() for path in files]
    facts = [(name, *size_and_mtime(path)) for name, path in zip(names, files, strict=True)]
    return classify(f"folder:{folder}", folder.resolve().name, names, lambda name: (folder / name).read_bytes(), facts)


def list_zip(file: Path) -> Listing:
    """Every image in a zip archive, which stays open for reading."""
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
        """One file, unpacked into memory and nowhere else."""
        if sizes[name] > LARGEST_FILE:
            raise ValueError(f"{sizes[name]:,} bytes unpacked are more than {LARGEST_FILE:,}")
        return archive.read(name)

    return classify(f"zip:{file}", file.stem, [info.filename for info in infos], read, facts)


def list_digits() -> Listing:
    """1,797 handwritten digits of 8x8 pixels, which come with the package (data/embedded/README.md)."""
    table = np.loadtxt(Path(__file__).parent / "embedded" / "digits.csv.gz", delimiter=",")  # (1797, 65)
    images = {
        f"{row[-1]:.0f}/{index:04d}.png": png_bytes((row[:-1].reshape(8, 8) * 255 / 16).round().astype("uint8"))
        for index, row in enumerate(table)
    }
    facts = [(name, hashlib.sha256(data).hexdigest()) for name, data in images.items()]
    return classify("embedded:digits", "digits", sorted(images), images.__getitem__, facts)


def list_hugging_face(where: str) -> Listing:
    """A data set of the Hugging Face hub, or a folder that `datasets` reads, as "NAME[:SPLIT]" (train unless given), with an
    Image and a ClassLabel column (or none: one class). It is fetched once, by the library, and mapped from its files."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError("hf: sources need datasets: pip install 'biggan-torch[hf]'") from error
    name, separator, split = where.rpartition(":")
    if not separator or "/" in split:
        name, split = where, "train"
    try:
        table = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError, RuntimeError) as error:
        raise DataError(f"data source hf:{where} cannot be read ({first_line(error)})") from error
    columns = {
        kind: [key for key, feature in table.features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    }
    if len(columns[datasets.Image]) != 1 or len(columns[datasets.ClassLabel]) > 1:
        found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in table.features.items())
        raise DataError(f"data source hf:{where} needs one Image column and at most one ClassLabel; it has {found}")
    image, label = columns[datasets.Image][0], next(iter(columns[datasets.ClassLabel]), None)
    files = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def read(number: str) -> bytes:
        """One image file, from the table or from beside it."""
        cell = files[int(number)][image]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    numbers = [0] * len(table) if label is None else list(table[label])
    if not numbers or min(numbers) < 0:
        raise DataError(f"data source hf:{where} has no labels in split {split}: use another split")
    names = [name] if label is None else table.features[label].names
    present = sorted(set(numbers), key=lambda number: names[number])
    place = {number: index for index, number in enumerate(present)}
    return Listing(
        name=f"hf:{where}",
        images=tuple(str(index) for index in range(len(table))),
        labels=tuple(place[number] for number in numbers),
        class_names=tuple(names[number] for number in present),
        read=read,
        stamp=hashlib.sha256(f"{table._fingerprint} {len(table)}".encode()).hexdigest(),
    )


def classify(spec: str, flat_name: str, names: list[str], read: Callable[[str], bytes], facts: list[tuple]) -> Listing:
    """A listing whose classes are the first folders in which the names differ; images side by side are one class."""
    if not names:
        raise DataError(f"data source {spec} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while all(len(parts) > depth for parts in folders) and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    if all(len(parts) == depth for parts in folders):
        class_of = [folders[0][-1] if depth else flat_name] * len(names)
    else:
        loose = [name for name, parts in zip(names, folders, strict=True) if len(parts) == depth]
        if loose:
            raise DataError(
                f"data source {spec} has images beside class folders ({loose[0]}): move them into a class folder"
            )
        class_of = [parts[depth] for parts in folders]
    class_names = sorted(set(class_of))
    if len(class_names) > 1 and {name.lower() for name in class_names} <= SPLIT_NAMES:
        raise DataError(
            f"data source {spec}: {', '.join(class_names)} look like splits, not classes: name one of them as the source"
        )
    index = {name: number for number, name in enumerate(class_names)}
    stamp = hashlib.sha256(repr(facts).encode()).hexdigest()
    return Listing(spec, tuple(names), tuple(index[name] for name in class_of), tuple(class_names), read, stamp)


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """An image of IMAGE_FORMATS whose head has been read and nothing decoded. Raises UnidentifiedImageError on any other.

    Pillow goes by the content of a file, whatever its name says: left to itself, it would hand PostScript to Ghostscript."""
    try:
        return Image.open(file, formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"it is no image of the formats {', '.join(IMAGE_FORMATS)}") from error


def decode(data: bytes, resolution: int) -> tuple[Image.Image, tuple[int, int]]:
    """An RGB image of resolution x resolution, and the (width, height) that it had.

    Centre crop along the long edge, then area resampling: BigGAN appendix C. Images that are too small are enlarged with
    bicubic resampling. A camera's orientation mark is obeyed. Pillow raises many kinds of error on damaged data.
    """
    with open_image(io.BytesIO(data)) as image:  # reads the size, decodes nothing yet
        if image.width * image.height > LARGEST_IMAGE:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE:,}")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    size = image.size
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        filter_ = Image.Resampling.BOX if side > resolution else Image.Resampling.BICUBIC
        image = image.resize((resolution, resolution), filter_)
    return image, size


def is_image(path: Path | PurePosixPath) -> bool:
    """By its suffix; hidden files and what macOS adds to zips do not count."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def size_and_mtime(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def png_bytes(pixels: object) -> bytes:
    """A numpy uint8 array as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
