"""From the description of a source ("folder:DIR", "zip:FILE", "hf:NAME", a path) to the listing of its images and classes.

A listing contains the name and the class of every image without decoding a file. Archives are never unpacked to disk.
"""

import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from biggan.data.archives import find_in_zip, split_zip_location
from biggan.data.classes import choose_classes
from biggan.data.folders import find_in_folder
from biggan.data.hugging_face import list_hugging_face
from biggan.data.image_decoding import png_bytes
from biggan.data.image_names import HEAD_BYTES, IMAGE_SUFFIXES, MAX_FILE_BYTES, begins_as_image, suffix_of
from biggan.data.listing import Found, Listing
from biggan.runtime.bounded_io import open_regular_file, read_file
from biggan.runtime.errors import DataError, suggestion
from biggan.runtime.text import shorten

EMBEDDED = ("digits",)

MAX_SPEC = 4096

KINDS = "folder:DIR, zip:FILE, zip:FILE:FOLDER, hf:NAME, packed:DIR, wds:DIR, wds:https://HOST/DIR or embedded:digits"


def list_source(spec: str, labels: str | None = None) -> Listing:
    """The listing of "embedded:digits", "folder:DIR", "zip:FILE", "zip:FILE:FOLDER" (a folder in the archive),
    "hf:NAME[:SPLIT]" or a path of a folder, a zip archive or an image.

    `labels`: where the classes come from: "folders", "file" (the only label file), the name of a label file or of a column
    of one or of a Hugging Face data set, or "none" (one class); None: whichever is the only possible one.

    Raises DataError if the source does not exist, cannot be read or contains no image, and if its classes are not certain.
    """
    if not spec or len(spec) > MAX_SPEC:
        raise DataError(f"data source {shorten(spec)!r} has {len(spec):,} characters: use {KINDS}")
    kind, separator, rest = spec.partition(":")
    if separator and kind == "embedded":
        if rest != "digits":
            raise DataError(f"data source {shorten(spec)!r}: no such embedded set; {suggestion(rest, EMBEDDED)}")
        return choose_classes(find_digits(), labels)
    if separator and kind in ("folder", "zip") and not rest:
        raise DataError(f"data source {spec!r} names no {'folder' if kind == 'folder' else 'file'}: use {KINDS}")
    if separator and kind == "folder":
        return choose_classes(find_in_folder(location_path(rest, spec)), labels)
    if separator and kind == "zip":
        location_path(rest, spec)
        file, inner = split_zip_location(rest)
        return choose_classes(find_in_zip(location_path(file, spec), inner), labels)
    if separator and kind == "hf":
        location_path(rest, spec)
        return list_hugging_face(rest, labels)
    path = location_path(spec, spec)
    mode = file_mode(path, spec)
    if mode is not None and stat.S_ISDIR(mode):
        return choose_classes(find_in_folder(path), labels)
    if mode is not None and re.search(r"\.(tar(\.\w+)?|tgz)$", path.name.lower()):
        hint = f"use wds:{shorten(spec)}, with each image's class beside it (.cls)"
        raise DataError(f"data source {shorten(spec)!r} is a tar file: {hint}")
    if mode is not None and stat.S_ISREG(mode):
        return choose_classes(find_image(path) if is_image_file(path) else find_in_zip(path), labels)
    if mode is not None:
        raise DataError(f"data source {shorten(spec)!r} is neither a folder nor a regular file")
    if kind in ("packed", "wds") and separator:
        raise DataError(f"data source {shorten(spec)!r} is already prepared: name the source that it was made from")
    raise DataError(f"data source {shorten(spec)!r}: no such file or folder; use {KINDS}")


def location_path(location: str, spec: str) -> Path:
    """The path that a user wrote, with "~" replaced by the home folder. Raises DataError if it cannot be a path."""
    if "\0" in location:
        raise DataError(f"data source {shorten(spec)!r}: no path has a NUL character in it")
    try:
        path = Path(location).expanduser()
        os.fsencode(path)
    except RuntimeError as error:
        raise DataError(f"data source {shorten(spec)!r}: there is no such home folder: give the full path") from error
    except UnicodeEncodeError as error:
        raise DataError(f"data source {shorten(spec)!r}: this system cannot encode the path") from error
    return path


def file_mode(path: Path, spec: str) -> int | None:
    """The type of a file or folder as in `os.stat`; None if there is none. Raises DataError if that cannot be told."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise DataError(f"data source {shorten(spec)!r} cannot be opened ({error.strerror})") from error


def is_image_file(path: Path) -> bool:
    """Whether a file is an image, by its suffix or its first bytes."""
    if suffix_of(path.name) in IMAGE_SUFFIXES:
        return True
    try:
        with open_regular_file(path) as stream:
            return begins_as_image(stream.read(HEAD_BYTES))
    except OSError:
        return False


def size_and_mtime(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def find_image(path: Path) -> Found:
    """A single image file."""
    return Found(
        source=f"image {path}",
        flat_name=path.parent.name,
        read=lambda name: read_file(path, MAX_FILE_BYTES),
        read_label_file=lambda name, limit: b"",
        subfolder=lambda name: str(path),
        images=[path.name],
        facts=[(path.name, *size_and_mtime(path))],
    )


def find_digits() -> Found:
    """1,797 handwritten digits of 8x8 pixels, which come with the package (data/embedded/README.md)."""
    table = np.loadtxt(Path(__file__).parent / "embedded" / "digits.csv.gz", delimiter=",")  # (1797, 65)
    images = {
        f"{row[-1]:.0f}/{index:04d}.png": png_bytes((row[:-1].reshape(8, 8) * 255 / 16).round().astype("uint8"))
        for index, row in enumerate(table)
    }
    return Found(
        source="embedded:digits",
        flat_name="digits",
        read=images.__getitem__,
        read_label_file=lambda name, limit: b"",
        subfolder=lambda name: "embedded:digits",
        images=sorted(images),
        facts=[(name, hashlib.sha256(data).hexdigest()) for name, data in images.items()],
    )


def public_name(source: str) -> str:
    """The name of a data source without what is private: "folder:photos" for "folder:/home/me/photos", "zip:a.zip:train" for
    "zip:/home/me/a.zip:train", "wds:pipe" for a command, an address without user and query."""
    kind, colon, rest = source.partition(":") if re.match(r"[a-z]{2,10}:(?!//)", source) else ("", "", source)
    if kind == "hf" or "imported from" in source:
        return source
    if rest.startswith("pipe:"):
        return f"{kind}:pipe"
    if "://" in rest:
        address = urlsplit(rest)
        return f"{kind}{colon}{address.scheme}://{address.hostname or ''}{address.path}"
    return f"{kind}{colon}{':'.join(Path(part).name for part in rest.split(':'))}"
