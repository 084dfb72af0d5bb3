"""How much memory a training step needs, for any micro-batch, from one real step on tensors without data.

The step is that of training/step, run on PyTorch's fake tensors, which have shapes, types and lifetimes but no data: nothing
is computed, and no memory taken. Every storage is followed from its allocation to its end, so that weights, gradients,
moments, saved activations and temporary tensors count while they are there. What a kernel takes inside itself (a workspace
of cuDNN, the unfolded images of a slow convolution on a CPU) and what the allocator loses to fragments is not seen:
`HEADROOM` is left for that.

The micro-batch of the probe has a prime factor that divides no dimension of the weights. A storage whose number of bytes is
a multiple of that micro-batch therefore has a dimension of images, and grows with the micro-batch; one that is a multiple of
its square (minibatch discrimination compares all pairs of images) grows with the square; every other stays.
"""

import dataclasses
import itertools
import math
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from biggan.configs.run import RunConfig
from biggan.runtime.environment import SINGLE_PROCESS, World, local_world_size
from biggan.runtime.memory import total_memory
from biggan.runtime.precision import PrecisionName, choose_precision
from biggan.training.setup import (
    build_train_state,
    check_compile_and_capture,
    plan_batch,
    share_batch_statistics,
    syncs_batch_norm,
)
from biggan.training.step import train_step
from biggan.training.train_state import TrainState

HEADROOM = 0.1
"""Share of the memory that is left for workspaces of kernels and fragments of the allocator."""

SMALLEST_PROBE = 251
"""Images; the probe has the first suitable number from here on."""


class Growth(NamedTuple):
    """A number of bytes for n images: constant + slope n + square n^2."""

    constant: int
    slope: int = 0
    square: int = 0

    def at(self, images: int) -> int:
        """The bytes for so many images."""
        return self.constant + self.slope * images + self.square * images**2


class MemoryEstimate(NamedTuple):
    """Bytes that one rank needs, as a function of its images per forward pass."""

    state: int
    """Weights, moments of the optimizers, averages."""
    gradients: int
    """Of the larger network: they are there throughout all passes but the first where gradients are accumulated."""
    accumulates: bool
    """Whether the probe had accumulated gradients."""
    fixed: int
    """Buckets in which gradients are averaged over ranks."""
    image: int
    """One real image, of which those of a whole batch are held."""
    peaks: tuple[Growth, ...]
    """Tensors alive at the moments of the step that are the peak for some number of images."""

    def peak(self, images: int, accumulation: int = 1) -> int:
        """Bytes at the peak of a step with so many images of this rank in a forward pass, and so many passes."""
        more = self.gradients if accumulation > 1 and not self.accumulates else 0
        return max(growth.at(images) for growth in self.peaks) + self.fixed + more + accumulation * images * self.image


def estimate_memory(config: RunConfig, world: World = SINGLE_PROCESS) -> MemoryEstimate:
    """The memory of one rank's step. `config` is resolved. Takes seconds. Raises ConfigError where the networks do not fit
    into main memory, or steps cannot be run as the config asks."""
    plan, train, model = plan_batch(config.train, world), config.train, config.model
    precision = choose_precision(train.device, train.precision, train.memory_format)
    accumulates = plan.accumulation > 1
    with fake_tensors() as live:
        precision_name: PrecisionName = "bf16" if precision.bf16 else "fp32"
        shapes = dataclasses.replace(train, device="cpu", precision=precision_name, compile="off", capture="off")
        state = build_train_state(dataclasses.replace(config, train=dataclasses.replace(shapes, discriminator_steps=1)))
        check_compile_and_capture(train, precision.device, world, state.trainers)
        networks = [trainer.network for trainer in state.trainers]
        images, live.rows = probe_size(networks, train.generator_batch_multiplier)
        state.plan = state.plan._replace(
            batch=images * (1 + accumulates), micro_batch=images, accumulation=1 + accumulates, generator_steps=1
        )
        state.latents.plan = state.plan
        if syncs_batch_norm(train, world):
            by_network = {trainer.network: trainer.regularizers for trainer in state.trainers}
            share_batch_statistics(by_network, lambda values: values)
        make_moments(state)
        held = live.now.constant
        pixels, labels = torch.zeros(images, 3, model.resolution, model.resolution, dtype=torch.uint8), torch.zeros(images)
        live.forget_peaks()
        reals = itertools.repeat((pixels, labels.long()))
        train_step(state, due_step(state), reals, reals if config.data.labels_per_class is not None else None)
        weights = [sum(parameter.nbytes for parameter in network.parameters()) for network in networks]
    return MemoryEstimate(
        state=held,
        gradients=max(weights),
        accumulates=accumulates,
        fixed=sum(weights) if world.size > 1 else 0,
        image=pixels[0].nbytes,
        peaks=tuple(Growth(constant, *rest) for rest, constant in live.peaks.items()),
    )


def probe_size(networks: list[nn.Module], multiplier: int) -> tuple[int, dict[int, Growth]]:
    """A number of images for the probe, and the numbers of rows by which tensors of images are told, with what they are for
    n images: n, and, where a reference batch goes through G before the others, its size and the images of a step of D, or of
    G, together."""
    sizes = {size for network in networks for tensor in network.state_dict().values() for size in tensor.shape}
    references = [len(network.reference.z) for network in networks if hasattr(getattr(network, "reference", None), "z")]
    for images in itertools.count(SMALLEST_PROBE):
        rows = {images: Growth(0, 1)}
        rows |= {size + many * images: Growth(size, many) for size in references for many in (1, multiplier)}
        factors = {largest_prime_factor(count) for count in rows}
        if len(factors) == len(rows) and not any(factor < 100 or size % factor == 0 for factor in factors for size in sizes):
            return images, rows
    raise AssertionError("there is always a larger prime number")


def largest_prime_factor(number: int) -> int:
    """Of a number of 2 or more."""
    for factor in range(2, math.isqrt(number) + 1):
        if number % factor == 0:
            return largest_prime_factor(number // factor)
    return number


def make_moments(state: TrainState) -> None:
    """Give the optimizers the state that they have from the end of the first step on. Mutates them."""
    for trainer in state.trainers:
        for parameter in trainer.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)


def due_step(state: TrainState) -> int:
    """A step at which every regularizer is due."""
    return math.lcm(*(regularizer.interval for trainer in state.trainers for regularizer in trainer.regularizers))


@contextmanager
def fake_tensors() -> Iterator["LiveBytes"]:
    """Context in which new tensors have no data, and what is alive of them is counted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # copy.deepcopy looks at it
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
            yield live


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are alive. Those whose size is a multiple of one of `rows` grow with the number of
    images as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Growth] = {}
        self.alive: set[int] = set()
        self.now = Growth(0)
        self.forget_peaks()

    def forget_peaks(self) -> None:
        """Look for peaks from here on."""
        self.peaks: dict[tuple[int, int], int] = {self.now[1:]: self.now.constant}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # the host reads a number: there is none
            return 0.0 if args[0].is_floating_point() else 0
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.follow(value.untyped_storage())
        return out

    def follow(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until its end, if it is new."""
        key = storage._cdata
        if key not in self.alive:
            size = self.growth(storage.nbytes())
            self.alive.add(key)
            self.add(size, 1)
            weakref.finalize(storage, self.end, key, size)
            self.peaks[self.now[1:]] = max(self.peaks.get(self.now[1:], 0), self.now.constant)

    def end(self, key: int, size: Growth) -> None:
        """A storage has been freed."""
        self.alive.discard(key)
        self.add(size, -1)

    def add(self, size: Growth, sign: int) -> None:
        """Add or subtract what is alive."""
        self.now = Growth(*(total + sign * part for total, part in zip(self.now, size, strict=True)))

    def growth(self, size: int) -> Growth:
        """How the bytes of a storage depend on the number of images."""
        for rows, grown in self.rows.items():
            if size % rows**2 == 0:
                return Growth(0, 0, size // rows**2)
            if size % rows == 0:
                return Growth(*(size // rows * part for part in grown))
        return Growth(size)


# What fits


def largest_micro_batch(estimate: MemoryEstimate, batch: int, ranks: int, memory: int) -> int | None:
    """The largest micro-batch of all ranks together that divides the batch, gives each rank equally many images, two or
    more, and needs at most `memory` bytes of each, less the headroom. None: there is none."""
    usable = (1 - HEADROOM) * memory
    for accumulation in range(1, batch // (2 * ranks) + 1):
        images, rest = divmod(batch, accumulation * ranks)
        if rest == 0 and estimate.peak(images, accumulation) <= usable:
            return images * ranks
    return None


def usable_memory(device: torch.device) -> int | None:
    """Bytes that this process may use: of a CUDA device those that are free or its own already, otherwise its share of main
    memory. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    memory = total_memory()
    return None if memory is None else memory // local_world_size()
