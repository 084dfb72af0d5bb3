"""What goes into a generator: priors over z, truncated sampling, labels.

Source: BigGAN sections 2 and 3.1; spec sections 1 and 8. Every draw takes its generator of random numbers.
Shapes: N batch, Z latent.
"""

import torch
from torch import Tensor

from biggan.errors import ConfigError


def draw_latents(shape: tuple[int, ...], generator: torch.Generator, truncation: float | None = None) -> Tensor:
    """z ~ N(0, I), float32 on the CPU; with `truncation` t every coordinate is drawn again until |z_i| <= t.

    Coordinates that need no second draw keep their value, so one seed gives related images at all truncations.
    Raises ConfigError unless t > 0.
    """
    z = torch.randn(shape, generator=generator)
    if truncation is None:
        return z
    if not truncation > 0:
        raise ConfigError(f"truncation={truncation} must be above 0: smaller is more typical, leave it out for none")
    outside = z.abs() > truncation
    while count := int(outside.sum()):
        z[outside] = torch.randn(count, generator=generator)
        outside = z.abs() > truncation
    return z


def draw_labels(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Classes (N,) int64, uniform: the paper's choice for generated images, whatever the balance of the data."""
    return torch.randint(num_classes, (count,), generator=generator)
