"""How often a classifier is wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from biggan.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Testing the averaged discriminator as a classifier while it is trained (see train.discriminator_average)."""

    test: str | None = None
    """A data source of images and classes that the run is not trained on; None: no test."""
    every: int = 1000
    """Steps between tests; there is one at the end too."""

    def check(self) -> None:
        """Raises ConfigError on an interval that makes no sense."""
        if self.every < 1:
            raise ConfigError(f"classify.every={self.every} must be at least 1")


class Mistakes(NamedTuple):
    """How many of how many images were called another class than theirs."""

    wrong: int
    images: int

    @property
    def percent(self) -> float:
        return 100 * self.wrong / self.images


def mistakes(logits_of: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Mistakes:
    """Of `logits_of`, uint8 images (N, 3, R, R) -> class logits (N, K), over batches of images and classes (N,)."""
    wrong = images = 0
    for x, y_N in batches:
        wrong += int((logits_of(x).argmax(1).cpu() != y_N.cpu()).sum())
        images += len(y_N)
    return Mistakes(wrong, images)
