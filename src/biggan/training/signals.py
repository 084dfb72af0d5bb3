"""Signals from outside that ask a run to stop in good order."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Inside, signals that ask to stop (`STOP_SIGNALS`) only leave a note, for the loop to end in good order; outside, they
    do what they did. Those that the process ignores, as under nohup, stay ignored. A thread other than the main one cannot
    receive signals."""
    request = StopRequest()
    before = {}
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, request) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
