"""What was found in a source: the files of a folder or an archive, what was left out of them, and the listing made of it."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from biggan.data.image_decoding import WHITE, Size, decode_pixels
from biggan.runtime.errors import DataError
from biggan.runtime.text import shorten

MAX_ENTRIES = 50_000_000
"""Files and folders of one source; a listing of more would not fit into memory."""

SHOWN_NAMES = 3
"""Names that are shown of each kind of file that was left out."""

SHOWN_SUFFIXES = 8

HIDDEN, LOOKS_LIKE_IMAGE, BROKEN_LINK = "hidden", "looks like an image", "broken link"
NOT_REGULAR, UNREADABLE, NO_IMAGES, LOOP, REPEATED = "not regular", "unreadable", "no images", "loop", "repeated"

NO_FILE, NO_IMAGE = "no file in it", "no image in it"
"""Why a folder has no image. All other reasons, such as that it cannot be entered, are shown before these."""

KINDS = {
    LOOKS_LIKE_IMAGE: (
        "file that looks like an image but has another suffix",
        "files that look like images but have other suffixes",
    ),
    BROKEN_LINK: ("broken link", "broken links"),
    UNREADABLE: ("entry that cannot be read", "entries that cannot be read"),
    NOT_REGULAR: ("entry that is not a regular file", "entries that are not regular files"),
    LOOP: ("link to a folder that contains it", "links to folders that contain them"),
    REPEATED: ("file listed twice with the same content", "files listed twice with the same content"),
    HIDDEN: ("hidden file or folder", "hidden files or folders"),
    NO_IMAGES: ("folder without images", "folders without images"),
}
"""What was left out and why, in the order of the report: singular and plural."""


class LeftOut:
    """Counts and first names of what a listing leaves out, by kind: one of KINDS, or a suffix such as ".txt"."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a file or folder that is left out."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        names = self.names.setdefault(kind, [])
        if len(names) < SHOWN_NAMES:
            names.append(name)

    def lines(self) -> tuple[str, ...]:
        """One line for each kind, "2 broken links (cat/4.png, cat/5.png)"; all files of other suffixes share one."""
        lines = []
        for kind, words in KINDS.items():
            if kind in self.counts:
                lines.append(f"{self.counts[kind]} {words[self.counts[kind] > 1]} ({self.first(kind)})")
        suffixes = sorted((kind for kind in self.counts if kind not in KINDS), key=lambda kind: (-self.counts[kind], kind))
        if suffixes:
            total = sum(self.counts[kind] for kind in suffixes)
            shown = [f"{self.counts[kind]} {kind} ({self.first(kind)})" for kind in suffixes[:SHOWN_SUFFIXES]]
            more = ", ..." if len(suffixes) > SHOWN_SUFFIXES else ""
            files = "file that is no image" if total == 1 else "files that are no images"
            lines.append(f"{total} {files}: {', '.join(shown)}{more}")
        return tuple(lines)

    def first(self, kind: str) -> str:
        """The first names of a kind, shortened."""
        more = ", ..." if self.counts[kind] > len(self.names[kind]) else ""
        return ", ".join(shorten(name) for name in self.names[kind]) + more


@dataclass(kw_only=True)
class Found:
    """The files of a folder or an archive, before their classes are known. Names are paths with "/", relative to it."""

    source: str
    """The source as a user would name it: "folder:DIR"."""
    flat_name: str
    """The class of images that are in no folder."""
    read: Callable[[str], bytes]
    """The bytes of an image file."""
    read_label_file: Callable[[str, int], bytes]
    """The bytes of another file, of at most so many bytes."""
    subfolder: Callable[[str], str]
    """How a user would name one of its folders as a source."""
    images: list[str] = field(default_factory=list)
    """Names of the image files, sorted."""
    facts: list[tuple] = field(default_factory=list)
    """What tells whether an image file has changed: its name, size, and time or checksum."""
    folders: dict[str, str] = field(default_factory=dict)
    """Every folder that is not hidden, and why it may have no image: "no file in it", "no image in it", ..."""
    label_files: list[str] = field(default_factory=list)
    """Files that may hold labels."""
    left_out: LeftOut = field(default_factory=LeftOut)


class Listing(NamedTuple):
    """The image files of a source with their labels. `read(name)` returns the bytes of an image file; `stamp` is a hash that
    changes when a file, or the source of the labels, does."""

    name: str
    images: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    read: Callable[[str], bytes]
    stamp: str
    origin: str = "folders"
    """Where the classes come from, for a message: "folders", "dataset.json", "column label of metadata.csv"."""
    left_out: tuple[str, ...] = ()
    """What is in the source but not in the listing, one line for each kind."""
    empty_classes: tuple[tuple[str, str], ...] = ()
    """Class folders without an image, each with the reason. They are not in `class_names`."""

    def decode_image(self, index: int, resolution: int, background: tuple[int, int, int] = WHITE) -> tuple[np.ndarray, Size]:
        """`decode_pixels` of image number `index`. Raises any exception on a damaged file."""
        return decode_pixels(self.read(self.images[index]), resolution, background)

    def notes(self) -> list[str]:
        """What a user should know about the listing: where the classes come from unless from folders, what was left out."""
        notes = [] if self.origin == "folders" else [f"classes from {self.origin}"]
        return notes + ([f"left out: {'; '.join(self.left_out)}"] if self.left_out else [])

    def check_empty_classes(self, *, allowed: bool, classes: Iterable[str] | None = None) -> list[str]:
        """The names of the classes that are left out because they have no image, of those in `classes` (None: of all).
        Raises DataError if there are any and they are not `allowed`."""
        wanted = None if classes is None else set(classes)
        empty = [(name, reason) for name, reason in self.empty_classes if wanted is None or name in wanted]
        if empty and not allowed:
            shown = ", ".join(f"{shorten(name)} ({reason})" for name, reason in empty[:SHOWN_NAMES])
            more = f" and {len(empty) - SHOWN_NAMES} more" if len(empty) > SHOWN_NAMES else ""
            raise DataError(
                f"data source {self.name}: class {'folders' if len(empty) > 1 else 'folder'} without an image: "
                f"{shown}{more}: add images, remove it, or leave it out with --data.allow-empty-classes"
            )
        return [name for name, _ in empty]


def stamp_of(facts: object) -> str:
    """A hash of the facts about all files of a source."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def readable_name(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8, and lone surrogates, become escapes such as "\\xe9"."""
    try:
        name.encode()
    except UnicodeEncodeError:
        data = name.encode("utf-8", "surrogateescape") if is_from_disk(name) else name.encode("utf-8", "backslashreplace")
        return data.decode("utf-8", "backslashreplace")
    return name


def is_from_disk(name: str) -> bool:
    """Whether all surrogates in a name stand for bytes of a file name."""
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in name)
