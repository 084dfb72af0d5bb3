"""Items of a stream made ahead by a thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.1
"""How often the thread looks whether anybody still wants its items."""


class ReadAhead(Generic[T]):
    """The items of an endless `make` in their order, made up to `ahead` items before they are taken. An error in the thread
    is raised where the item was wanted. The thread ends with `close`, or when the object is no longer referred to."""

    def __init__(self, make: Callable[[], T], *, ahead: int = 2) -> None:
        self.items: queue.Queue[tuple[T | None, Exception | None]] = queue.Queue(ahead)
        self.closed = threading.Event()
        # The thread knows the queue and the event, not this object, which can so be collected.
        self.thread = threading.Thread(target=produce, args=(make, self.items, self.closed), name="read-ahead", daemon=True)
        self.thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self.closed.is_set():
            raise StopIteration
        item, error = self.items.get()
        if error is not None:
            self.close()
            raise error
        return item

    def close(self) -> None:
        """End the thread; there are no more items."""
        self.closed.set()

    def __del__(self) -> None:
        self.closed.set()


def produce(make: Callable[[], T], items: queue.Queue, closed: threading.Event) -> None:
    """What the thread does: items into the queue until it is closed, or one cannot be made."""
    error = None
    while error is None and not closed.is_set():
        item = None
        try:
            item = make()
        except Exception as caught:  # whatever it is, it is raised where the item was wanted
            error = caught
        while not closed.is_set():
            try:
                items.put((item, error), timeout=POLL_SECONDS)
                break
            except queue.Full:
                continue
