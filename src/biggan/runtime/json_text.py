"""Parsing JSON that others wrote: whatever is wrong with it is one kind of error."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from biggan.runtime.bounded_io import SMALL_FILE, read_file


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError if a name is there twice: readers differ in which of the values they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r:.60} is there twice")
    return found


def parse_json(text: str | bytes, kind: type | tuple[type, ...] = dict) -> Any:
    """The value of a JSON text, which must be of type `kind` at its top level. Bytes must be UTF-8.

    Raises ValueError, with a message of one line, on anything else: invalid JSON or UTF-8, too deep nesting, a number with
    too many digits, a name twice in one object, another type."""
    try:
        value = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text, object_pairs_hook=unique_names)
    except RecursionError:
        raise ValueError("invalid JSON: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid JSON: not UTF-8 at byte {error.start}") from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise ValueError(f"invalid JSON: {error}") from error
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join({"dict": "an object", "list": "a list"}.get(item.__name__, item.__name__) for item in kinds)
        raise ValueError(f"its JSON is not {names} but {type(value).__name__}")
    return value


def read_json(file: Path, kind: type | tuple[type, ...] = dict, *, limit: int = SMALL_FILE) -> Any:
    """The value of a JSON file of at most `limit` bytes, as `parse_json`. Raises ValueError, or OSError if the file cannot
    be read or is too large."""
    return parse_json(read_file(file, limit), kind)
