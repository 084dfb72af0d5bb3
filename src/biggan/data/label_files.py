"""Labels from files beside the images: StyleGAN's dataset.json, Hugging Face imagefolder's metadata.csv and .jsonl."""

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from biggan.data.label_values import (
    FILE,
    column_option,
    has_label,
    is_label_name,
    likely_label_columns,
    number_classes,
    same_partition,
)
from biggan.data.listing import Found
from biggan.runtime.errors import DataError, first_line
from biggan.runtime.json_text import parse_json
from biggan.runtime.text import shorten

MAX_LABEL_BYTES = 1 << 28  # of one label file

FILE_COLUMN = "file_name"

NO_FILE_REMEDY = "choose --data.labels folders or --data.labels none"


class Reading(NamedTuple):
    """One way to read the classes: a label file, or a column of one."""

    name: str
    """For messages: "dataset.json", "column label of metadata.csv"."""
    option: str
    """What --data.labels chooses it by: the name of the file or of the column."""
    values: dict[str, Any]
    """The label of each image that the file names."""
    kinds: tuple[type, ...]
    """Types that its labels may have."""

    def classes(self, images: Sequence[str], source: str) -> tuple[list[int], list[str]]:
        """The number of each image's class and the class names. Raises DataError if the file names images that are not
        there, or does not label all of `images`."""
        known = set(images)
        absent = [name for name in self.values if name not in known]
        where = f"data source {source}, {self.name}"
        if absent:
            entries = "entry is for a file that is" if len(absent) == 1 else "entries are for files that are"
            raise DataError(
                f"{where}: {len(absent)} {entries} not among its images (first: {shorten(absent[0])}): add the files, "
                f"remove the entries, or {NO_FILE_REMEDY}"
            )
        values = [self.values.get(name) for name in images]
        return number_classes(values, images, where, remedy=NO_FILE_REMEDY, kinds=self.kinds)


class LabelFiles(NamedTuple):
    """What the label files of a source say."""

    readings: list[Reading]
    """The ways to read classes from them, the likely ones first."""
    likely: int
    """How many of the readings are likely: the others have to be asked for."""
    unlabeled: str | None
    """A dataset.json that says that there are no labels."""
    unused: list[str]
    """Label files that hold no labels, each with the reason."""


def read_label_files(found: Found, wanted: str | None = None) -> LabelFiles:
    """Read all label files of a source. Raises DataError if one is damaged or contradicts itself; a dataset.json only if no
    other label file or column is `wanted`."""
    readings: list[Reading] = []
    columns: dict[str, dict[str, Any]] = {}
    rows: set[str] = set()
    unlabeled, unused, tables = None, [], []
    for file in found.label_files:
        folder, _, base = file.rpartition("/")
        where = f"data source {found.source}: label file {shorten(file)}"
        try:
            data = found.read_label_file(file, MAX_LABEL_BYTES)
            if base == "dataset.json":
                entries = parse_dataset_json(data)
            else:
                table = parse_metadata_csv(data) if base == "metadata.csv" else parse_metadata_jsonl(data)
        except Exception as error:  # archives raise many kinds of error; each means that this file is damaged
            if base == "dataset.json" and wanted not in (None, FILE, file):
                unused.append(f"{file} ({first_line(error)})")
                continue
            raise DataError(f"{where} cannot be read ({first_line(error)}): correct it, or {NO_FILE_REMEDY}") from error
        if base != "dataset.json":
            if table is None:
                unused.append(f"{file} (no column {FILE_COLUMN})")
                continue
            tables.append(file)
            names = [join(folder, name) for name in table.pop(FILE_COLUMN)]
            check_unique(names, where)
            if rows.intersection(names):
                raise DataError(f"{where} names files that another label file names too: remove one, or {NO_FILE_REMEDY}")
            rows.update(names)
            for column, values in table.items():
                columns.setdefault(column, {}).update(zip(names, values, strict=True))
        elif entries is None:
            unused.append(f'{file} (no "labels" in it)')
        elif not entries:
            unlabeled = file
        else:
            names = [join(folder, name) for name, _ in entries]
            check_unique(names, where)
            labels = [label for _, label in entries]
            readings.append(Reading(file, file, dict(zip(names, labels, strict=True)), (int, str)))
    if tables:
        title = tables[0] if len(tables) == 1 else f"{len(tables)} files {tables[0].rpartition('/')[2]}"
        likely, others = choose_columns(columns, len(rows))
        made = [
            Reading(f"column {name} of {title}", column_option(name), columns[name], (int, str, bool))
            for name in likely + others
        ]
        if rows and not columns:
            unused.append(f"{title} (no column but {FILE_COLUMN})")
        return LabelFiles(readings + made, len(readings) + len(likely), unlabeled, unused)
    return LabelFiles(readings, len(readings), unlabeled, unused)


def choose_columns(columns: dict[str, dict[str, Any]], rows: int) -> tuple[list[str], list[str]]:
    """The columns that are likely to hold the classes, and all others. Of likely columns that divide the images alike (0, 1
    beside cat, dog), the first that holds names is kept."""
    scalar = {
        name: {value for value in cells.values() if has_label(value)}
        for name, cells in columns.items()
        if all(isinstance(value, (int, str, bool, type(None))) for value in cells.values())
    }
    distinct = {name: len(values) for name, values in scalar.items()}
    distinct |= {name: 1 for name in columns if name not in scalar and is_label_name(name)}  # of odd types: an error later
    likely = likely_label_columns(distinct, rows)
    kept: list[str] = []
    for name in sorted(likely, key=lambda name: all(is_number(value) for value in scalar.get(name, ()))):
        order = list(columns[name])
        alike = (other for other in kept if name in scalar and other in scalar and list(columns[other]) == order)
        if not any(same_partition([*columns[name].values()], [*columns[other].values()]) for other in alike):
            kept.append(name)
    return kept, [name for name in columns if name not in kept]


def is_number(value: object) -> bool:
    """Whether a label is a number, or a text of digits."""
    return isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit())


def join(folder: str, name: str) -> str:
    """The name of a file relative to the source, of a name in a label file in `folder`. It is only looked up, never
    opened."""
    parts = f"{folder}/{name}".replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def check_unique(names: Iterable[str], where: str) -> None:
    """Raises DataError if a label file names a file twice."""
    seen: set[str] = set()
    twice = []
    for name in names:
        if name in seen:
            twice.append(name)
        seen.add(name)
    if twice:
        files = "file" if len(twice) == 1 else "files"
        raise DataError(
            f"{where} names {len(twice)} {files} twice (first: {shorten(twice[0])}): remove one, or {NO_FILE_REMEDY}"
        )


def parse_dataset_json(data: bytes) -> list[tuple[str, Any]] | None:
    """The (name, label) pairs of StyleGAN's dataset.json: {"labels": [["00000/img00000000.png", 6], ...]}.

    Empty if "labels" is null or empty; None for JSON that is of something else. Raises ValueError on damage."""
    values = parse_json(data, (dict, list))
    if not isinstance(values, dict) or "labels" not in values:
        return None
    labels = values["labels"]
    if labels is None:
        return []
    pairs = labels.items() if isinstance(labels, dict) else labels
    if not isinstance(labels, (dict, list)) or not all(is_pair(pair) for pair in pairs):
        raise ValueError('its "labels" are not a list of [file, label]')
    return [(pair[0], pair[1]) for pair in pairs]


def is_pair(pair: object) -> bool:
    """Whether a value is [file name, label]."""
    return isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)


def parse_metadata_csv(data: bytes) -> dict[str, list] | None:
    """The columns of a metadata.csv with a header, separated by commas, semicolons or tabs; None if it has no column
    file_name. Raises ValueError on damage."""
    try:
        text, rows = data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8: save it as UTF-8") from None
    try:
        for separator in ",;\t":
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if FILE_COLUMN in names:
                break
        else:
            return None
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        for row in reader:
            if row and len(row) != len(names):
                raise ValueError(f"line {reader.line_num} has {len(row)} cells, the header {len(names)}")
            rows += [row] if row else []
    except csv.Error as error:
        raise ValueError(f"invalid CSV: {error}") from error
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def parse_metadata_jsonl(data: bytes) -> dict[str, list] | None:
    """The columns of a metadata.jsonl, one JSON object a line; a key that a line lacks is None. None if no line has a
    file_name. Raises ValueError on damage."""
    rows = [parse_json(line, dict) for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    if FILE_COLUMN not in names:
        return None
    wrong = next((number for number, row in enumerate(rows, 1) if not isinstance(row.get(FILE_COLUMN), str)), None)
    if wrong is not None:
        raise ValueError(f"object {wrong} has no text as {FILE_COLUMN}")
    if len(rows) * len(names) > MAX_LABEL_BYTES:
        raise ValueError("it has too many keys")
    return {name: [row.get(name) for row in rows] for name in names}
