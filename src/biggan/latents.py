"""What goes into a generator: priors over z, truncated sampling, labels.

Source: BigGAN sections 2 and 3.1; spec sections 1 and 8. Every draw takes its generator of random numbers.
Shapes: N batch, Z latent.
"""

import torch
from torch import Tensor

from biggan.errors import ConfigError

SMALLEST_TRUNCATION = 0.001


def draw_latents(shape: tuple[int, ...], generator: torch.Generator, truncation: float | None = None) -> Tensor:
    """z ~ N(0, I), float32 on the CPU; with `truncation` t every coordinate is drawn again until |z_i| <= t.

    Coordinates that need no second draw keep their value, so one seed gives related images at all truncations.
    Raises ConfigError below 0.001, where the draws would not end; the paper's smallest is 0.04.
    """
    z = torch.randn(shape, generator=generator)
    if truncation is None:
        return z
    check_truncation(truncation)
    outside = z.abs() > truncation
    while count := int(outside.sum()):
        z[outside] = torch.randn(count, generator=generator)
        outside = z.abs() > truncation
    return z


def check_truncation(truncation: float | None) -> None:
    """Raises ConfigError below 0.001, and on NaN."""
    if truncation is not None and not truncation >= SMALLEST_TRUNCATION:
        raise ConfigError(f"truncation={truncation} must be at least {SMALLEST_TRUNCATION}: leave it out for none")


def draw_labels(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Classes (N,) int64, uniform: the paper's choice for generated images, whatever the balance of the data."""
    return torch.randint(num_classes, (count,), generator=generator)
