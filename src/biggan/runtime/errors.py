"""The exceptions of biggan:

    BigganError
    ├── UserError            something the user can correct: one line, exit code 2, no traceback
    │   ├── ConfigError      a preset, an option or a combination of options
    │   ├── DataError        images and data sets
    │   │   └── NonFiniteScore   features or a score that are not finite
    │   └── CheckpointError  run folders, checkpoints, models on disk
    └── TrainingDiverged     non-finite values, with the step, the quantity and the last good checkpoint

Violated invariants of the code itself are AssertionErrors.
"""

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path


class BigganError(Exception):
    """Base class of all exceptions that biggan raises on purpose."""


class UserError(BigganError):
    """An error the user can correct. Its message is one line: what is wrong, the value, and how to correct it."""

    reported_by_rank_zero = False
    """Whether rank 0 raises and reports the same error, so that this rank need not."""


class ConfigError(UserError):
    """An invalid preset, option or combination of options."""


class DataError(UserError):
    """A missing or invalid data set, or an unreadable image."""


class NonFiniteScore(DataError):
    """Features, logits or a score that are not finite, so that there is no score."""


class CheckpointError(UserError):
    """A missing or invalid run folder, checkpoint or model on disk."""


class TrainingDiverged(BigganError):
    """A loss or a score is not finite.

    `step` is the generator step at which it was detected, `quantity` its name, `last_good` the newest
    checkpoint written before (None if there is none).
    """

    def __init__(self, *, step: int, quantity: str, last_good: Path | None) -> None:
        checkpoint = f"last good checkpoint: {last_good}" if last_good else "no checkpoint was written before it"
        super().__init__(
            f"training diverged at step {step}: {quantity} is not finite; {checkpoint}; try lower learning rates"
        )
        self.step = step
        self.quantity = quantity
        self.last_good = last_good


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def reason_for(error: BaseException) -> str:
    """Why something failed, in the system's words where there are any, else the first line of the message. Without the
    number, the path and addresses of objects, which a message names in its own words or which say nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"\s*<[\w.]+ object at 0x[0-9a-fA-F]+>", "", first_line(error)) or type(error).__name__


REMEDIES = {
    ("ENOSPC", "EDQUOT"): "free some space",
    ("EROFS",): "that file system is read-only: name {other}",
    ("EACCES", "EPERM"): "permissions do not allow it: change them, or name {other}",
    ("EIO", "EUCLEAN"): "the disk reports an error: look at the system's log, and name {other}",
    ("ENAMETOOLONG",): "use a shorter path",
    ("EFBIG",): "files of that size are not allowed there: raise the limit (ulimit -f), or name {other}",
    ("EMFILE", "ENFILE"): "close some files, or raise the limit of open files (ulimit -n)",
    ("ENOENT", "ENXIO", "ENODEV"): "a folder or a disk is missing: was it removed or unmounted?",
    ("ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY"): "something else has that name: name {other}",
    ("ELOOP",): "its links lead in a circle: name {other}",
    ("ENOMEM",): "there is not enough memory: close other programs",
    ("EBUSY", "ETXTBSY", "EAGAIN"): "another program uses it: try again",
    ("ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "ECONNRESET", "EREMOTEIO"): (
        "the file system does not answer: try again when it does"
    ),
    ("EINVAL", "EILSEQ"): "that file system does not accept such a name: use letters, digits and hyphens",
}
"""What to do about an error of the system, by the names of its numbers, which differ between systems."""


def remedy_for(error: OSError, other: str = "another folder") -> str:
    """What to do about an error of the system, by its number. `other`: what may be named instead, as in "another --out"."""
    if error.errno is None:  # refused here, not by the system: another attempt gives the same answer
        return f"name {other}"
    name = errno.errorcode.get(error.errno, "")
    found = next((remedy for names, remedy in REMEDIES.items() if name in names), "try again, or name {other}")
    return found.format(other=other)


def suggestion(name: str, known: Iterable[str], too_many: str | None = None) -> str:
    """The end of an error message about an unknown name: the most similar known name, or else a list of the known ones. Of
    more than 40 the list is cut, or replaced by `too_many`."""
    names = sorted(name if len(name) <= 80 else f"{name[:80]}..." for name in known)
    similar = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if similar:
        return f"did you mean {similar[0]!r}?"
    if len(names) > 40:
        return too_many or f"known: {', '.join(names[:40])}, ..."
    return f"known: {', '.join(names)}"
