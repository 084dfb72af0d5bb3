"""The logger that everything below the command line speaks through, and who of several ranks is heard.

`logging.getLogger("biggan")` and its children carry notes for the person at the terminal; as a library biggan sets up
nothing, and Python shows warnings alone. The command line calls `set_up_logging`."""

import logging
import sys
from typing import TextIO

from biggan.runtime.environment import World, environment_world
from biggan.runtime.text import printable

ROOT = "biggan"
EVERY_RANK = {"every_rank": True}
"""`logger.info(text, extra=EVERY_RANK)`: said by each rank for itself, named by its number; else rank 0 speaks for all."""


class RankFilter(logging.Filter):
    """Lets pass what rank 0 says, and what a rank says of itself alone."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def filter(self, record: logging.LogRecord) -> bool:
        if self.world.is_rank_zero:
            return True
        if getattr(record, "every_rank", False):
            record.msg, record.args = f"rank {self.world.rank}: {record.getMessage()}", None
            return True
        return False


class PrintableFormatter(logging.Formatter):
    """Escapes control characters: messages hold names that came from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class StandardErrorHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the time, so that it can be redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:
        """A terminal or a pipe that was closed meanwhile ends nothing, and nobody could read of it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def set_up_logging(level: int = logging.INFO) -> None:
    """Show the notes of the package on standard error, one plain line each, those of rank 0 only. Calling it again replaces
    what it set up before."""
    logger = logging.getLogger(ROOT)
    for handler in [handler for handler in logger.handlers if isinstance(handler, StandardErrorHandler)]:
        logger.removeHandler(handler)
    handler = StandardErrorHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    handler.addFilter(RankFilter(environment_world()))
    logger.addHandler(handler)
    logger.setLevel(level)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong with an image is said once, by its name
