"""Standing statistics of batch normalization for several truncations, stored with a model.

Source: BigGAN appendix C.1. Shapes: T truncations, C channels.
"""

import bisect
from typing import NamedTuple

from torch import Tensor


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
