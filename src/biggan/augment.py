"""Differentiable augmentation: D sees real and generated images changed alike, and G's gradient comes through the change.

Source: Zhao et al. 2020, DiffAugment; the changes themselves are in nn/transforms. For small data sets, which D would else
learn by heart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

from torch import Tensor

from biggan.errors import ConfigError
from biggan.nn.transforms import brightness, contrast, cutout, saturation, translate

Augmentation = Callable[[Tensor], Tensor]
CHANGES: dict[str, tuple[Augmentation, ...]] = {
    "colour": (brightness, saturation, contrast),
    "translation": (translate,),
    "cutout": (cutout,),
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What D sees of every image."""

    policy: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    """Changes, in this order; none: images as they are."""

    def check(self) -> None:
        """Raises ConfigError where a change comes twice."""
        if len(set(self.policy)) < len(self.policy):
            raise ConfigError(f"augment.policy={' '.join(self.policy)}: each change once")

    def augmentation(self) -> Augmentation:
        """(N, 3, R, R) -> the same, changed at random."""
        return partial(apply, changes=[change for name in self.policy for change in CHANGES[name]])


def apply(x: Tensor, changes: list[Augmentation]) -> Tensor:
    """One change after the other, in the layout that the images came in."""
    return reduce(lambda image, change: change(image), changes, x)  # (N, 3, R, R)
