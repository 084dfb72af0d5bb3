"""Text that came from outside - names of files, classes, tensors and hosts, messages of libraries - on its way to a terminal
or into a Markdown file."""

import re
import unicodedata

ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # control, format (also right-to-left overrides), surrogates, ...
JOINERS = "\u200c\u200d"  # parts of ordinary words and emoji


def printable(text: str) -> str:
    """The text with every character that could steer a terminal, hide text or start another line escaped as in Python
    ("\\x1b", "\\u202e"); letters of any script stay."""
    return "".join(
        character
        if unicodedata.category(character) not in ESCAPED_CATEGORIES or character in JOINERS
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def shorten(text: str, limit: int = 200) -> str:
    """The text, its middle left out if it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 4 :]}"


def printable_lines(text: str) -> str:
    """As `printable`, but line breaks and tabs stay."""
    return "\n".join("\t".join(printable(cell) for cell in line.split("\t")) for line in text.split("\n"))


def markdown_name(text: str) -> str:
    """As `markdown_text`, but a plain name such as "inception_score" stays as it is: "_" within a word is no markup."""
    return text if re.fullmatch(r"[A-Za-z0-9/.+-]+(_[A-Za-z0-9/.+-]+)*", text) else markdown_text(text)


def markdown_text(text: str) -> str:
    """The text as literal text of a Markdown table cell or paragraph: printable, with Markdown's and HTML's characters
    escaped."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#!" else character for character in escaped)


def plot_text(text: str) -> str:
    """The text as matplotlib draws it literally: printable, and "$" does not begin a formula."""
    return printable(text).replace("$", "\\$")
