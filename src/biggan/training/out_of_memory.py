"""What is said when memory does not suffice for a run: one line with the option that helps."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from biggan.checkpoints.run_dir import RunDir, checkpoint_step
from biggan.configs.run import RunConfig
from biggan.runtime.environment import World
from biggan.runtime.errors import ConfigError, first_line
from biggan.runtime.precision import choose_precision
from biggan.training.memory_estimate import estimate_memory, largest_micro_batch, usable_memory

logger = logging.getLogger(__name__)

ALLOCATION_FAILURES = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
"""Parts of the messages of PyTorch's allocators and CUDA's libraries that mean so."""


@contextmanager
def reporting_out_of_memory(config: RunConfig, run_dir: RunDir, world: World, doing: str) -> Iterator[None]:
    """Around a part of training (`doing`: its name): where memory does not suffice, on any device, raises ConfigError, with
    a smaller micro-batch that divides the batch. Checkpoints stay as they are."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)[:160]
        raise ConfigError(f"out of memory {doing} ({reason}): {memory_remedy(config, run_dir, world)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory does not suffice."""
    is_known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_known or any(text in str(error) for text in ALLOCATION_FAILURES)


def memory_remedy(config: RunConfig, run_dir: RunDir, world: World) -> str:
    """The options that need less memory. Another micro-batch changes batch statistics, so a run with checkpoints goes on
    with it in another folder."""
    checkpoints, smaller, less = run_dir.list_checkpoints(), fitting_micro_batch(config, world), less_memory(config)
    if smaller is None:
        return less
    if not checkpoints:
        return f"add --train.micro-batch {smaller}, or {less}"
    start = f"{run_dir.path}@{checkpoint_step(checkpoints[-1])}"
    return f"{less}; or go on in another --run with --train.micro-batch {smaller} --init-from {start}"


def less_memory(config: RunConfig) -> str:
    """The options that need less memory for the same micro-batch."""
    less = "use a smaller model (--model.width)"
    return less if config.train.activation_checkpointing else f"add --train.activation-checkpointing, or {less}"


def fitting_micro_batch(config: RunConfig, world: World) -> int | None:
    """The largest micro-batch that fits by the estimate and is at most half of the one that did not. None: there is none."""
    train = config.train
    half = smaller_micro_batch(train.batch, train.micro_batch or train.batch, world.size)
    memory = usable_memory(choose_precision(train.device, train.precision, train.memory_format).device)
    if half is None or memory is None:
        return half
    try:
        estimate = estimate_memory(config, world)
    except (MemoryError, RuntimeError, OSError, ImportError) as error:  # what little the estimate takes is not there
        logger.debug("memory is not estimated: %s", first_line(error))
        return half
    micro_batch = largest_micro_batch(estimate, train.batch, world.size, memory)
    return None if micro_batch is None else min(half, micro_batch)


def smaller_micro_batch(batch: int, micro_batch: int, ranks: int) -> int | None:
    """The largest micro-batch of at most half the size that divides the batch and gives each rank two images or more; None:
    there is none."""
    sizes = range(micro_batch // 2, 2 * ranks - 1, -1)
    return next((size for size in sizes if batch % size == 0 and size % ranks == 0), None)
