"""Classes as a person names them: as words on the command line, by name or index in Python, by name in a config."""

import math
import re
import unicodedata
from collections.abc import Sequence
from operator import index as as_index

from biggan.runtime.errors import ConfigError, suggestion

MAX_DIGITS = 9  # of an index on the command line; Python refuses to convert thousands of digits


def find_name(name: str, class_names: Sequence[str], where: str = "in this model") -> int:
    """The index of the class of this name; of names that differ in the Unicode form of their letters alone, the only one.

    Raises ConfigError, with the most similar name, where there is no such class, and where several classes have the name."""
    found = [index for index, known in enumerate(class_names) if known == name]
    if not found:
        form = unicodedata.normalize("NFC", name)
        found = [index for index, known in enumerate(class_names) if unicodedata.normalize("NFC", known) == form]
    if len(found) > 1:
        choices = ", ".join(f"index:{index}" for index in found[:5])
        raise ConfigError(f"{len(found)} classes {where} are called {name!r}: use the index of one ({choices})")
    if not found:
        folded = [known for known in class_names if known.casefold() == name.casefold()]
        hint = f"did you mean {folded[0]!r}?" if len(folded) == 1 else suggestion(name, class_names)
        raise ConfigError(f"no class {name!r} {where}; {hint}")
    return found[0]


def check_index(number: int, class_names: Sequence[str], where: str = "in this model") -> int:
    """The index itself. Raises ConfigError where there is no class of this index."""
    if not 0 <= number < len(class_names):
        raise ConfigError(
            f"no class of index {number} {where}: its {len(class_names)} classes are 0 to {len(class_names) - 1}"
        )
    return number


def find_class(given: int | str, class_names: Sequence[str]) -> int:
    """The index of a class given in Python: text is a name, an integer an index. Raises ConfigError as `find_name` and
    `check_index`, and on anything else."""
    if isinstance(given, str):
        try:
            return find_name(given, class_names)
        except ConfigError as error:
            is_number = given.isascii() and given.isdecimal()
            raise ConfigError(f"{error} (text is a name; for an index give an int)" if is_number else str(error)) from None
    try:
        number = as_index(given)
    except TypeError:
        raise ConfigError(f"classes: {given!r} is no class: give names as text and indices as integers") from None
    if isinstance(given, bool):
        raise ConfigError(f"classes: {given!r} is no class: give names as text and indices as integers")
    return check_index(number, class_names)


def parse_class(word: str, class_names: Sequence[str]) -> int:
    """The index of a class named by one word of the command line.

    A word that is a class name means that class. Else "index:3" means the class of index 3 (from 0), "name:3" the class with
    the name "3"; a plain number is an index where no class name is a number. In a name, "\\," is a comma and "\\\\" a
    backslash; spaces around a word do not count. Raises ConfigError on an unknown class, and on a number that is the name of
    one class and the index of another."""
    plain = word.strip()
    names = dict.fromkeys((word, plain, unescape(plain)))
    exact = next((name for name in names if name in class_names), None)
    if exact is not None:
        found = find_name(exact, class_names)
        number = parse_index(exact)
        if number is not None and number != found and number < len(class_names):
            raise ConfigError(
                f"class {exact!r} is ambiguous: name:{exact} is the class of that name, "
                f"index:{number} is class {class_names[number]!r}"
            )
        return found
    kind, colon, rest = plain.partition(":")
    if colon and kind == "name":
        whole = word.lstrip().removeprefix("name:")
        spellings = (unescape(whole), unescape(rest), whole)
        return find_name(next((name for name in spellings if name in class_names), unescape(rest)), class_names)
    if colon and kind == "index":
        if parse_index(rest) is None:
            raise ConfigError(f"class {plain!r}: give an index such as index:3")
        return check_index(int(rest), class_names)
    number = parse_index(plain)
    if number is not None:
        if not any(parse_index(name) is not None for name in class_names):
            return check_index(number, class_names)
        if number < len(class_names):
            raise ConfigError(
                f"no class is called {plain!r}, and other classes have numbers as names: for class "
                f"{class_names[number]!r}, which has this index, use index:{number}"
            )
    if not plain:
        raise ConfigError("a class name is empty: give names with commas between them, or leave the option out for all")
    return find_name(unescape(plain), class_names)


def parse_classes(text: str, class_names: Sequence[str]) -> list[int]:
    """The indices of classes named on the command line, separated by commas. A text that as a whole is a class name means
    that class, whatever commas it holds. Raises ConfigError as `parse_class`."""
    for whole in (text, text.strip()):
        if whole in class_names:
            return [parse_class(whole, class_names)]
    words = split_at_commas(text)
    return [parse_class_of(words, position, class_names) for position in range(len(words))]


def parse_class_weights(text: str, class_names: Sequence[str]) -> dict[int, float]:
    """Weights by class index, with the sum 1, from a text such as "cat:0.6,dog:0.4". Names are as in `parse_classes`.

    Raises ConfigError on an unknown class, on a weight that is not a finite number of at least 0, and where all weights
    are 0."""
    name, colon, _ = text.rpartition(":")
    parts = [text] if colon and name.strip() in class_names else split_at_commas(text)
    pairs = [part.rpartition(":") for part in parts]
    words = [name for name, _, _ in pairs]
    weights: dict[int, float] = {}
    for position, (_, colon, number) in enumerate(pairs):
        is_number = colon and re.fullmatch(r"\s*[0-9.]+([eE][-+]?[0-9]+)?\s*", number)
        try:
            value = float(number) if is_number else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ConfigError(
                f"--classes {text}: give each class and its weight, such as cat:0.6,dog:0.4, and a comma in a name as \\,"
            )
        found = parse_class_of(words, position, class_names)
        weights[found] = weights.get(found, 0.0) + value
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise ConfigError(f"--classes {text}: the weights must have a finite sum above 0")
    return {found: value / total for found, value in weights.items()}


def parse_class_of(words: list[str], position: int, class_names: Sequence[str]) -> int:
    """`parse_class` of one of several words; where it fails because a name with a comma was split, the error says so."""
    try:
        return parse_class(words[position], class_names)
    except ConfigError:
        for name in class_names:
            parts = [part.strip() for part in name.split(",")]
            if len(parts) > 1 and any(
                [word.strip() for word in words[first : first + len(parts)]] == parts
                for first in range(max(0, position + 1 - len(parts)), position + 1)
            ):
                escaped = escape(name)
                raise ConfigError(
                    f"no class {words[position].strip()!r} in this model; a comma in a name is written \\, as in {escaped}"
                ) from None
        raise


def split_at_commas(text: str) -> list[str]:
    """The parts of a text between commas, of which "\\," is none; escapes stay as they are."""
    parts, escaped = [""], False
    for letter in text:
        if letter == "," and not escaped:
            parts.append("")
        else:
            parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return parts


def unescape(word: str) -> str:
    """A word with "\\," as "," and "\\\\" as "\\"; other backslashes stay."""
    return re.sub(r"\\([,\\])", r"\1", word)


def escape(name: str) -> str:
    """A class name as a word of the command line: what `unescape` reads."""
    return re.sub(r"([,\\])", r"\\\1", name)


def parse_index(word: str) -> int | None:
    """The number of a word of one to nine decimal digits, else None."""
    return int(word) if re.fullmatch(rf"[0-9]{{1,{MAX_DIGITS}}}", word) else None
