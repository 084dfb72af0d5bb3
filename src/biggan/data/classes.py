"""From found files to a listing: whether folders or a label file say the classes, and what is asked where both could."""

import shlex
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from biggan.data.image_names import IMAGE_SUFFIXES, is_hidden
from biggan.data.label_files import LabelFiles, Reading, read_label_files
from biggan.data.label_values import COLUMN, FILE, FOLDERS, NONE, same_partition
from biggan.data.listing import NO_FILE, NO_IMAGE, NO_IMAGES, Found, Listing, readable_name, stamp_of
from biggan.data.splits import are_buckets, split_question, top_level
from biggan.runtime.errors import DataError
from biggan.runtime.text import shorten

WITHOUT_CLASSES = {"annotations", "annotation", "labels", "masks", "docs", "doc", "meta", "metadata", "splits", "scripts"}
"""Folders without images that are no empty classes, in lower case."""


class FolderClasses(NamedTuple):
    """Classes read from folders."""

    classes: list[str]
    """The class of each image."""
    empty: tuple[tuple[str, str], ...]
    """Class folders without an image, each with the reason."""


def choose_classes(found: Found, labels: str | None = None) -> Listing:
    """The listing of found files.

    `labels`: "folders": the classes are the folders at the first level where the paths differ, or a single class if
    there is no such level; "file": those of the only label file; the name of a label file or of a column of one; "none":
    one class; None: whichever of these is the only one possible.

    Raises DataError if there is no image, if labels do not fit the images, and with None also if there are several ways
    to read the classes, or if the folders look like splits."""
    if not found.images:
        left = f"; left out: {'; '.join(found.left_out.lines())}" if found.left_out.counts else ""
        raise DataError(f"data source {found.source} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}){left}")
    add_folders_without_images(found)
    if labels == NONE:
        return one_class(found, "none: all images are one class")
    if labels == FOLDERS:
        return by_folder(found, classes_of_folders(found), "folders")
    question = split_question(found) if labels is None else None
    if question is not None:
        raise DataError(f"data source {found.source}: {question}")
    files = read_label_files(found, labels)
    return guess(found, files) if labels is None else by_reading(found, ask_for(found, files, labels), files)


def guess(found: Found, files: LabelFiles) -> Listing:
    """The listing where only one way to read the classes is possible. Raises DataError where there are several."""
    likely = files.readings[: files.likely]
    problem, folders = None, None
    try:
        folders = classes_of_folders(found)
    except DataError as error:
        problem = error
    several_folders = folders is not None and len(set(folders.classes)) > 1
    if several_folders and are_buckets(found.images):
        if not likely and files.unlabeled is None:
            raise DataError(
                f"data source {found.source}: its folders hold consecutively numbered files, so they look like parts, not "
                "classes, and no dataset.json has labels: add --data.labels none for one class, or --data.labels folders"
            )
        several_folders = False
    ways = {reading.option: reading for reading in likely}
    if not several_folders and len(ways) == 1:
        return by_reading(found, likely[0], files)
    if not ways and files.unlabeled is None:
        if problem is not None:
            raise problem
        return by_folder(found, folders, "folders", files)
    if not ways and not several_folders:
        return one_class(found, f"none: {files.unlabeled} says that there are no labels", files)
    shown = {FOLDERS: describe(folders.classes)} if several_folders else {}
    for reading in likely:
        numbers, names = reading.classes(found.images, found.source)
        shown[reading.option] = describe([names[number] for number in numbers])
        named = [names[number] for number in numbers]
        if several_folders and len(ways) == 1 and same_partition(numbers, folders.classes) and agree(named, folders.classes):
            return by_folder(found, folders, f"folders ({reading.name} agrees)", files)
    if files.unlabeled is not None:
        shown[NONE] = f"one class, as {files.unlabeled} says"
    listed = ", ".join(f"{name} ({what})" for name, what in shown.items())
    choices = " or ".join(f"--data.labels {shlex.quote(name)}" for name in shown)
    raise DataError(f"data source {found.source}: its classes can be read from {listed}: choose with {choices}")


def agree(labels: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether labels that divide the images as their folders do can mean the same: no label is the name of another folder,
    as where "cat" and "dog" are exchanged."""
    names = set(folders)
    return all(label == folder or label not in names for label, folder in zip(labels, folders, strict=True))


def ask_for(found: Found, files: LabelFiles, labels: str) -> Reading:
    """The reading that the option names. Raises DataError if there is none, or several for "file"."""
    exact = [reading for reading in files.readings if labels in (reading.option, f"{COLUMN}{reading.option}")]
    if len(exact) == 1:
        return exact[0]
    likely = files.readings[: files.likely]
    if labels == FILE and len(likely) == 1:
        return likely[0]
    of_file = [reading for reading in likely if reading.name.endswith(f" of {labels}")]
    if len(of_file) == 1:
        return of_file[0]
    known = ", ".join([FOLDERS, NONE, *(shlex.quote(reading.option) for reading in files.readings)])
    unused = f"; without labels: {', '.join(files.unused)}" if files.unused else ""
    what = "more than one label" if (labels == FILE and likely) or of_file else "no such label file or column"
    raise DataError(f"data.labels={shorten(labels)}: {found.source} has {what}; known: {known}{unused}")


def classes_of_folders(found: Found) -> FolderClasses:
    """The folder of each image at the first level where the paths differ. Images that are all in the same folder form one
    class, named after it. Raises DataError if images lie beside class folders."""
    depth, paths = top_level(found.images)
    flat = all(len(path) == depth for path in paths)
    if flat:
        classes = [paths[0][-1] if depth else found.flat_name] * len(paths)
    else:
        loose = [name for name, path in zip(found.images, paths, strict=True) if len(path) == depth]
        if loose:
            raise DataError(
                f"data source {found.source} has images beside class folders ({len(loose)}, first {shorten(loose[0])}): "
                "move them into a class folder, or add --data.labels none for one class"
            )
        classes = [path[depth] for path in paths]
    names = {name: readable_name(name) for name in dict.fromkeys(classes)}
    if len(set(names.values())) < len(names):
        raise DataError(f"data source {found.source} has two class folders whose names differ in undecodable bytes only")
    forms = [unicodedata.normalize("NFC", name) for name in names.values()]
    if len(set(forms)) < len(forms):
        twice = next(form for form in forms if forms.count(form) > 1)
        raise DataError(
            f"data source {found.source} has two class folders {shorten(twice)!r} that differ in the Unicode form "
            "of their letters (NFC, NFD), as copies between macOS and other systems do: put them together"
        )
    level = depth - 1 if flat else depth
    empty = empty_folders(found, paths[0][:level], set(classes)) if level >= 0 else ()
    return FolderClasses([names[name] for name in classes], empty)


def empty_folders(found: Found, parent: tuple[str, ...], classes: set[str]) -> tuple[tuple[str, str], ...]:
    """The folders beside the class folders, in `parent`, that hold no image, each with the reason."""
    reasons: dict[str, list[str]] = {}
    for folder, reason in found.folders.items():
        path = tuple(folder.split("/"))
        if path[: len(parent)] == parent and len(path) > len(parent) and path[len(parent)] not in classes:
            reasons.setdefault(path[len(parent)], []).append(reason)
    order = sorted(name for name in reasons if name and name.lower() not in WITHOUT_CLASSES)
    return tuple((readable_name(name), max(reasons[name], key=reason_rank)) for name in order)


def reason_rank(reason: str) -> int:
    """The rank of a reason why a folder has no image; of several the highest is shown."""
    return {NO_FILE: 0, NO_IMAGE: 1}.get(reason, 2)


def add_folders_without_images(found: Found) -> None:
    """Note the topmost folders without an image in them or below."""
    with_images = {""}
    for name in found.images:
        folder = name.rpartition("/")[0]
        while folder and folder not in with_images:
            with_images.add(folder)
            folder = folder.rpartition("/")[0]
    for folder in sorted(found.folders):
        above = folder.rpartition("/")[0]
        if folder not in with_images and above in with_images and not is_hidden(folder):
            found.left_out.add(NO_IMAGES, f"{folder} ({found.folders[folder]})")


def by_folder(found: Found, folders: FolderClasses, origin: str, files: LabelFiles | None = None) -> Listing:
    """The listing with the classes of the folders, sorted by name."""
    names = sorted(set(folders.classes))
    index = {name: number for number, name in enumerate(names)}
    labels = [index[name] for name in folders.classes]
    return listing_of(found, labels, names, stamp_of(found.facts), origin, files)._replace(empty_classes=folders.empty)


def by_reading(found: Found, reading: Reading, files: LabelFiles) -> Listing:
    """The listing with the classes of a label file."""
    labels, names = reading.classes(found.images, found.source)
    return listing_of(found, labels, names, stamp_of([found.facts, reading.name, names]), reading.name, files)


def one_class(found: Found, origin: str, files: LabelFiles | None = None) -> Listing:
    """The listing with all images in one class."""
    name = readable_name(found.flat_name)
    return listing_of(found, [0] * len(found.images), [name], stamp_of([found.facts, NONE]), origin, files)


def listing_of(
    found: Found, labels: list[int], names: list[str], stamp: str, origin: str, files: LabelFiles | None
) -> Listing:
    """A listing of found files."""
    unused = files.unused if files is not None else []
    lines = (*found.left_out.lines(), *(f"label file without labels: {shorten(name)}" for name in unused))
    return Listing(found.source, tuple(found.images), tuple(labels), tuple(names), found.read, stamp, origin, lines)


def describe(classes: list[str]) -> str:
    """ "3 classes: cat, dog, eel", for a message."""
    names = list(dict.fromkeys(classes))
    shown = ", ".join(shorten(name, 40) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''}: {shown}"
