"""Random changes of images through which gradients pass, drawn anew for every image from torch's own generator.

Source: Zhao et al. 2020, DiffAugment (its color, translation and cutout, with their published ranges). Each takes and gives
(N, 3, H, W), any range of values. Shapes: N batch, C channels, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from biggan.runtime.errors import ConfigError


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """(N, 1, 1, 1) between `low` and `high`."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(low, high)


def flip(x: Tensor) -> Tensor:
    """Half of the images mirrored left to right."""
    return torch.where(uniform(x, 0, 1) < 0.5, x, x.flip(3))  # (N, C, H, W)


def brightness(x: Tensor) -> Tensor:
    """A number between -0.5 and 0.5 added."""
    return x + uniform(x, -0.5, 0.5)  # (N, C, H, W)


def saturation(x: Tensor) -> Tensor:
    """The distance from gray times 0 to 2."""
    gray = x.mean(1, keepdim=True)  # (N, 1, H, W)
    return gray + (x - gray) * uniform(x, 0, 2)  # (N, C, H, W)


def contrast(x: Tensor) -> Tensor:
    """The distance from the mean of the image times 0.5 to 1.5."""
    mean = x.mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return mean + (x - mean) * uniform(x, 0.5, 1.5)  # (N, C, H, W)


def translate(x: Tensor, share: float = 1 / 8) -> Tensor:
    """Shifted by whole pixels, up to a share of the size either way; what comes in is 0."""
    height, width = x.shape[2:]
    most_y, most_x = round(height * share), round(width * share)
    down = torch.randint(-most_y, most_y + 1, (len(x), 1, 1), device=x.device)
    right = torch.randint(-most_x, most_x + 1, (len(x), 1, 1), device=x.device)
    rows = torch.arange(height, device=x.device).view(1, -1, 1) - down + most_y  # (N, H, 1), in the padded image
    columns = torch.arange(width, device=x.device).view(1, 1, -1) - right + most_x  # (N, 1, W)
    padded = F.pad(x, (most_x, most_x, most_y, most_y))  # (N, C, H + 2, W + 2)
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)  # (N, C, H, W)


def cutout(x: Tensor, share: float = 1 / 2) -> Tensor:
    """A square of that share of the size set to 0, its center anywhere, cut at the border."""
    height, width = x.shape[2:]
    tall, wide = round(height * share), round(width * share)
    top = torch.randint(0, height + (1 - tall % 2), (len(x), 1, 1), device=x.device) - tall // 2
    left = torch.randint(0, width + (1 - wide % 2), (len(x), 1, 1), device=x.device) - wide // 2
    rows = torch.arange(height, device=x.device).view(1, -1, 1)
    columns = torch.arange(width, device=x.device).view(1, 1, -1)
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)  # (N, H, W)
    return x * ~inside[:, None]  # (N, C, H, W)


Augmentation = Callable[[Tensor], Tensor]

CHANGES: dict[str, tuple[Augmentation, ...]] = {
    "color": (brightness, saturation, contrast),
    "translation": (translate,),
    "cutout": (cutout,),
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What D sees of every image."""

    policy: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """Changes, in this order; none: images as they are."""

    def check(self) -> None:
        """Raises ConfigError where a change comes twice."""
        if len(set(self.policy)) < len(self.policy):
            raise ConfigError(f"augment.policy={' '.join(self.policy)}: each change once")

    def build(self) -> Augmentation:
        """(N, 3, R, R) -> the same, changed at random."""
        return partial(apply, changes=[change for name in self.policy for change in CHANGES[name]])


def apply(x: Tensor, changes: list[Augmentation]) -> Tensor:
    """One change after the other, in the layout that the images came in."""
    return reduce(lambda image, change: change(image), changes, x)  # (N, 3, R, R)
