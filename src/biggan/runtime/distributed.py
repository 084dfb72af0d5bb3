"""Several processes as one: the torchrun environment, the ranks' agreement, and sums over ranks that carry gradients.

The only file that calls torch.distributed. Everything works unchanged with one process, where nothing is initialised.
Not here: what the ranks share (see training, nn/norm, sampling).
"""

import gc
import hashlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biggan.runtime.errors import ConfigError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)  # rank 0 may write a checkpoint or decode a data set while the others wait


class World(NamedTuple):
    """This process among all: `rank` of `size`, and its place on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which alone writes and reports."""
        return self.rank == 0

    def share(self, values: Tensor) -> Tensor:
        """This rank's equal part of a tensor that all ranks hold; its first size divides by the ranks."""
        return values.chunk(self.size)[self.rank]


SINGLE_PROCESS = World()


def environment_world() -> World:
    """This process as torchrun started it; alone without torchrun. Raises ConfigError where its environment is cut short."""
    if "WORLD_SIZE" not in os.environ:
        return World()
    try:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return World(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"WORLD_SIZE is set but RANK and LOCAL_RANK are not numbers ({error}): start with torchrun"
        ) from error


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The ranks of a torchrun start as one group: NCCL for tensors on CUDA, gloo for the rest; nothing for one process.

    All ranks enter and leave together."""
    me = environment_world()
    if me.size == 1:
        yield me
        return
    if device.type == "cuda":
        torch.cuda.set_device(me.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(agree_on_start(store, rank, size), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # 1x1 kernels have two names for one layout
    try:
        yield me
        dist.barrier()  # nobody hangs up while another still talks
    finally:
        gc.collect()  # what holds on to the group goes before it
        dist.destroy_process_group()


def agree_on_start(store: dist.Store, rank: int, size: int) -> str:
    """A name of this start of the ranks, the same on all of them: after a restart by torchrun the store may still hold the
    addresses of ranks that died, and on several nodes its restart counts differ.

    Every rank shows a word of its own; rank 0 names the start after all the words that it sees, each rank says yes to a
    start that its word is in, and once all have said yes it holds. A dead rank's word is replaced by its successor's, and
    rank 0 names the start anew. Raises ConfigError when the ranks do not come together in time.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    store.set(f"word/{rank}", word)
    while time.monotonic() < deadline:
        if rank == 0 and store.check([f"word/{other}" for other in range(size)]):
            words = [store.get(f"word/{other}").decode() for other in range(size)]
            store.set("start", " ".join(words))
        if store.check(["start"]):
            words = store.get("start").decode().split()
            if len(words) == size and words[rank] == word:
                start = hashlib.sha256(" ".join(words).encode()).hexdigest()
                store.set(f"{start}/yes/{rank}", "")
                if rank == 0 and store.check([f"{start}/yes/{other}" for other in range(size)]):
                    store.set(f"{start}/holds", "")
                if store.check([f"{start}/holds"]):
                    return start
        time.sleep(0.05)
    raise ConfigError(f"{size} ranks did not come together within {TIMEOUT}: start them again")


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks; its gradient is the sum of the gradients, because every rank uses the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """The sum over the ranks of a group (None: all), with its gradient. They must all call it, and its backward, in the same
    order."""
    return SumOverRanks.apply(values, group)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks, with its gradient; the values themselves in one process. All ranks must call it, and its
    backward, in the same order."""
    return sum_over_ranks(values) / dist.get_world_size() if dist.is_initialized() else values


def all_gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Equal numbers of rows of every rank below each other, with gradients, and where this rank's begin. All ranks must call
    it, and its backward, in the same order."""
    rank, size = dist.get_rank(), dist.get_world_size()
    apart = rows.new_zeros(size, *rows.shape)
    apart[rank] = rows
    return sum_over_ranks(apart).flatten(0, 1), rank * len(rows)


def sum_within_groups(size: int | None) -> Callable[[Tensor], Tensor]:
    """`sum_over_ranks` within groups of so many ranks next to each other; None: over all. All ranks must call it."""
    if size is None:
        return sum_over_ranks
    starts = range(0, dist.get_world_size(), size)
    groups = [dist.new_group(list(range(start, start + size))) for start in starts]  # every rank makes all of them
    return partial(sum_over_ranks, group=groups[dist.get_rank() // size])


def wrap_ddp(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its gradients averaged over ranks during backward; itself for one process."""
    if not dist.is_initialized():
        return network
    devices = [torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor came with torch 2.14
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def no_sync(network: nn.Module, last: bool) -> AbstractContextManager:
    """Around all passes of an accumulation but the last: gradients are added up here and averaged over ranks then."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


def max_over_ranks(*values: float) -> list[float]:
    """The largest of each value over ranks, so that all decide alike. All ranks must call it."""
    if not dist.is_initialized():
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def on_rank_zero(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, on every rank; a UserError there is raised on every rank. Small, plain values only.
    All ranks must call it."""
    if not dist.is_initialized():
        return action()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        outcome[1].reported_by_rank_zero = dist.get_rank() > 0
        raise outcome[1]
    return outcome[0]


def local_rank_zero_first(action: Callable[[], None], me: World) -> None:
    """`action` on every rank, on the first of each machine before the others; a UserError of any is raised on all. All ranks
    must call it."""
    for mine in (me.local_rank == 0, me.local_rank != 0):
        error = None
        if mine:
            try:
                action()
            except UserError as raised:
                error = raised
        if not dist.is_initialized():
            errors = [error]
        else:
            errors = [None] * me.size
            dist.all_gather_object(errors, error)
        first = next((rank for rank, found in enumerate(errors) if found is not None), None)
        if first is not None:
            raised = errors[first]
            raised.reported_by_rank_zero = me.rank != first
            raise raised
        if me.size == 1:
            return


def local_world_size() -> int:
    """How many ranks run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def sum_counts_over_ranks(counts: dict[str, int]) -> dict[str, int]:
    """Each count summed over ranks, which all have the same names. All ranks must call it."""
    if not dist.is_initialized() or not counts:
        return counts
    total = torch.tensor(list(counts.values()))
    dist.all_reduce(total)
    return dict(zip(counts, total.tolist(), strict=True))


def all_gather(values: Tensor) -> list[Tensor]:
    """Every rank's tensor, in order of rank; all of one shape. All ranks must call it."""
    if not dist.is_initialized():
        return [values]
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return parts


def broadcast_batches(mine: Tensor, sizes: list[int], world: World) -> Iterator[Tensor]:
    """The batches of the first ranks, of these sizes, in order of rank, on every rank."""
    if world.size == 1:
        yield mine
        return
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine
    for batch, size in zip(all_gather(padded), sizes, strict=False):
        yield batch[:size]


def interleave_ranks(values: Tensor, count: int) -> Tensor:
    """The rows 0 .. count - 1 of which rank r of w holds r, r + w, r + 2w, ..., in order. All ranks must call it."""
    if not dist.is_initialized():
        return values
    size = dist.get_world_size()
    rows = -(-count // size)
    padded = values.new_zeros(rows, *values.shape[1:])
    padded[: len(values)] = values
    return torch.stack(all_gather(padded), dim=1).flatten(0, 1)[:count]
