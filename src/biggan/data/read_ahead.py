"""Items of a stream made ahead by a thread."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.1
"""How often the thread looks whether anybody still wants its items."""
PATIENCE_SECONDS = 2.0
"""How long the end of the process waits for an item that is being made."""


class ReadAhead(Generic[T]):
    """The items of an iterator in their order, made up to `ahead` items before they are taken. An error in the thread is
    raised where the item was wanted. The thread ends, and closes a generator, with `close`, when the object is no longer
    referred to, and before the interpreter ends: a thread that returns from compiled code after that aborts the process."""

    def __init__(self, source: Iterator[T], *, ahead: int = 2) -> None:
        self.items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
        self.closed = threading.Event()
        # The thread knows the queue and the event, not this object, which can so be collected.
        words = (source, self.items, self.closed)
        self.thread = threading.Thread(target=produce, args=words, name="read-ahead", daemon=True)
        self.end = weakref.finalize(self, end_thread, self.thread, self.items, self.closed)
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
        """End the thread, once the item that it is making is done; there are no more items."""
        self.end()


def end_thread(thread: threading.Thread, items: queue.Queue, closed: threading.Event) -> None:
    """Ask the thread to end and wait for that; also called by the thread itself, if it holds the last reference."""
    closed.set()
    with contextlib.suppress(queue.Empty):
        while True:
            items.get_nowait()  # so that it does not wait for room
    if thread is not threading.current_thread() and thread.ident is not None:
        thread.join(PATIENCE_SECONDS)


def produce(source: Iterator[T], items: queue.Queue, closed: threading.Event) -> None:
    """What the thread does: items into the queue until it is closed, or one cannot be made."""
    error: BaseException | None = None
    while error is None and not closed.is_set():
        item = None
        try:
            item = next(source)
        except BaseException as caught:  # whatever it is, it is raised where the item was wanted
            error = caught
        while not closed.is_set():
            try:
                items.put((item, error), timeout=POLL_SECONDS)
                break
            except queue.Full:
                continue
    if hasattr(source, "close"):
        source.close()
