"""Everything that biggan raises on purpose. The tree:

    BigganError
    ├── UserError            something the user can mend: one line, exit code 2, no traceback
    │   ├── ConfigError      a preset, an option or a combination of options
    │   ├── DataError        images and data sets
    │   └── CheckpointError  run folders, checkpoints, models on disk
    └── TrainingDiverged     non-finite values: evidence, with the step, the place and the last good checkpoint

Not here: assertions about our own invariants, which stay `assert`.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class BigganError(Exception):
    """Root of the tree."""


class UserError(BigganError):
    """Says what is wrong, the value, where to change it and the remedy, in one line."""

    reported_by_rank_zero = False
    """Whether rank 0 raises the same and says so."""


class ConfigError(UserError):
    """A preset, an option, or options that do not go together."""


class DataError(UserError):
    """A data set or an image in it."""


class CheckpointError(UserError):
    """A run folder, a checkpoint or a model on disk."""


class TrainingDiverged(BigganError):
    """A loss or a score is no longer finite.

    `step` is the generator step at which it was seen, `where` the name of the quantity, `last_good` the newest
    checkpoint written before it (None if there is none).
    """

    def __init__(self, *, step: int, where: str, last_good: Path | None) -> None:
        apply_rollback = f"last good checkpoint: {last_good}" if last_good else "no checkpoint was written before it"
        super().__init__(
            f"training diverged at step {step}: {where} is not finite; {apply_rollback}; try lower learning rates"
        )
        self.step = step
        self.where = where
        self.last_good = last_good


def first_line(error: BaseException) -> str:
    """What another library says of an error, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def suggestion(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the nearest known name if one is near, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return f"known: {shown}"
