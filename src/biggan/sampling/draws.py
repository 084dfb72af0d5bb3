"""Random numbers for a batch of latents: all from one generator, or each row from a generator of its own.

A row with its own generator gets, to the bit, the numbers that this generator gives to a batch of one row.
Shapes: N rows, C columns.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from biggan.runtime.errors import ConfigError

SMALLEST_TRUNCATION = 0.001

VECTORIZED = 16
"""torch.randn draws fewer numbers than this one by one: any number of calls for fewer gives parts of one stream of single
numbers. More of them than are needed may be drawn at once, if the generator is not used afterwards."""


class Draws(Protocol):
    """A source of independent random numbers (N, C), float32 on the CPU."""

    def normal(self, shape: tuple[int, int]) -> Tensor:
        """N(0, 1)."""
        ...

    def uniform(self, shape: tuple[int, int]) -> Tensor:
        """Uniform in [0, 1)."""
        ...

    def integers(self, low: int, high: int, shape: tuple[int, int]) -> Tensor:
        """Integers from low to high - 1, each with the same probability."""
        ...

    def truncated_normal(self, shape: tuple[int, int], threshold: float | Tensor | None, *, is_last: bool = True) -> Tensor:
        """N(0, 1), every value drawn again until it is at most `threshold` away from 0 (a number, or a tensor (N, 1); None:
        no truncation). Values inside the threshold keep their first draw, so one seed gives related values for all
        thresholds. `is_last`: nothing else is drawn from this source afterwards.

        Raises ConfigError on a threshold below 0.001, for which drawing again would hardly end."""
        ...


class BatchDraws:
    """All rows from one generator."""

    def __init__(self, rng: torch.Generator) -> None:
        self.rng = rng

    def normal(self, shape: tuple[int, int]) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def uniform(self, shape: tuple[int, int]) -> Tensor:
        return torch.rand(shape, generator=self.rng)

    def integers(self, low: int, high: int, shape: tuple[int, int]) -> Tensor:
        return torch.randint(low, high, shape, generator=self.rng).float()

    def truncated_normal(self, shape: tuple[int, int], threshold: float | Tensor | None, *, is_last: bool = True) -> Tensor:
        """In rounds over all values together."""
        z = self.normal(shape)
        if threshold is None:
            return z
        check_threshold(threshold)
        outside = z.abs() > threshold
        while count := int(outside.sum()):
            z[outside] = torch.randn(count, generator=self.rng)
            outside = z.abs() > threshold
        return z


class RowDraws:
    """Each row from a generator of its own."""

    def __init__(self, rngs: Sequence[torch.Generator]) -> None:
        self.rngs = rngs

    def normal(self, shape: tuple[int, int]) -> Tensor:
        return self.fill(torch.empty(shape), lambda row, rng: row.normal_(generator=rng))

    def uniform(self, shape: tuple[int, int]) -> Tensor:
        return self.fill(torch.empty(shape), lambda row, rng: row.uniform_(generator=rng))

    def integers(self, low: int, high: int, shape: tuple[int, int]) -> Tensor:
        values = torch.empty(shape, dtype=torch.int64)
        return self.fill(values, lambda row, rng: row.random_(low, high, generator=rng)).float()

    def fill(self, values: Tensor, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Call `draw(row, generator)` for every row, which it fills; returns the values."""
        assert len(values) == len(self.rngs)
        for row, rng in zip(values.unbind(), self.rngs, strict=True):
            draw(row, rng)
        return values

    def truncated_normal(self, shape: tuple[int, int], threshold: float | Tensor | None, *, is_last: bool = True) -> Tensor:
        """In rounds over all rows; the last few values of a row at once, from a stream."""
        z = self.normal(shape)
        if threshold is None:
            return z
        check_threshold(threshold)
        limits_N1 = torch.as_tensor(threshold, dtype=torch.float32).expand(shape[0], 1).numpy()
        values, stream = z.numpy(), NumberStream(float(limits_N1.min()))
        places = np.flatnonzero(np.abs(values) > limits_N1)  # of values that are outside, counted through all rows
        while len(places):
            rows = places // shape[1]
            counts = np.bincount(rows, minlength=len(z)).tolist()
            drawn = torch.empty(len(places))
            for part, count, rng, limit in zip(
                drawn.split(counts), counts, self.rngs, limits_N1[:, 0].tolist(), strict=True
            ):
                if count >= VECTORIZED or (count and not is_last):
                    part.normal_(generator=rng)
                elif count:
                    part.numpy()[:] = stream.draw_inside(count, limit, rng)
            values.reshape(-1)[places] = drawn.numpy()
            places = places[np.abs(drawn.numpy()) > limits_N1[rows, 0]]
        return z


class NumberStream:
    """Normal numbers drawn one by one, many in a call."""

    def __init__(self, smallest_limit: float) -> None:
        """`smallest_limit`: of those that numbers will be wanted within."""
        length = VECTORIZED // 4 + math.ceil(
            VECTORIZED / 2 / math.erf(smallest_limit / math.sqrt(2))
        )  # enough for most rows
        self.numbers = torch.empty(length, 2)[:, 0]  # which is not contiguous, so torch draws them one by one

    def draw_inside(self, count: int, limit: float, rng: torch.Generator) -> list[float]:
        """Values at most `limit` away from 0: those that rounds would end with, in each of which all values outside are
        drawn again, in order. Rounds are a queue of values: each number is for the first, which goes to the end of the queue
        if the number is outside. The generator may be left after more numbers than were needed."""
        values, queue = [0.0] * count, deque(range(count))
        while queue:
            for number in self.numbers.normal_(generator=rng).tolist():
                index = queue.popleft()
                if abs(number) > limit:
                    queue.append(index)
                    continue
                values[index] = number
                if not queue:
                    break
        return values


def check_threshold(threshold: float | Tensor) -> None:
    """Raises ConfigError below 0.001."""
    smallest = torch.as_tensor(threshold).min().item()
    if not smallest >= SMALLEST_TRUNCATION:
        raise ConfigError(
            f"the truncation is {smallest:.2g} standard deviations of the latents, but must be at least "
            f"{SMALLEST_TRUNCATION}: use a larger one"
        )
