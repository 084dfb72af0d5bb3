"""How long training waits for a checkpoint, against the step beside it: `python recipes/checkpoint_pause.py cifar10`.

Prints the size of the state, the median step, and the pauses: the check that everything is finite, and the copy after which
the checkpoint is written in a thread. On random images.
"""

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from biggan.checkpoints.run_dir import RunDir
from biggan.configs.presets import preset
from biggan.runtime.memory import keep_freed_memory
from biggan.training.async_checkpoint import AsyncCheckpointWriter
from biggan.training.guard import tensor_sums
from biggan.training.setup import build_train_state
from biggan.training.step import train_step

STEPS, EVERY = 12, 4


def main(name: str) -> None:
    keep_freed_memory()
    config = preset(name)
    state = build_train_state(dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10)))
    size, batch = config.model.resolution, state.plan.micro_batch
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    reals = itertools.repeat((images, torch.randint(10, (batch,))))
    steps, pauses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunDir(Path(scratch))
        folder.checkpoints.mkdir()
        writer = AsyncCheckpointWriter(folder, keep=2)
        for step in range(1, STEPS + 1):
            started = time.perf_counter()
            train_step(state, step, reals)
            steps.append(time.perf_counter() - started)
            if step % EVERY == 0:
                started = time.perf_counter()
                tensors = state.tensors()
                tensor_sums(tensors)
                writer.write(step, tensors, {})
                pauses.append(time.perf_counter() - started)
        writer.finish()
    total = sum(tensor.nbytes for tensor in state.tensors().values())
    print(f"{name}: state {total / 2**20:.0f} MiB, median step {1000 * statistics.median(steps):.0f} ms, ", end="")
    print("pauses " + ", ".join(f"{1000 * pause:.0f}" for pause in pauses) + " ms")


if __name__ == "__main__":
    main(sys.argv[1])
