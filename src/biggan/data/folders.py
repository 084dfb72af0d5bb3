"""The files of a folder and its subfolders. Links are followed; nothing but regular files is opened."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from biggan.data.image_names import (
    LABEL_FILES,
    MAX_FILE_BYTES,
    is_hidden,
    is_system,
    read_head,
    reason_to_leave_out,
    suffix_of,
)
from biggan.data.listing import BROKEN_LINK, HIDDEN, LOOP, MAX_ENTRIES, NO_FILE, NO_IMAGE, NOT_REGULAR, UNREADABLE, Found
from biggan.runtime.bounded_io import read_file
from biggan.runtime.errors import DataError

MAX_VISITS = 100  # of one folder, through links: folders full of links to each other could be walked forever


class Folder(NamedTuple):
    """A folder on the way down: its name relative to the source ("" for the source itself), its device and inode, and the
    folder that it was reached from."""

    name: str
    identity: tuple[int, int]
    parent: "Folder | None"

    def contains_itself(self) -> bool:
        """Whether it was reached from itself, through a link."""
        above = self.parent
        while above is not None:
            if above.identity == self.identity and self.identity[1] != 0:  # some file systems number nothing
                return True
            above = above.parent
        return False


def find_in_folder(folder: Path) -> Found:
    """All images in a folder and its subfolders, and an account of all other files. Raises DataError if the folder cannot be
    listed, holds more than MAX_ENTRIES files, or has links that lead to the same folder over and over."""
    try:
        status = folder.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise DataError(f"data folder {folder} is not a folder")
        os.scandir(folder).close()
    except FileNotFoundError as error:
        raise DataError(f"data folder {folder} is not a folder: there is no such path") from error
    except OSError as error:
        raise DataError(f"data folder {folder} cannot be listed ({error.strerror})") from error
    found = Found(
        source=f"folder:{folder}",
        flat_name=folder.resolve().name,
        read=lambda name: read_file(folder / name, MAX_FILE_BYTES),
        read_label_file=lambda name, limit: read_file(folder / name, limit),
        subfolder=lambda name: f"folder:{folder / name}",
    )
    images: list[tuple[str, int, int]] = []
    visits: Counter[tuple[int, int]] = Counter()
    entries = 0
    waiting = [Folder("", (status.st_dev, status.st_ino), None)]
    while waiting:
        current = waiting.pop()
        if current.contains_itself():
            found.left_out.add(LOOP, current.name)
            continue
        visits[current.identity] += 1
        if visits[current.identity] > MAX_VISITS and current.identity[1] != 0:
            raise DataError(f"data folder {folder}: links lead to {current.name} over and over: remove them")
        found.folders[current.name] = NO_FILE
        below: list[Folder] = []
        for entry in scan(folder, current.name, found):
            entries += 1
            if entries > MAX_ENTRIES:
                raise DataError(f"data folder {folder} holds more than {MAX_ENTRIES:,} files: name a part of it")
            name = f"{current.name}/{entry.name}" if current.name else entry.name
            status = status_of(entry, name, found)
            if status is None:
                found.folders[current.name] = NO_IMAGE
            elif stat.S_ISDIR(status.st_mode):
                if is_system(name):
                    continue
                if is_hidden(name):
                    found.left_out.add(HIDDEN, name)
                    continue
                below.append(Folder(name, (status.st_dev, status.st_ino), current))
            elif is_listed(folder, name, status, found):
                images.append((name, status.st_size, status.st_mtime_ns))
            else:
                found.folders[current.name] = NO_IMAGE
        waiting += reversed(below)
    images.sort(key=lambda fact: fact[0].split("/"))  # as pathlib orders paths
    found.facts, found.images = [(str(folder.resolve()),), *images], [name for name, _, _ in images]
    found.label_files.sort()
    return found


def scan(folder: Path, name: str, found: Found) -> Iterator[os.DirEntry]:
    """The entries of a folder, sorted by name; none, with the reason noted, if it cannot be listed."""
    try:
        with os.scandir(os.path.join(folder, name)) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = f"cannot be entered: {error.strerror}"
        found.folders[name] = reason
        found.left_out.add(UNREADABLE, f"{name}/ ({error.strerror})")
        return
    yield from listed


def status_of(entry: os.DirEntry, name: str, found: Found) -> os.stat_result | None:
    """The status of what an entry is, or of what a link leads to; None, with the reason noted, if there is none."""
    try:
        return entry.stat()
    except OSError as error:
        if is_system(name):
            return None
        if entry.is_symlink():
            found.left_out.add(BROKEN_LINK, name)
            if not suffix_of(name):  # it may have led to a class folder
                found.folders[name] = "a broken link"
        else:
            found.left_out.add(UNREADABLE, f"{name} ({error.strerror})")
        return None


def is_listed(folder: Path, name: str, status: os.stat_result, found: Found) -> bool:
    """Whether a file is an image; if not, the reason is noted."""
    if not stat.S_ISREG(status.st_mode):
        found.left_out.add(NOT_REGULAR, name)
        return False
    try:
        reason = reason_to_leave_out(name, lambda: read_head(os.path.join(folder, name)))
    except OSError as error:
        found.left_out.add(UNREADABLE, f"{name} ({error.strerror})")
        return False
    if reason:
        found.left_out.add(reason, name)
    elif reason == "" and name.rpartition("/")[2] in LABEL_FILES and not is_hidden(name):
        found.label_files.append(name)
    return reason is None
