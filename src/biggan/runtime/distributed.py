"""Distributed training: the torchrun environment, process groups, DDP, and differentiable collectives.

The only module that calls torch.distributed. All functions also work in a single process without a process group.
"""

import gc
import hashlib
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from biggan.runtime.environment import World, environment_number, environment_world
from biggan.runtime.errors import ConfigError, UserError, first_line
from biggan.runtime.heartbeat import Heartbeat

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)  # rank 0 may write a checkpoint or decode a data set while the others wait, on the CPU
NCCL_TIMEOUT = timedelta(minutes=10)  # of what GPUs exchange within a step, where nobody waits for anything else
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
BUCKET_MEBIBYTES = 100  # of gradients averaged at once; 25 by default, too little for what a link of a node carries
START_TIMEOUT = timedelta(seconds=100)  # by then all ranks have come, or the missing ones are named
STORE_TIMEOUT = timedelta(seconds=30)  # of one exchange of signs of life


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Initialize the process group of a torchrun start: NCCL for CUDA tensors, gloo for CPU tensors; none for one process.
    Ranks wait for each other NCCL_TIMEOUT in an exchange of CUDA tensors, and TIMEOUT in one of CPU tensors. So whatever may
    take one rank longer than a step takes, such as a checkpoint, is waited for by functions that exchange CPU tensors:
    `on_rank_zero`, `max_over_ranks`, `raise_on_all_ranks`.

    `device`: of this rank (see `choose_device`); a GPU becomes the current device. All ranks enter and leave the context
    together."""
    world = environment_world()
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = NCCL_TIMEOUT if device.type == "cuda" else TIMEOUT
    store = connect_store(world, START_TIMEOUT, is_host=hosts_store(world))
    start = agree_on_start(store, world.rank, world.size)
    heartbeat = start_heartbeat(start, world)
    store.set_timeout(timeout)
    try:
        options = {"rank": world.rank, "world_size": world.size, "timeout": timeout}
        dist.init_process_group(BACKENDS[device.type], store=dist.PrefixStore(start, store), **options)
        dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(TIMEOUT)
        warnings.filterwarnings("ignore", "Grad strides do not match")  # strides of 1x1 kernels are ambiguous
        try:
            yield world
            max_over_ranks(0.0)  # no rank closes its connections while another still uses them
        finally:
            gc.collect()  # objects that refer to the group are freed before it
            dist.destroy_process_group()
    finally:
        heartbeat.stop()


def hosts_store(world: World) -> bool:
    """Whether this process has the store in which ranks find each other: rank 0, unless torchrun itself has it."""
    return world.is_rank_zero and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def connect_store(world: World, timeout: timedelta, *, is_host: bool) -> dist.Store:
    """A connection to the store at MASTER_ADDR and MASTER_PORT. Raises ConfigError where there is none within the time, or
    the variables make no sense."""
    host, port = os.environ.get("MASTER_ADDR", ""), environment_number("MASTER_PORT", 1)
    where, found = f"MASTER_ADDR={host[:100]} MASTER_PORT={port}", list[dist.Store | Exception]()
    if port > 65535:
        raise ConfigError(f"{where}: a port is at most 65535")

    def connect() -> None:
        """In a thread, because a server of another kind, which never answers, is waited for without end."""
        try:
            socket.getaddrinfo(host or None, port)
            options = {"wait_for_workers": False, "multi_tenant": True}
            found.append(dist.TCPStore(host, port, world.size, is_host, timeout, **options))
        except (RuntimeError, ValueError, OSError) as error:
            found.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout.total_seconds() + 5)
    (result,) = found or [TimeoutError("it does not answer")]
    if isinstance(result, Exception):
        remedy = "give rank 0's address and a free port there" if is_host else "is rank 0 running, and is this its address?"
        reason = first_line(result)[:200]
        raise ConfigError(f"rank {world.rank} cannot reach {where} ({reason}): {remedy}") from result
    return result


def start_heartbeat(start: str, world: World) -> Heartbeat:
    """Begin to watch the other ranks, over a connection of its own, because a call to the store may block."""
    own = dist.PrefixStore(start, connect_store(world, STORE_TIMEOUT, is_host=False))
    hosts = [host.decode() for host in own.multi_get([f"host/{rank}" for rank in range(world.size)])]
    heartbeat = Heartbeat(own, world, hosts)
    heartbeat.start()
    return heartbeat


def agree_on_start(store: dist.Store, rank: int, size: int) -> str:
    """A name for this start of the ranks, equal on all of them, used as a prefix of keys in the store. After a restart by
    torchrun the store may still hold addresses of dead ranks, and the restart counts of several nodes may differ.

    Every rank publishes a random token. Rank 0 proposes the list of all tokens as the name; each rank accepts a proposal
    that contains its own token, and once all have accepted, the name holds. The token of a dead rank is replaced by that of
    its successor, and rank 0 proposes again. Raises ConfigError if the ranks do not agree within START_TIMEOUT.
    """
    token, deadline = uuid.uuid4().hex, time.monotonic() + START_TIMEOUT.total_seconds()
    store.set(f"word/{rank}", token)
    start = None
    while time.monotonic() < deadline:
        if rank == 0 and store.check([f"word/{other}" for other in range(size)]):
            tokens = [store.get(f"word/{other}").decode() for other in range(size)]
            store.set("start", " ".join(tokens))
        if store.check(["start"]):
            tokens = store.get("start").decode().split()
            if len(tokens) == size and tokens[rank] == token:
                start = hashlib.sha256(" ".join(tokens).encode()).hexdigest()
                store.set(f"{start}/host/{rank}", socket.gethostname())
                store.set(f"{start}/beat/{rank}", "0")
                store.set(f"{start}/yes/{rank}", "")
                if rank == 0 and store.check([f"{start}/yes/{other}" for other in range(size)]):
                    store.set(f"{start}/holds", "")
                if store.check([f"{start}/holds"]):
                    return start
        time.sleep(0.05)
    arrived = "word" if start is None else f"{start}/yes"
    missing = [other for other in range(size) if not store.check([f"{arrived}/{other}"])] or [0]
    names = ", ".join(f"rank {other}" for other in missing[:8]) + (f" and {len(missing) - 8} more" if missing[8:] else "")
    seconds = START_TIMEOUT.total_seconds()
    raise ConfigError(
        f"{names} of {size} did not come within {seconds:.0f} s: start all ranks together, "
        "or unset WORLD_SIZE for a single process"
    )


class SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over ranks. Its gradient is summed over ranks too, because every rank's loss depends on the sum."""

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
    """Differentiable sum over the ranks of a group (None: all ranks). All of them must call it and its backward pass in the
    same order."""
    return SumOverRanks.apply(values, group)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Differentiable mean over all ranks; the values themselves in a single process. All ranks must call it and its backward
    pass in the same order."""
    return sum_over_ranks(values) / dist.get_world_size() if dist.is_initialized() else values


def all_gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Differentiable concatenation (size * N, ...) of the rows (N, ...) of all ranks, and the index of this rank's first
    row. All ranks must have equally many rows, and call it and its backward pass in the same order."""
    rank, size = dist.get_rank(), dist.get_world_size()
    padded = rows.new_zeros(size, *rows.shape)
    padded[rank] = rows
    return sum_over_ranks(padded).flatten(0, 1), rank * len(rows)


def sum_within_groups(size: int | None) -> Callable[[Tensor], Tensor]:
    """`sum_over_ranks` within groups of `size` consecutive ranks, or over all ranks (None). All ranks must call it."""
    if size is None:
        return sum_over_ranks
    starts = range(0, dist.get_world_size(), size)
    timeout = NCCL_TIMEOUT if torch.device("cuda") in dist.group.WORLD._device_types else TIMEOUT
    # Every rank must create every group.
    groups = [dist.new_group(list(range(start, start + size)), timeout=timeout) for start in starts]
    return partial(sum_over_ranks, group=groups[dist.get_rank() // size])


def wrap_ddp(network: nn.Module, device: torch.device, *, bf16_gradients: bool = False) -> nn.Module:
    """Wrap a network in DistributedDataParallel, which averages gradients over ranks, in bf16 on request; unchanged in a
    single process."""
    if not dist.is_initialized():
        return network
    devices = [torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor needs torch 2.14
        options = {"broadcast_buffers": False, "gradient_as_bucket_view": True, "bucket_cap_mb": BUCKET_MEBIBYTES}
        wrapped = DistributedDataParallel(network, device_ids=devices, **options)
    if bf16_gradients:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def no_sync(network: nn.Module, last: bool) -> AbstractContextManager:
    """The context of a backward pass in gradient accumulation: only the `last` pass averages gradients over ranks."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


def max_over_ranks(*values: float) -> list[float]:
    """The maximum of each value over ranks, so that all ranks make the same decisions. All ranks must call it."""
    if not dist.is_initialized():
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and return its result, a small plain value, on every rank. A UserError on rank 0 is raised
    on every rank. All ranks must call it."""
    if not dist.is_initialized():
        return action()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if outcome[1] is not None:
        outcome[1].reported_by_rank_zero = dist.get_rank() > 0
        raise outcome[1]
    return outcome[0]


def local_rank_zero_first(action: Callable[[], None], world: World) -> None:
    """Run `action` on every rank, first on local rank 0 of each machine, then on its other ranks. A UserError on any rank is
    raised on all. All ranks must call it."""
    for is_my_phase in (world.local_rank == 0, world.local_rank != 0):
        error = None
        if is_my_phase:
            try:
                action()
            except UserError as caught:
                error = caught
        raise_on_all_ranks(error, world)
        if world.size == 1:
            return


def raise_on_all_ranks(error: UserError | None, world: World) -> None:
    """Raise the UserError of the first rank that has one on every rank; nothing where no rank has one. All ranks must call
    it."""
    (failed,) = max_over_ranks(float(error is not None))
    if not failed:
        return
    errors = [error] * world.size
    if dist.is_initialized():
        dist.all_gather_object(errors, error)
    failed_rank = next(rank for rank, found in enumerate(errors) if found is not None)
    raised = errors[failed_rank]
    raised.reported_by_rank_zero = world.rank != failed_rank
    raise raised


def sum_counts_over_ranks(counts: dict[str, int]) -> dict[str, int]:
    """Sum each count over ranks. All ranks must call it, with the same names in the same order."""
    if not dist.is_initialized() or not counts:
        return counts
    total = torch.tensor(list(counts.values()))
    dist.all_reduce(total)
    return dict(zip(counts, total.tolist(), strict=True))


def all_gather(values: Tensor) -> list[Tensor]:
    """The tensors of all ranks, which have equal shapes, in order of rank, on the device of `values`. All ranks must call
    it."""
    if not dist.is_initialized():
        return [values]
    gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, values.contiguous())
    return gathered


def broadcast_batches(batch: Tensor, sizes: list[int], world: World) -> Iterator[Tensor]:
    """The batches of the first len(sizes) ranks in order of rank, on every rank. `batch` is this rank's batch, `sizes`
    are the lengths of all. All ranks must call it."""
    if world.size == 1:
        yield batch
        return
    padded = batch.new_zeros(max(sizes), *batch.shape[1:])
    padded[: len(batch)] = batch
    for gathered, size in zip(all_gather(padded), sizes, strict=False):
        yield gathered[:size]


def interleave_ranks(values: Tensor, count: int) -> Tensor:
    """Rows 0 .. count - 1 in order, of which rank r of w holds rows r, r + w, r + 2w, ... All ranks must call it."""
    if not dist.is_initialized():
        return values
    size = dist.get_world_size()
    rows = -(-count // size)
    padded = values.new_zeros(rows, *values.shape[1:])
    padded[: len(values)] = values
    return torch.stack(all_gather(padded), dim=1).flatten(0, 1)[:count]
