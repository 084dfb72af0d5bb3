"""Signals from outside that ask a run to stop in good order."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from biggan.runtime.distributed import max_over_ranks

T = TypeVar("T")

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")  # not every system has all of them
STOP_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

INTERRUPTED = 130
"""Exit code of a process that was interrupted by Ctrl-C."""


class StopRequest:
    """Whether, and by which signal, the process was asked to stop: its name, or None. `interrupted`: by Ctrl-C (SIGINT). A
    second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.interrupted = False
        self.time = 0.0

    def __call__(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            # torchrun hands on the Ctrl-C that its processes have received from the terminal already.
            repeated = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self.time < 1
            if self.interrupted and not repeated:
                with contextlib.suppress(OSError):  # the terminal may be gone
                    os.write(2, b"\nbiggan: interrupted again: ended without saving\n")
                os._exit(INTERRUPTED)
            self.interrupted, self.time = True, time.monotonic()
        self.name = self.name or signal.Signals(number).name

    def is_set(self) -> bool:
        """Whether this process was asked to stop."""
        return self.name is not None

    def is_set_anywhere(self) -> bool:
        """Whether any rank was asked to stop. All ranks must call it together."""
        (asked,) = max_over_ranks(float(self.is_set()))
        return bool(asked)


class StoppedEarly(Exception):
    """What was being measured is given up, because the run was asked to stop."""


def until_stopped(items: Iterable[T], is_stopped: Callable[[], bool]) -> Iterator[T]:
    """The items, each after a look at whether the run was asked to stop. Raises StoppedEarly then."""
    for item in items:
        if is_stopped():
            raise StoppedEarly
        yield item


@contextmanager
def stop_signals(request: StopRequest) -> Iterator[None]:
    """Inside, signals that ask to stop (`STOP_SIGNALS`) only leave a note in `request`, for the loop to end in good order;
    outside, they do what they did. Those that the process ignores, as under nohup, stay ignored. A thread other than the
    main one cannot receive signals."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, request) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
