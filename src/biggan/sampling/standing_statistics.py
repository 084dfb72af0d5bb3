"""Standing statistics of batch norm for several truncation thresholds, and between them (BigGAN appendix C.1).

Shapes: T thresholds, C channels.
"""

import bisect
from typing import NamedTuple

from torch import Tensor


class StatisticsTable(NamedTuple):
    """Standing statistics for several truncations: those, ascending, and {name of a buffer: values (T, C)}. The last set is
    that of untruncated sampling too."""

    truncations: tuple[float, ...]
    values: dict[str, Tensor]

    def covers(self, truncation: float | None) -> bool:
        """Whether statistics for this truncation are here, or lie between two that are."""
        return truncation is None or self.truncations[0] <= truncation <= self.truncations[-1]

    def at(self, truncation: float | None) -> dict[str, Tensor]:
        """{name: (C,)}; between two sets, 1 - f times the lower plus f times the upper, f the share of the way up.

        DEVIATION from pytorch-pretrained-BigGAN, which swaps these two weights (docs/papers/biggan.md, "Truncation,
        sampling, and standing statistics")."""
        if truncation is None:
            return {name: values[-1] for name, values in self.values.items()}
        upper = min(bisect.bisect_right(self.truncations, truncation), len(self.truncations) - 1)
        below, above = self.truncations[upper - 1], self.truncations[upper]
        share = (truncation - below) / (above - below)
        return {name: (1 - share) * values[upper - 1] + share * values[upper] for name, values in self.values.items()}
