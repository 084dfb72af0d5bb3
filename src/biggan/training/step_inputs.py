"""What one optimizer step is given: latents and labels in one buffer, so that one copy brings them to the device, and real
images.

Latents are addressed by (seed, purpose, step, index), so a thread may draw those of coming steps while the device works:
they are the same. Shapes: A micro-batches, N batch, Z latent, R resolution.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from biggan.runtime.rng import addressed_rng
from biggan.sampling.latents import Prior, draw_labels
from biggan.training.batch_plan import BatchPlan

Batch = tuple[Tensor, Tensor]  # uint8 images (N, 3, R, R) and their classes (N,) int64

DISCRIMINATOR_DRAW, GENERATOR_DRAW = "discriminator turn", "generator turn"
"""Names of the random streams. They are part of every seed: changing one changes every run."""

STEPS_AHEAD = 2
"""How many generator steps a thread draws in advance."""


class Draw(NamedTuple):
    """Latents z (A, N, Z) and labels y (A, N) int64 of one optimizer step, by micro-batch, and the number of its generator
    step, a float32 scalar."""

    z: Tensor
    y: Tensor
    step: Tensor


class StepInputs(NamedTuple):
    """Inputs of one optimizer step: the packed draw (bytes,) uint8, and the micro-batches of real images and of labeled real
    images that the step takes (none where it takes none)."""

    draw: Tensor
    real: tuple[Batch, ...] = ()
    labeled: tuple[Batch, ...] = ()

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.draw, *(tensor for batch in (*self.real, *self.labeled) for tensor in batch)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "StepInputs":
        """The inputs with every tensor replaced by a function of it."""
        real, labeled = (tuple((function(x), function(y)) for x, y in batches) for batches in self[1:])
        return StepInputs(function(self.draw), real, labeled)


def pack_draw(draw: Draw, *, pin: bool) -> Tensor:
    """A draw as one buffer (bytes,) uint8 on the CPU, in pinned memory on request."""
    step = torch.stack([draw.step, torch.zeros(())])  # 8 bytes, so that whole numbers and floats are both aligned
    flat = [draw.y.flatten(), step, draw.z.flatten()]
    buffer = torch.empty(sum(values.nbytes for values in flat), dtype=torch.uint8, pin_memory=pin)
    start = 0
    for values in flat:
        buffer[start : start + values.nbytes].view(values.dtype).copy_(values)
        start += values.nbytes
    return buffer


def unpack_draw(buffer: Tensor, shape: tuple[int, int, int]) -> Draw:
    """The draw in a buffer, without a copy; `shape` is that of z, (A, N, Z)."""
    labels = shape[0] * shape[1] * 8
    y, step, z = buffer[:labels], buffer[labels : labels + 8], buffer[labels + 8 :]
    return Draw(z.view(torch.float32).view(shape), y.view(torch.int64).view(shape[:2]), step.view(torch.float32)[0])


class LatentSource:
    """Latents and labels for the optimizer steps of a run, this rank's share of each micro-batch, packed. Every rank draws
    them all, so that they do not depend on the number of ranks. With `ahead`, a thread draws those of coming steps into
    pinned memory."""

    def __init__(self, plan: BatchPlan, prior: Prior, latent_dim: int, num_classes: int, *, ahead: bool) -> None:
        self.plan, self.prior, self.latent_dim, self.num_classes, self.ahead = plan, prior, latent_dim, num_classes, ahead
        self.pool = ThreadPoolExecutor(1, "latents") if ahead else None
        self.pending: dict[tuple[int, str, int], Future[Tensor]] = {}

    def shape(self, purpose: str) -> tuple[int, int, int]:
        """The shape (A, N, Z) of the latents of one optimizer step of either network, on one rank."""
        multiplier = self.plan.generator_batch_multiplier if purpose == GENERATOR_DRAW else 1
        return self.plan.accumulation, multiplier * self.plan.micro_batch // self.plan.world.size, self.latent_dim

    def get(self, step: int, purpose: str, index: int) -> Tensor:
        """The packed draw of optimizer step number `index` of its kind in generator step `step`, on the CPU."""
        wanted = (step, purpose, index)
        if self.pool is None:
            return self.packed(*wanted)
        coming = self.addresses_from(wanted)
        self.pending = {address: self.pending[address] for address in coming if address in self.pending}
        for address in coming:
            if address not in self.pending:
                self.pending[address] = self.pool.submit(self.packed, *address)
        return self.pending.pop(wanted).result()

    def addresses_from(self, first: tuple[int, str, int]) -> list[tuple[int, str, int]]:
        """This address and those needed after it, up to STEPS_AHEAD generator steps."""
        step, purpose, index = first
        turns = [(DISCRIMINATOR_DRAW, number) for number in range(self.plan.discriminator_steps)]
        turns += [(GENERATOR_DRAW, number) for number in range(self.plan.generator_steps)]
        addresses = [(step + number, *turn) for number in range(STEPS_AHEAD) for turn in turns]
        return addresses[turns.index((purpose, index)) :]

    def packed(self, step: int, purpose: str, index: int) -> Tensor:
        """One draw, made now."""
        return pack_draw(self.draw(step, purpose, index), pin=self.ahead)

    def draw(self, step: int, purpose: str, index: int) -> Draw:
        """Fresh latents and labels of one optimizer step, on the CPU."""
        plan, (accumulation, size, _) = self.plan, self.shape(purpose)
        rng, count = addressed_rng(plan.seed, purpose, step, index), accumulation * size * plan.world.size
        z = self.prior.draw((count, self.latent_dim), rng, step=step)
        y = draw_labels(count, self.num_classes, rng)
        z, y = (values.unflatten(0, (accumulation, plan.world.size, size))[:, plan.world.rank] for values in (z, y))
        return Draw(z, y, torch.tensor(float(step)))
