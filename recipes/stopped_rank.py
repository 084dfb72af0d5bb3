"""How long does it take until a rank that stops, or never comes, ends a run? With the limits that runs have.

    python recipes/stopped_rank.py

Starts `biggan train digits` as two ranks on the CPU, stops (SIGSTOP) rank 1, then rank 0 of a second start; and starts rank
0 alone, without its partner. Prints for each the seconds until the other rank had ended, its exit code and the last line it
said; exits with 1 if one took longer than two minutes. Takes about six minutes.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 120.0  # seconds
TRAIN = "train digits --train.device cpu --train.steps 1000000 --train.checkpoint-every 5 --model.width 2 --train.batch 8"


def start(rank: int, port: int, run: Path) -> subprocess.Popen[str]:
    """One of two ranks."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in variables.items()} | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "biggan", *TRAIN.split(), "--run", str(run)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def seconds_to_end(process: subprocess.Popen[str], since: float, what: str) -> float:
    """Wait for a process, and say how it ended."""
    _, told = process.communicate(timeout=10 * LIMIT)
    seconds = time.monotonic() - since
    lines = [line for line in told.splitlines() if "socket.cpp" not in line]  # warnings of PyTorch about the stopped store
    print(f"{what}: {seconds:.0f} s, exit code {process.returncode}: {lines[-1]}", flush=True)
    return seconds


def main() -> int:
    """Measure the three cases."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for stopped in (1, 0):
            port, run = free_port(), Path(folder) / f"run-{stopped}"
            ranks = [start(rank, port, run) for rank in (0, 1)]
            try:
                while not list(run.glob("checkpoints/step-*/manifest.json")):
                    time.sleep(0.1)
                ranks[stopped].send_signal(signal.SIGSTOP)
                found.append(seconds_to_end(ranks[1 - stopped], time.monotonic(), f"rank {stopped} stopped"))
            finally:
                for process in ranks:
                    process.kill()
        alone = start(0, free_port(), Path(folder) / "alone")
        found.append(seconds_to_end(alone, time.monotonic(), "rank 1 never came"))
    return int(max(found) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
