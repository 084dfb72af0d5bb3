"""Standing statistics of batch normalization: collected over many batches, and stored with a model for several truncations.

Source: BigGAN appendix C.1. Shapes: T truncations, C channels.
"""

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.nn.batch_norm import BatchNorm


@contextmanager
def collect_standing_statistics(
    module: nn.Module, gather_batches: Callable[[Tensor], Tensor] | None = None
) -> Iterator[None]:
    """Context in which every BatchNorm uses batch statistics and records them; on leaving it, the standing statistics are
    set to the means of those recorded, with equal weight for each forward pass. Mutates the buffers only.

    `gather_batches` maps the values of this rank (local batches, C) to those of all ranks (all batches, C), in an order that
    does not depend on the number of ranks; None if this process made all forward passes.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.collected_statistics = []
    try:
        yield
        for layer in layers:
            assert layer.collected_statistics, "no forward pass was made while collecting statistics"
            means, variances = zip(*layer.collected_statistics, strict=True)
            for buffer, values in ((layer.standing_mean, means), (layer.standing_variance, variances)):
                batch_values = torch.stack(values)  # (local batches, C)
                buffer.copy_((batch_values if gather_batches is None else gather_batches(batch_values)).mean(0))
    finally:
        for layer in layers:
            layer.collected_statistics = None


class StatisticsTable(NamedTuple):
    """Standing statistics for several truncations; the ones for the largest truncation serve untruncated sampling too."""

    truncations: tuple[float, ...]
    """In ascending order."""
    values: dict[str, Tensor]
    """{name of a buffer of the generator: (T, C)}."""

    def covers(self, truncation: float | None) -> bool:
        """Whether the table has statistics for this truncation, or for a smaller and a larger one to interpolate."""
        return truncation is None or self.truncations[0] <= truncation <= self.truncations[-1]

    def at(self, truncation: float | None) -> dict[str, Tensor]:
        """Statistics {name of a buffer: (C,)} for this truncation. Between two truncations of the table, they are
        interpolated: 1 - f times the lower set plus f times the upper one, f the fraction of the way from lower to upper.

        DEVIATION from pytorch-pretrained-BigGAN, which swaps these two weights (docs/papers/biggan.md, "Truncation,
        sampling, and standing statistics")."""
        if truncation is None:
            return {name: values[-1] for name, values in self.values.items()}
        upper = min(bisect.bisect_right(self.truncations, truncation), len(self.truncations) - 1)
        below, above = self.truncations[upper - 1], self.truncations[upper]
        fraction = (truncation - below) / (above - below)
        return {name: (1 - fraction) * values[upper - 1] + fraction * values[upper] for name, values in self.values.items()}
