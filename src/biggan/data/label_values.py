"""From the values of a column or a label file to numbered classes, and which columns look like labels."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from biggan.data.listing import readable_name
from biggan.runtime.errors import DataError
from biggan.runtime.text import shorten

LABEL_WORDS = {
    "label",
    "labels",
    "class",
    "classes",
    "classname",
    "category",
    "categories",
    "target",
    "targets",
    "y",
    "species",
    "breed",
}

FOLDERS, FILE, NONE, COLUMN = "folders", "file", "none", "column:"
"""What the option `labels` may be, beside the name of a label file or of a column; "column:NAME" is a column of any name."""

MAX_INTEGER = 1 << 63

INTEGER = re.compile(r"-?\d{1,18}")


def is_label_name(column: str) -> bool:
    """Whether the name of a column says that it holds classes: "label", "fine_label", "className", "class_id"."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)
    return any(word.lower() in LABEL_WORDS for word in words)


def likely_label_columns(distinct: Mapping[str, int], rows: int) -> list[str]:
    """The columns that may hold the classes, of columns given with their number of different values.

    Those named as labels; if none is, those whose values repeat: at least two values, each for two rows on average. Names,
    numbers and descriptions of single images are none."""
    named = [column for column, count in distinct.items() if is_label_name(column) and count > 0]
    return named or [column for column, count in distinct.items() if 2 <= count <= rows // 2]


def same_partition(one: Sequence, other: Sequence) -> bool:
    """Whether two sequences of values divide the same images into the same classes, whatever the classes are called."""
    pairs = {(type(a), a, type(b), b) for a, b in zip(one, other, strict=True)}
    return len(pairs) == len({pair[:2] for pair in pairs}) == len({pair[2:] for pair in pairs})


def has_label(value: object) -> bool:
    """Whether a cell holds a label: None, an empty text, NaN and the negative numbers that stand for "unknown" are none,
    as text too."""
    if isinstance(value, str):
        return not re.fullmatch(r"-\d+(\.0*)?|nan|NaN|null|NULL|", value.strip())
    if isinstance(value, float):
        return value == value
    return value is not None and (isinstance(value, bool) or not isinstance(value, int) or value >= 0)


def number_classes(
    values: Sequence[object], images: Sequence[str], where: str, *, remedy: str, kinds: tuple[type, ...] = (int, str, bool)
) -> tuple[list[int], list[str]]:
    """The number of each image's class, and the names of the classes: integers in numerical order, other values by name.

    `values`: the label of each of `images`, all of one of the types `kinds`. `where`: what holds them, for messages;
    `remedy`: what to do instead. Raises DataError on images without a label and on labels of another type."""
    missing = [image for image, value in zip(images, values, strict=True) if not has_label(value)]
    if missing:
        images_ = "image has" if len(missing) == 1 else "images have"
        raise DataError(f"{where}: {len(missing)} {images_} no label (first: {shorten(missing[0])}): add it, or {remedy}")
    odd = [(image, value) for image, value in zip(images, values, strict=True) if not is_label(value, kinds)]
    if not odd and len({type(value) for value in values}) > 1:
        first = type(values[0])
        odd = [(image, value) for image, value in zip(images, values, strict=True) if type(value) is not first]
    if odd:
        image, value = odd[0]
        raise DataError(
            f"{where}: {len(odd)} label{'s' if len(odd) > 1 else ''} of another kind than the rest, or than integers and "
            f"names (first: {shorten(image)} has {shorten(repr(value), 60)}): correct them, or {remedy}"
        )
    texts = [readable_name(value.strip()) if isinstance(value, str) else str(value) for value in values]
    names = set(texts)
    forms = {unicodedata.normalize("NFC", name) for name in names}
    if len(forms) < len(names):
        twice = next(name for name in sorted(names) if unicodedata.normalize("NFC", name) in names - {name})
        raise DataError(f"{where}: {shorten(twice)!r} is written in two Unicode forms (NFC, NFD): correct it, or {remedy}")
    numeric = all(INTEGER.fullmatch(name) for name in names)
    ordered = sorted(names, key=lambda name: (int(name), name)) if numeric else sorted(names)
    numbers = {name: number for number, name in enumerate(ordered)}
    return [numbers[text] for text in texts], ordered


def is_label(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether a value can be a label: exactly of one of the types, and an integer of at most 64 bits."""
    return type(value) in kinds and (not isinstance(value, int) or value < MAX_INTEGER)


def column_option(name: str) -> str:
    """What the option `labels` chooses a column by."""
    return f"{COLUMN}{name}" if name in (FOLDERS, FILE, NONE) else name
