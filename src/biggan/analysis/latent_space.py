"""What a generator does between and beside its training images: paths through its latents and classes, blends of classes,
the real images nearest to its own, the classes that leak into each other, and whom its discriminator believes.

Source: BigGAN sections 4 and 4.2 (docs/papers/biggan.md, "Collapse analysis", "Qualitative findings"). Shapes: N images,
Z latent, K classes, F features."""

import math

import torch
from torch import Tensor

from biggan.runtime.errors import ConfigError
from biggan.sampling.sampler import Sampler


def spherical(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """(steps, Z) from the one to the other at an even angle, lengths changing evenly, so that points on the way are as long
    as latents are."""
    shares = torch.linspace(0, 1, steps)[:, None]
    gradient_norms = first_Z.norm(), second_Z.norm()
    if min(gradient_norms) < 1e-6:
        return linear(first_Z, second_Z, steps)
    directions = first_Z / gradient_norms[0], second_Z / gradient_norms[1]
    angle = torch.arccos((directions[0] @ directions[1]).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return linear(first_Z, second_Z, steps)
    way = (((1 - shares) * angle).sin() * directions[0] + (shares * angle).sin() * directions[1]) / angle.sin()
    return way * ((1 - shares) * gradient_norms[0] + shares * gradient_norms[1])


def linear(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """(steps, Z) along the straight line."""
    shares = torch.linspace(0, 1, steps)[:, None]
    return (1 - shares) * first_Z + shares * second_Z


WAYS = {"spherical": spherical, "linear": linear}


def paths(
    sampler: Sampler, what: str, classes: list[int], *, rows: int, steps: int, way: str, truncation: float | None, seed: int
) -> Tensor:
    """uint8 images (rows, steps, 3, R, R). Row r goes from latent 2r to latent 2r + 1 ("latents"; the class stays), from one
    of the classes to the next ("classes"; the latent stays), or both."""
    sampler.set_statistics(truncation)
    latents, weights, count = [], [], len(sampler.class_names)
    for row in range(rows):
        ends = [sampler.latent(seed, 2 * row + end, truncation) for end in (0, 1)]
        names = [classes[(row + end) % len(classes)] for end in (0, 1)]
        ends = ends if what != "classes" else ends[:1] * 2
        names = names if what != "latents" else names[:1] * 2
        latents.append(WAYS[way](*ends, steps))
        weights.append(linear(*torch.eye(count)[names], steps))
    return chunked(sampler, torch.cat(latents), torch.cat(weights)).unflatten(0, (rows, steps))


def blends(sampler: Sampler, weights_K: Tensor, n: int, *, truncation: float | None, seed: int) -> Tensor:
    """uint8 images (n, 3, R, R) of a mixture of classes, and fresh latents."""
    sampler.set_statistics(truncation)
    z_NZ = torch.stack([sampler.latent(seed, index, truncation) for index in range(n)])
    return chunked(sampler, z_NZ, weights_K.expand(n, -1))


def chunked(sampler: Sampler, z_NZ: Tensor, weights_NK: Tensor, size: int = 64) -> Tensor:
    """`Sampler.blended` in batches."""
    parts = zip(z_NZ.split(size), weights_NK.split(size), strict=True)
    return torch.cat([sampler.blended(z, weights) for z, weights in parts])


def parse_class_weights(text: str, sampler: Sampler) -> Tensor:
    """(K,) of "cat:0.6,dog:0.4"; weights are divided by their sum. Raises ConfigError on unknown classes and bad weights."""
    weights = torch.zeros(len(sampler.class_names))
    for word in text.split(","):
        name, separator, number = word.strip().rpartition(":")
        try:
            value = float(number) if separator else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ConfigError(f"--classes {text}: give each class and its weight, such as cat:0.6,dog:0.4")
        weights[sampler.class_numbers([name])[0]] += value
    if not weights.sum() > 0:
        raise ConfigError(f"--classes {text}: the weights must have a sum above 0")
    return weights / weights.sum()
