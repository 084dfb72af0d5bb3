"""What verbs print: the one place where results reach standard output.

Results hold names that came from outside (classes, files, tensors), so control characters are escaped here."""

import sys

from biggan.runtime.text import printable_lines


def say(text: object = "", *, end: str = "\n") -> None:
    """Print a result. Characters that could steer the terminal, and those that its encoding lacks, are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    line = printable_lines(f"{text}{end}").encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(line)
    sys.stdout.flush()
