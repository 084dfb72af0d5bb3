"""Differentiable augmentation: random changes of images, of every image independently, through which gradients flow.

Source: Zhao et al. 2020, DiffAugment: color, translation and cutout with their published ranges. Each function takes and
returns images (N, C, H, W) with values in any range. Random numbers come from torch's global generator of the device.
Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from biggan.runtime.errors import ConfigError


def uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Random numbers (N, 1, 1, 1), uniform between `low` and `high`, one for each image of x."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(low, high)


def flip(x: Tensor) -> Tensor:
    """Images flipped horizontally with probability 1/2."""
    return torch.where(uniform(x, 0, 1) < 0.5, x, x.flip(3))  # (N, C, H, W)


def brightness(x: Tensor) -> Tensor:
    """Images plus a number between -0.5 and 0.5."""
    return x + uniform(x, -0.5, 0.5)  # (N, C, H, W)


def saturation(x: Tensor) -> Tensor:
    """Images whose distance from gray is multiplied by a number between 0 and 2."""
    gray = x.mean(1, keepdim=True)  # (N, 1, H, W)
    return gray + (x - gray) * uniform(x, 0, 2)  # (N, C, H, W)


def contrast(x: Tensor) -> Tensor:
    """Images whose distance from their mean value is multiplied by a number between 0.5 and 1.5."""
    mean = x.mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return mean + (x - mean) * uniform(x, 0.5, 1.5)  # (N, C, H, W)


def translate(x: Tensor, share: float = 1 / 8) -> Tensor:
    """Images shifted by whole pixels, up to a fraction `share` of the size in each direction, and padded with zeros."""
    height, width = x.shape[2:]
    most_y, most_x = round(height * share), round(width * share)
    down = torch.randint(-most_y, most_y + 1, (len(x), 1, 1), device=x.device)
    right = torch.randint(-most_x, most_x + 1, (len(x), 1, 1), device=x.device)
    return Shift.apply(x, down, right, most_y, most_x)  # (N, C, H, W)


class Shift(torch.autograd.Function):
    """Images (N, C, H, W), shifted by (N, 1, 1) whole pixels down and right, at most `most_y` and `most_x` either way, and
    padded with zeros.

    Its gradient is the shift back, which reads every pixel once, as the shift does. The gradient of indexing, which torch
    would take, adds pixels one by one: slowly, and on a GPU in no fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, right: Tensor, most_y: int, most_x: int) -> Tensor:
        """Images x (N, C, H, W) moved by `down` and `right` (N, 1, 1) pixels, at most `most_y` and `most_x` either way."""
        ctx.save_for_backward(down, right)
        ctx.most = most_y, most_x
        count, channels, height, width = x.shape
        padded = F.pad(x, (most_x, most_x, most_y, most_y))  # (N, C, H + 2 most_y, W + 2 most_x)
        image = torch.arange(count, device=x.device).view(-1, 1, 1)
        rows = torch.arange(height, device=x.device).view(1, -1, 1) - down + most_y  # (N, H, 1), row in the padded image
        columns = torch.arange(width, device=x.device).view(1, 1, -1) - right + most_x  # (N, 1, W)
        pixels = (image * padded.shape[2] + rows) * padded.shape[3] + columns  # (N, H, W)
        moved = padded.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixels.flatten())  # (N H W, C)
        return moved.view(count, height, width, channels).permute(0, 3, 1, 2)  # (N, C, H, W)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        down, right = ctx.saved_tensors
        return Shift.apply(gradient, -down, -right, *ctx.most), None, None, None, None


def cutout(x: Tensor, share: float = 1 / 2) -> Tensor:
    """Images with a rectangle set to 0: a fraction `share` of the size in each direction, with a random center, cropped at
    the border."""
    height, width = x.shape[2:]
    tall, wide = round(height * share), round(width * share)
    top = torch.randint(0, height + (1 - tall % 2), (len(x), 1, 1), device=x.device) - tall // 2
    left = torch.randint(0, width + (1 - wide % 2), (len(x), 1, 1), device=x.device) - wide // 2
    rows = torch.arange(height, device=x.device).view(1, -1, 1)
    columns = torch.arange(width, device=x.device).view(1, 1, -1)
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)  # (N, H, W)
    return x * ~inside[:, None]  # (N, C, H, W)


Augmentation = Callable[[Tensor], Tensor]

POLICIES: dict[str, tuple[Augmentation, ...]] = {
    "color": (brightness, saturation, contrast),
    "translation": (translate,),
    "cutout": (cutout,),
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Differentiable augmentation of all images that the discriminator is given, real and generated."""

    policy: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """Changes to apply, in this order; none: no augmentation."""

    def check(self) -> None:
        """Raises ConfigError where a change is named twice."""
        if len(set(self.policy)) < len(self.policy):
            raise ConfigError(f"augment.policy={' '.join(self.policy)}: each change once")

    def build(self) -> Augmentation:
        """The augmentation: images (N, 3, R, R) -> augmented images (N, 3, R, R)."""
        return partial(apply, changes=[change for name in self.policy for change in POLICIES[name]])


def apply(x: Tensor, changes: list[Augmentation]) -> Tensor:
    """The image batch after all changes, one after the other."""
    return reduce(lambda image, change: change(image), changes, x)  # (N, 3, R, R)
