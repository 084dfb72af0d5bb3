"""What verbs print: the one place where results reach standard output, and what happens where it cannot be written.

Results hold names that came from outside (classes, files, tensors), so control characters are escaped here. A closed pipe, a
full disk, a closed descriptor or an encoding without some letter never ends a command before its work is done."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from biggan.runtime.text import printable, printable_lines


def say(*lines: str) -> None:
    """Print the lines of a result. Characters that could steer the terminal or begin another line are escaped."""
    say_text("".join(f"{printable(line)}\n" for line in lines))


def say_text(text: str) -> None:
    """Print a text of several lines, such as a table, in which no name from outside stands as it is."""
    with contextlib.nullcontext(sys.stdout) if isinstance(sys.stdout, TolerantStream) else tolerant_output():
        sys.stdout.write(printable_lines(text))
        sys.stdout.flush()


class TolerantStream:
    """A text stream to which writing always succeeds: letters that its encoding lacks are escaped, and after the first
    failure, which is kept as `failure`, all is discarded. `stream` None: the descriptor was closed from the start."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, or discard, a text; its length."""
        encoding = self.stream.encoding or "utf-8"
        safe = text.encode(encoding, "backslashreplace").decode(encoding)
        self.attempt(lambda: self.stream.write(safe))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write out what is buffered."""
        self.attempt(self.stream.flush)

    def attempt(self, action: Any) -> None:
        """Do it, unless it failed before."""
        if self.failure is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: it was closed in this process
            self.failure = error if isinstance(error, OSError) else OSError(errno.EPIPE, "closed")
            self.discard_buffer()

    def discard_buffer(self) -> None:
        """Point the descriptor to nowhere: what is still buffered would fail again, and be reported, when Python exits."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Context in which standard output and error are tolerant streams. A closed pipe is no error: who closed it has read
    enough. Where results could not be written for another reason (a full disk), a command that went well ends with one line
    on standard error and exit code 2."""
    open_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        try:
            yield
        finally:
            out.flush()
            err.flush()
    except SystemExit as exit_:
        if exit_.code in (0, None):
            exit_on_failure(out, err)
        raise
    else:
        exit_on_failure(out, err)
    finally:
        sys.stdout, sys.stderr = before


def exit_on_failure(out: TolerantStream, err: TolerantStream) -> None:
    """Raises SystemExit where standard output could not be written, unless its reader went away."""
    if out.failure is not None and out.failure.errno != errno.EPIPE:
        err.write(f"biggan: standard output cannot be written ({out.failure.strerror}): the rest of the work was done\n")
        err.flush()
        raise SystemExit(2)


def open_standard_descriptors() -> None:
    """Open the null device as each of the descriptors 0 to 2 that is closed: the next file that is opened would become, for
    example, standard output, and what a library prints would end up in it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
