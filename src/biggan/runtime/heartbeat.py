"""Ranks that stop are noticed: each says every few seconds that it is alive, and a silent one ends the run with a message.

A collective waits for all ranks, for hours if it must, because rank 0 may decode a data set meanwhile. A rank that is busy
still says that it is alive, from a thread of its own; one that was stopped (SIGSTOP), or whose network is gone, does not.

Rank 0 watches all ranks, the others watch rank 0 and are told by it. They talk through a key-value store, over a
connection of their own: a call that is never answered blocks a thread that nobody waits for."""

import logging
import os
import threading
import time
from typing import Protocol

from biggan.runtime.environment import World
from biggan.runtime.logging import EVERY_RANK

INTERVAL = 5.0
"""Seconds between two signs of life."""
SILENCE_LIMIT = 90.0
"""Seconds of silence after which a rank counts as stopped."""
EXIT_CODE = 1
"""Of a process that ends because another one stopped; torchrun then starts all of them again, if it may."""

logger = logging.getLogger(__name__)


class Store(Protocol):
    """A key-value store that all ranks share, as PyTorch has it."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of keys that exist."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys exist."""
        ...


class Heartbeat:
    """Two threads of one rank: one exchanges signs of life, the other counts how long each watched rank has been silent.

    `hosts` are the machines of all ranks, for the message. `store` must hold a value under "beat/RANK" for each of them."""

    def __init__(self, store: Store, world: World, hosts: list[str]) -> None:
        self.store, self.world, self.hosts = store, world, hosts
        self.interval, self.limit = INTERVAL, SILENCE_LIMIT
        others = [rank for rank in range(world.size) if rank != world.rank]
        self.silence = dict.fromkeys(others if world.is_rank_zero else [0], 0.0)
        self.last_beats: dict[int, bytes] = {}
        self.end = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads. They end with the process, or with `stop`."""
        for action in (self.exchange, self.watch):
            self.threads.append(threading.Thread(target=action, name=f"heartbeat {action.__name__}", daemon=True))
            self.threads[-1].start()

    def stop(self) -> None:
        """End the threads. Waits a little for them, since one that returns from the store while the interpreter ends aborts
        the process, but not without end: one may be blocked by a store that does not answer."""
        self.end.set()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(self.interval)

    def exchange(self) -> None:
        """Say that this rank is alive, and see who else is, until told to end."""
        count = 0
        while not self.end.wait(self.interval):
            count += 1
            try:
                self.store.set(f"beat/{self.world.rank}", str(count))
                self.look()
            except RuntimeError as error:  # the store is gone, or too slow: its silence is counted by `watch`
                logger.debug("no heartbeat: %s", error)

    def look(self) -> None:
        """Which watched ranks have said something new. Ends the process if rank 0 has found a silent one."""
        watched = list(self.silence)
        for rank, beat in zip(watched, self.store.multi_get([f"beat/{rank}" for rank in watched]), strict=True):
            if beat != self.last_beats.get(rank):
                self.last_beats[rank], self.silence[rank] = beat, 0.0
        if not self.world.is_rank_zero and self.store.check(["silent"]):
            self.leave(self.store.multi_get(["silent"])[0].decode())

    def watch(self) -> None:
        """Count silence, until told to end. A process that was stopped itself, with all others perhaps, has not waited for
        them meanwhile: time is counted in intervals of this thread."""
        while not self.end.wait(self.interval):
            for rank in self.silence:
                self.silence[rank] += self.interval
            silent = [rank for rank, seconds in self.silence.items() if seconds > self.limit]
            if silent:
                self.leave(self.describe(silent))

    def describe(self, silent: list[int]) -> str:
        """The message about silent ranks, which names the first few."""
        names = [f"rank {rank} on {self.hosts[rank]}" for rank in silent[:8]]
        more = f" and {len(silent) - 8} more" if len(silent) > 8 else ""
        verb = "have" if len(silent) > 1 else "has"
        seconds = max(self.silence[rank] for rank in silent)
        return (
            f"{', '.join(names)}{more} {verb} been silent for {seconds:.0f} s (stopped, or without a network): "
            "the run ends; the same command resumes it from its last checkpoint, if it has one"
        )

    def leave(self, text: str) -> None:
        """End this process with a message, having told the other ranks. What is being written is written whole or not at
        all."""
        if self.end.is_set():
            return
        self.end.set()
        logger.error("%s", text, extra=EVERY_RANK)
        if self.world.is_rank_zero:
            tell = threading.Thread(target=self.store.set, args=("silent", text), daemon=True)
            tell.start()
            tell.join(self.interval)
            time.sleep(1.5 * self.interval)  # the store may be this process's: the others read it first
        os._exit(EXIT_CODE)
