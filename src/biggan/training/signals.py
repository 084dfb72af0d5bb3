"""Signals from outside that ask a run to stop in good order."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop: its name, or None."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __call__(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGUSR1 only leave a note, for the loop to end in good order; outside, they do what they did."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
